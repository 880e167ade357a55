"""Which network addresses a delivery may connect to. Pure.

Subscribers choose where we post: without this rule they could make the server talk to the instance
metadata service or to other things that trust the network they are reached from.
"""

import ipaddress

METADATA = frozenset(
    ipaddress.ip_address(address) for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
)
"""Where clouds serve credentials to whoever asks; the last is Alibaba Cloud's."""

NAT64 = ipaddress.ip_network("64:ff9b::/96")
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
COMPATIBLE = ipaddress.ip_network("::/96")


def refusal(address: str, *, private_delivery: bool) -> str | None:
    """Why a delivery must not connect to this IP address, or None if it may.

    Link-local, metadata, multicast and unspecified addresses never; loopback and private ones only with
    `private_delivery`.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _embedded(ip) or ip
    if ip in METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return f"deliveries to {ip} are not allowed"
    if not private_delivery and (not ip.is_global or _is_site_s(ip)):
        return f"deliveries to the private address {ip} are not allowed by this server's settings"
    return None


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is reached by this one: ::ffff:169.254.169.254, say, and behind NAT64 or 6to4
    64:ff9b::169.254.169.254 and 2002:a9fe:a9fe::, reach what 169.254.169.254 reaches.
    """
    if ip in NAT64 or (ip in COMPATIBLE and int(ip) > 0xFFFF):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def _is_site_s(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Of a site's own, by rules that `is_global` does not have in every Python."""
    return isinstance(ip, ipaddress.IPv6Address) and (ip.is_site_local or ip in LOCAL_NAT64)
