from __future__ import annotations

import pytest

from pgetpy.core.fleet.node_list import (
    Node,
    NodeList,
    node_of,
    read_cache_nodes,
    read_srv_by_cidr,
    srv_for_host,
)
from pgetpy.errors import BadSettingError


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("srv://cache.example.com", NodeList(srv="cache.example.com")),
        (" SRV://cache/ ", NodeList(srv="cache")),
        ("a", NodeList(names=("a",))),
        (
            "A.example.com.:80,10.0.0.7:8080 a.example.com",
            NodeList(names=("a.example.com", "10.0.0.7:8080")),
        ),
        ("[::1]:8080,[FE80::1]", NodeList(names=("[::1]:8080", "[fe80::1]"))),
    ],
)
def test_nodes_are_read(text: str, nodes: NodeList) -> None:
    assert read_cache_nodes(text, "--cache-nodes") == nodes


@pytest.mark.parametrize(
    "text",
    [
        "srv://",
        "srv://a b",
        "srv://a/b",
        "http://a",
        "a:0",
        "a:65536",
        "a:b",
        "::1",
        "[x]",
        ",",
        "a/b",
        "u@a",
        "a,-b",
    ],
)
def test_what_is_not_a_list_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(BadSettingError, match="cache-nodes"):
        read_cache_nodes(text, "--cache-nodes")


def test_a_node_with_tls_has_a_scheme_and_another_usual_port() -> None:
    text = "https://A.example.com:443/,https://a.example.com:8443,a.example.com:443,https://[::1]"
    names = ("https://a.example.com", "https://a.example.com:8443", "a.example.com:443")
    assert read_cache_nodes(text, "x").names == (*names, "https://[::1]")
    assert node_of(names[0], 0) == Node(names[0], "a.example.com", 443, 0, tls=True)
    assert node_of("https://[::1]:1", 0) == Node("https://[::1]:1", "::1", 1, 0, tls=True)


def test_a_node_has_a_host_and_a_port() -> None:
    assert node_of("a", 0) == Node("a", "a", 80, 0)
    assert node_of("[::1]:8080", 3) == Node("[::1]:8080", "::1", 8080, 3)


def test_the_smallest_network_that_contains_this_machine_says_the_srv_name() -> None:
    pairs = read_srv_by_cidr('{"10.0.0.0/8": "ten", "10.1.0.0/16": "near", "::/0": "six"}')
    found = [srv_for_host(ip, pairs) for ip in ("10.1.2.3", "10.2.0.1", "fd00::1", "192.0.2.1")]
    assert found == ["near", "ten", "six", ""]


@pytest.mark.parametrize("text", ["", "x", "[]", '{"10.0.0.0/33": "a"}', '{"10.0.0.1": "a"}'])
def test_networks_that_are_none_are_ignored_as_by_pget(text: str) -> None:
    assert srv_for_host("10.0.0.1", read_srv_by_cidr(text)) == ""


def test_an_address_that_is_none_is_in_no_network() -> None:
    assert srv_for_host("localhost", [("0.0.0.0/0", "all")]) == ""
