"""Which addresses are public: each network of the registries, on both sides of its borders."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.addresses import is_public, literal, reached, read_address, read_network


def words(text: str) -> list[str]:
    return text.split()


# The first and the last address of what is not public, where its neighbours are.
NOT_PUBLIC = words("""
    0.0.0.0 0.255.255.255
    10.0.0.0 10.255.255.255
    100.64.0.0 100.127.255.255
    127.0.0.0 127.255.255.255
    168.63.129.16 168.63.129.16
    169.254.0.0 169.254.255.255
    172.16.0.0 172.31.255.255
    192.0.0.0 192.0.0.255
    192.0.2.0 192.0.2.255
    192.88.99.0 192.88.99.255
    192.168.0.0 192.168.255.255
    198.18.0.0 198.19.255.255
    198.51.100.0 198.51.100.255
    203.0.113.0 203.0.113.255
    224.0.0.0 255.255.255.255
    2001:1:: 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff
    2001:db8:: 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff
    3fff:: 3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff
""")

PUBLIC = words("""
    1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.0 169.253.255.255 172.15.255.255 172.32.0.0
    192.31.196.1 192.52.193.1 192.175.48.1 192.167.255.255 192.169.0.0 223.255.255.255
    2000:: 2001:200:: 2001:4860:4860::8888 2003:: 2606:4700::1111 2620:4f:8000::1 2a00:1450::1
    ::ffff:8.8.8.8 ::8.8.8.8 64:ff9b::8.8.8.8 2002:808:808:: 2002:808:808:1::1
    2001:0:4136:e378:8000:63bf:f7f7:f7f7
""")

# What stands alone, or has a neighbour that is not public either.
NEITHER = words("""
    0.0.0.0 255.255.255.255 169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192
    :: ::1 ::2 ::ffff 1:: 100:: 100::1 100:0:0:1::1 200::1 400:: 1000:: 1fff:ffff::
    4000:: 5f00::1 8000:: fbff:: fc00:: fd00:ec2::254 fdff:: fe00:: fe7f:: fe80:: fe80::1 febf::
    fec0:: feff:: ff00:: ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
    fe80::1%eth0 fe80::1%1 2001:4860:4860::8888%eth0 ::ffff:8.8.8.8%lo
    ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0
    ::ffff:0:8.8.8.8
    ::127.0.0.1 ::10.0.0.1 ::169.254.169.254
    64:ff9b::10.0.0.1 64:ff9b::127.0.0.1 64:ff9b::169.254.169.254 64:ff9b::a9fe:a9fe
    64:ff9b:0:1::8.8.8.8 64:ff9b:1::8.8.8.8 64:ff9b:1::10.0.0.1 64:ff9b:1:a9fe:0:a9fe::
    64:ff9b:1:ffff:ffff:ffff:ffff:ffff 64:ff9b:2::8.8.8.8
    2002:7f00:1:: 2002:a00:1:: 2002:a9fe:a9fe:: 2002:c0a8:101::1 2002:: 2002:ffff:ffff::
    2001:: 2001::1 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:0:4136:e378:8000:63bf:5601:5601
    2001:0:a00:1:8000:63bf:f7f7:f7f7 2001:0:7f00:1:8000:63bf:f7f7:f7f7
    2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1
""")


@pytest.mark.parametrize("text", NOT_PUBLIC + NEITHER)
def test_no_special_address_is_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_the_addresses_of_public_hosts_are(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    ("first", "last"), list(zip(NOT_PUBLIC[::2], NOT_PUBLIC[1::2], strict=True))
)
def test_what_lies_just_outside_of_a_border_is_public(first: str, last: str) -> None:
    outside = []
    # Before 0/8 there is nothing, behind 224/4 neither; what is before 2001:1:: is Teredo's.
    if first not in ("0.0.0.0", "2001:1::", "3fff::"):
        outside.append(ip_address(first) - 1)
    if last != "255.255.255.255":
        outside.append(ip_address(last) + 1)
    if first == "3fff::":
        outside = [ip_address("3ffe:ffff::")]
        outside.append(ip_address("3fff:1000::"))
    assert [str(each) for each in outside if not is_public(each)] == []


def test_the_border_of_what_has_been_given_out_is_sharp() -> None:
    assert not is_public(ip_address("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
    assert is_public(ip_address("2000::"))
    assert is_public(ip_address("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
    assert not is_public(ip_address("4000::"))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("::1", ["::1"]),
        ("::", ["::"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("::10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b::a00:1", ["10.0.0.1"]),
        ("2002:a00:1:2::3", ["10.0.0.1"]),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["65.54.227.120", "192.0.2.45"]),
        ("2001:4860::1", ["2001:4860::1"]),
    ],
)
def test_the_address_that_another_carries_is_found(text: str, ends: list[str]) -> None:
    assert [str(each) for each in reached(ip_address(text))] == ends


@given(st.integers(0, 2**32 - 1))
def test_an_address_that_carries_another_is_as_public_as_that(bits: int) -> None:
    carried = is_public(IPv4Address(bits))
    assert is_public(ip_address(f"::ffff:{IPv4Address(bits)}")) is carried
    assert is_public(ip_address(f"64:ff9b::{IPv4Address(bits)}")) is carried
    assert is_public(ip_address(f"2002:{bits >> 16:x}:{bits & 0xFFFF:x}::1")) is carried


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("127.65535", "127.0.255.255"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0xa9.0xfe.0xa9.0xfe", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254"),
        ("4294967295", "255.255.255.255"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_every_spelling_of_an_address_is_read(host: str, address: str) -> None:
    assert literal(host) == ip_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "example.com", "1.example", "127.0.0.1.example", "1.2.3.4.5", "256.0.0.1",
        "1.256.1", "127.16777216", "4294967296", "08.1.1.1", "0xg", "1..2", "-1", "1e3", "::g",
        "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_a_name(host: str) -> None:
    assert literal(host) is None


def test_what_cannot_be_read_is_no_address() -> None:
    assert read_address("example.com") is None
    assert read_address("127.1") is None
    with pytest.raises(ValueError, match="host bits"):
        read_network("10.0.0.1/8")
