"""Cookies of one chain: to the host that set them, or below the domain they name; nowhere else."""

from __future__ import annotations

import pytest

from pgetpy.core.http.cookies import Cookies
from pgetpy.core.http.urls import parse_link

NOW = 1_700_000_000.0


def sent(set_by: str, field: str, to: str) -> str:
    cookies = Cookies()
    cookies.learn(parse_link(set_by), [field], NOW)
    return cookies.header(parse_link(to))


@pytest.mark.parametrize(
    ("set_by", "field", "to"),
    [
        ("http://a.example/x", "k=1", "http://a.example/y"),
        ("http://a.example/x", "k=1", "http://a.example:8080/y"),
        ("http://A.example/x", "k=1; Path=/", "http://a.example/deep/er"),
        ("http://a.example/x", "k=1; path=relative", "http://a.example/y"),
        ("http://a.example/d/x", "k=1", "http://a.example/d/y/z"),
        ("http://a.example/d/x", "k=1; Path=/d", "http://a.example/d"),
        ("http://a.example/x", "k=1; Domain=a.example", "http://b.a.example/"),
        ("http://a.example/x", "k=1; Domain=.A.Example", "http://a.example/"),
        ("http://b.a.example/x", "k=1; Domain=a.example", "http://c.a.example/"),
        ("http://b.co.uk/x", "k=1; Domain=b.co.uk", "http://d.b.co.uk/"),
        ("http://hf.co/x", "k=1; Domain=hf.co", "http://hf.co/"),
        ("http://127.0.0.1/x", "k=1; Domain=127.0.0.1", "http://127.0.0.1/"),
        ("http://[::1]/x", "k=1", "http://[::1]:8080/"),
        ("https://a.example/x", "k=1; Secure; HttpOnly; SameSite=Strict", "https://a.example/"),
        ("https://a.example/x", "k=1", "http://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=5", "http://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=99999999999999999999", "http://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=0000000005", "http://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=\xb2", "http://a.example/"),
        ("http://a.example/x", "k=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT", "http://a.example/"),
        ("http://a.example/x", "k=1; Expires=never", "http://a.example/"),
        ("http://a.example/x", " k = 1 ;;;Path", "http://a.example/"),
    ],
)
def test_where_a_cookie_goes(set_by: str, field: str, to: str) -> None:
    assert sent(set_by, field, to) == "k=1"


@pytest.mark.parametrize(
    ("set_by", "field", "to"),
    [
        ("http://a.example/x", "k=1", "http://b.example/"),
        ("http://a.example/x", "k=1", "http://b.a.example/"),
        ("http://b.a.example/x", "k=1", "http://a.example/"),
        ("http://a.example/x", "k=1; Domain=b.example", "http://b.example/"),
        ("http://a.example/x", "k=1; Domain=b.a.example", "http://b.a.example/"),
        ("http://a.example/x", "k=1; Domain=example", "http://b.example/"),
        ("http://ba.example/x", "k=1; Domain=a.example", "http://a.example/"),
        ("http://a.co.uk/x", "k=1; Domain=co.uk", "http://b.co.uk/"),
        ("http://127.0.0.1/x", "k=1; Domain=0.0.1", "http://1.0.0.1/"),
        ("http://a.example/d/x", "k=1", "http://a.example/e"),
        ("http://a.example/d/x", "k=1; Path=/d", "http://a.example/dd"),
        ("https://a.example/x", "k=1; Secure", "http://a.example/"),
        ("http://a.example/x", "k=1; Secure", "https://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=0", "http://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=00", "http://a.example/"),
        ("http://a.example/x", "k=1; Max-Age=-1", "http://a.example/"),
        ("http://a.example/x", "k=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "http://a.example/"),
        ("http://a.example/x", "k", "http://a.example/"),
        ("http://a.example/x", "=1", "http://a.example/"),
        ("http://a.example/x", "", "http://a.example/"),
        ("http://a.example/x", "k=1\r\nEvil: 1", "http://a.example/"),
        ("http://a.example/x", "k=" + "1" * 5000, "http://a.example/"),
    ],
)
def test_where_a_cookie_does_not_go(set_by: str, field: str, to: str) -> None:
    assert sent(set_by, field, to) == ""


def test_a_cookie_is_replaced_and_taken_back() -> None:
    link = parse_link("http://a.example/x")
    cookies = Cookies()
    cookies.learn(link, ["k=1", "l=2; Path=/x", "k=3"], NOW)
    assert cookies.header(link) == "l=2; k=3"
    assert cookies.header(link, "own=0; k=7") == "own=0; l=2; k=3"
    cookies.learn(link, ["k=; Max-Age=0"], NOW)
    assert cookies.header(link, "k=7") == "k=7; l=2"


def test_a_server_cannot_set_any_number() -> None:
    link = parse_link("http://a.example/x")
    cookies = Cookies()
    cookies.learn(link, [f"k{number}=1" for number in range(1000)], NOW)
    assert len(cookies.header(link).split("; ")) == 50
