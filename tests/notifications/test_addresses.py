"""Which network addresses a delivery may connect to."""

import pytest

from ebbtide.notifications.addresses import refusal


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("169.254.169.254", id="instance metadata"),
        pytest.param("169.254.170.2", id="container credentials"),
        pytest.param("::ffff:169.254.169.254", id="metadata, mapped into IPv6"),
        pytest.param("64:ff9b::a9fe:a9fe", id="metadata, behind NAT64"),
        pytest.param("2002:a9fe:a9fe::1", id="metadata, by 6to4"),
        pytest.param("::169.254.169.254", id="metadata, as compatible addresses were written"),
        pytest.param("fd00:ec2::254", id="metadata over IPv6"),
        pytest.param("fe80::1%eth0", id="link-local with a zone"),
        pytest.param("0.0.0.0", id="unspecified, which reaches this machine"),
        pytest.param("224.0.0.1", id="multicast"),
    ],
)
@pytest.mark.parametrize("private_delivery", [True, False])
def test_some_addresses_are_never_connected_to(address, private_delivery):
    assert refusal(address, private_delivery=private_delivery)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "10.0.0.7",
        "192.168.1.1",
        "::ffff:127.0.0.1",
        "fd12::1",
        "2002:7f00:1::",
        "fec0::1",
    ],
)
def test_private_addresses_need_the_setting(address):
    assert refusal(address, private_delivery=True) is None
    assert refusal(address, private_delivery=False)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111"])
def test_public_addresses_are_free(address):
    assert refusal(address, private_delivery=False) is None
