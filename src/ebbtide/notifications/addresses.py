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


def refusal(address: str, *, private_delivery: bool) -> str | None:
    """Why a delivery must not connect to this IP address, or None if it may.

    Link-local, metadata, multicast and unspecified addresses never; loopback and private ones only with
    `private_delivery`.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    # ::ffff:169.254.169.254 and, behind NAT64, 64:ff9b::169.254.169.254 reach what 169.254.169.254 reaches.
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip in METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return f"deliveries to {ip} are not allowed"
    if not ip.is_global and not private_delivery:
        return f"deliveries to the private address {ip} are not allowed by this server's settings"
    return None
