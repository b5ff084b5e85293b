import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.proxies import bypasses_proxy
from pgetpy.core.http.urls import Origin


def bypasses(host: str, *no_proxy: str, port: int = 80) -> bool:
    return bypasses_proxy(Origin("http", host, port), no_proxy)


@pytest.mark.parametrize(
    ("host", "entry"),
    [
        ("anything.example", "*"),
        ("store.example", "store.example"),
        ("store.example", "STORE.Example"),
        ("store.example", " store.example "),
        ("store.example", ".store.example"),
        ("store.example", "example"),
        ("a.b.store.example", "store.example"),
        ("a.store.example", ".store.example"),
        ("a.store.example", "*.store.example"),
        ("store.example", "store.example:80"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/8"),
        ("10.1.2.3", "10.1.2.3:80"),
        ("::1", "::1"),
        ("::1", "[::1]"),
        ("::1", "[::1]:80"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("fd00::5", "fd00::/8"),
    ],
)
def test_an_entry_names_a_host(host: str, entry: str) -> None:
    assert bypasses(host, entry)
    assert bypasses(host, "other.example", "", entry)


@pytest.mark.parametrize(
    ("host", "entry"),
    [
        ("store.example", ""),
        ("store.example", " "),
        ("store.example", "."),
        ("store.example", "tore.example"),
        ("store.example", "a.store.example"),
        ("notstore.example", "store.example"),
        ("store.example", "store.example:8080"),
        ("store.example", "store.example:\u00b9"),
        ("store.example", "store.example:" + "8" * 5000),
        ("store.example", "10.0.0.0/8"),
        ("10.1.2.3", "3"),
        ("10.1.2.3", "1.2.3"),
        ("10.1.2.3", ".2.3"),
        ("10.1.2.3", "10.1.2.4"),
        ("10.1.2.3", "11.0.0.0/8"),
        ("10.1.2.3", "10.0.0.0/99"),
        ("10.1.2.3", "10.1.2.3:8080"),
        ("10.1.2.3", "::/0"),
        ("::1", "[::1]:8080"),
        ("::1", "::2"),
        ("::1", "1"),
    ],
)
def test_an_entry_does_not_name_another(host: str, entry: str) -> None:
    assert not bypasses(host, entry)


def test_without_entries_all_go_through_the_proxy() -> None:
    assert not bypasses("store.example")


@given(st.lists(st.text(max_size=20)), st.sampled_from(["store.example", "10.1.2.3", "::1"]))
def test_whatever_stands_in_the_variable_is_read(entries: list[str], host: str) -> None:
    bypasses_proxy(Origin("http", host, 80), entries)
