import base64
import contextlib
import traceback
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.urls import (
    Link,
    Origin,
    basic_authorization,
    follow,
    headers_for,
    may_see_credentials,
    parse_link,
)
from pgetpy.errors import BadReferenceError, PgetError, TransferError
from pgetpy.errors.redact import redact, unsigned

STORE = Origin("https", "store.example", 443)


@pytest.mark.parametrize(
    ("url", "asked", "origin"),
    [
        ("http://h", "http://h/", Origin("http", "h", 80)),
        ("HTTP://Host/Path", "http://host/Path", Origin("http", "host", 80)),
        ("http://h:80/a", "http://h/a", Origin("http", "h", 80)),
        ("https://h:443/a", "https://h/a", Origin("https", "h", 443)),
        ("https://h:80/a", "https://h:80/a", Origin("https", "h", 80)),
        ("http://h:8080/a", "http://h:8080/a", Origin("http", "h", 8080)),
        ("http://[::1]:81/a", "http://[::1]:81/a", Origin("http", "::1", 81)),
        ("http://[::1]/a", "http://[::1]/a", Origin("http", "::1", 80)),
        ("http://h/a b", "http://h/a%20b", Origin("http", "h", 80)),
        ("http://h/a%20b%2Fc", "http://h/a%20b%2Fc", Origin("http", "h", 80)),
        ("http://h/ä?ö=ü", "http://h/%C3%A4?%C3%B6=%C3%BC", Origin("http", "h", 80)),
        ("http://h/a?b=c&d=e#f", "http://h/a?b=c&d=e", Origin("http", "h", 80)),
        ("http://h?b=c", "http://h/?b=c", Origin("http", "h", 80)),
        ("http://bücher.example/", "http://xn--bcher-kva.example/",
         Origin("http", "xn--bcher-kva.example", 80)),
    ],
)  # fmt: skip
def test_a_url_is_brought_into_the_form_that_is_asked(url: str, asked: str, origin: Origin) -> None:
    link = parse_link(url)
    assert (link.url, link.origin) == (asked, origin)


@pytest.mark.parametrize(
    "url",
    ["", "h/a", "/a", "ftp://h/a", "file:///a", "http://", "http:///a", "http://:80/",
     "http://h:port/", "http://h:99999/", "http://[::1/", "http://" + "a" * 64 + ".example/"],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(BadReferenceError):
        parse_link(url)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_the_form_that_is_asked_is_final_and_ascii(text: str) -> None:
    link = parse_link(f"http://h/{text}")
    assert parse_link(link.url) == link
    assert link.url.isascii()
    assert " " not in link.url
    assert "#" not in link.url


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://h/x", True),
        ("https://h.example:8443/a/b%20c.tar", True),
        ("http://h/x?", False),
        ("http://h/x?a=b", False),
        ("http://h/x#a", False),
        ("http://me@h/x", False),
        ("http://me:secret@h/x", False),
        ("http://H/x", False),
        ("http://h/a b", False),
        ("http://h:80/x", False),
    ],
)
def test_a_url_is_plain_if_it_is_asked_as_it_is_written(url: str, plain: bool) -> None:
    # The second time its origin is known.
    assert [parse_link(url).plain, parse_link(url).plain] == [plain, plain]


@given(st.text("aZ0@:/?#%=&.~ \u00e9", max_size=20), st.text("a@:/?#=.", max_size=8))
def test_a_plain_url_holds_nothing_to_hide_or_to_leave_out(path: str, before: str) -> None:
    url = f"http://{before}h/{path}"
    with contextlib.suppress(BadReferenceError):
        link = parse_link(url)
        if link.plain:
            assert url == link.url == redact(url) == str(link)
            assert link.unsigned == unsigned(url)
            assert link.authorization is None


# --------------------------------------------------------------------------------- credentials

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(user=WORDS, password=WORDS)
def test_user_and_password_leave_the_url_and_become_an_authorization(
    user: str, password: str
) -> None:
    link = parse_link(f"http://{quote(user, safe='')}:{quote(password, safe='')}@h/x")
    assert link.url == "http://h/x"
    assert link.authorization is not None
    scheme, _, coded = link.authorization.partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(coded).decode() == f"{user}:{password}"


def test_a_user_alone_has_an_empty_password() -> None:
    assert parse_link("http://me@h/x").authorization == basic_authorization("me", "")
    assert parse_link("http://h/x").authorization is None


SECRET = "hunter2hunter2"
SECRETS = st.sampled_from(
    [
        "https://me:{}@h/x",
        "https://{}@h/x",
        "https://h/x?X-Amz-Signature={}",
        "https://h/x?X-Amz-Credential={}&X-Amz-Security-Token={}",
        "https://h/x?x-goog-signature={}",
        "https://h/x?sv=1&sig={}",
        "https://h/x?Policy={}&Signature={}&Key-Pair-Id={}",
        "https://h/x?token={}",
        "https://h/x?access_token={}&b=c",
        "https://h/x?API_KEY={}",
        "https://h/x#{}",
        "ftp://me:{}@h/x",
        "http://me:{}@[::1/x",
        "http://me:{}@/x",
        "http://me:{}@h:port/x?token={}",
    ]
)


@given(SECRETS, st.sampled_from(["", "/../y", "%zz", "?a=b", "\t"]))
def test_no_secret_of_a_url_is_shown_by_a_link_or_an_error_about_it(form: str, tail: str) -> None:
    url = form.replace("{}", SECRET) + tail
    shown: list[str] = []
    try:
        link = parse_link(url)
        failure = TransferError(url, f"because of {url}")
        shown += [str(link), str(failure), repr(failure)]
        follow(link, url.replace("http", "gopher", 1))
    except PgetError as error:
        shown += [str(error), repr(error), *traceback.format_exception_only(error)]
    assert shown
    assert SECRET not in "".join(shown)


@pytest.mark.parametrize(
    ("owner", "asked", "expected"),
    [
        (("https", "a", 443), ("https", "a", 443), True),
        (("http", "a", 80), ("http", "a", 80), True),
        (("http", "a", 80), ("https", "a", 443), True),
        (("https", "a", 443), ("http", "a", 80), False),
        (("http", "a", 8080), ("https", "a", 443), False),
        (("http", "a", 80), ("https", "a", 8443), False),
        (("http", "a", 80), ("https", "b", 443), False),
        (("https", "a", 443), ("https", "a", 444), False),
        (("https", "a", 443), ("https", "b", 443), False),
        (("https", "a", 443), ("https", "b.a", 443), False),
        (("https", "b.a", 443), ("https", "a", 443), False),
    ],
)
def test_credentials_stay_with_their_origin(
    owner: tuple[str, str, int], asked: tuple[str, str, int], expected: bool
) -> None:
    assert may_see_credentials(Origin(*owner), Origin(*asked)) is expected


def test_another_origin_sees_no_header_that_says_who_asks() -> None:
    headers = {"X-Token": "s", "Cookie": "s", "User-Agent": "me", "ACCEPT": "*/*", "Referer": "s"}
    assert headers_for(STORE, STORE, headers) == list(headers.items())
    elsewhere = Origin("https", "cdn.example", 443)
    assert headers_for(elsewhere, STORE, headers) == [("User-Agent", "me"), ("ACCEPT", "*/*")]


# ------------------------------------------------------------------------------------ redirects

HERE = parse_link("https://me:word@store.example/a/b?c=d")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://cdn.example/x?s=1", "https://cdn.example/x?s=1"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("/x", "https://store.example/x"),
        ("x", "https://store.example/a/x"),
        ("../x", "https://store.example/x"),
        ("?e=f", "https://store.example/a/b?e=f"),
        ("#top", "https://store.example/a/b?c=d"),
        (" /x ", "https://store.example/x"),
        ("/x y", "https://store.example/x%20y"),
        ("http://store.example/x", "http://store.example/x"),
    ],
)
def test_a_redirect_leads_where_its_location_says(location: str, expected: str) -> None:
    target = follow(HERE, location)
    assert target.url == expected
    assert target.authorization is None


def test_a_redirect_may_bring_credentials_of_its_own() -> None:
    target = follow(HERE, "https://you:there@cdn.example/x")
    assert target.authorization == basic_authorization("you", "there")


@pytest.mark.parametrize("location", ["ftp://h/x", "javascript:x", "http://", "http://[::1/x"])
def test_a_redirect_to_what_cannot_be_asked_is_an_error(location: str) -> None:
    with pytest.raises(TransferError, match="redirected to a URL that cannot be used"):
        follow(HERE, location)


@given(st.text())
def test_following_is_total(location: str) -> None:
    with contextlib.suppress(TransferError):
        assert isinstance(follow(HERE, location), Link)


def test_links_to_one_object_have_one_key_whoever_signed_them() -> None:
    one = parse_link("https://me:a@h/x?v=1&X-Amz-Signature=1")
    other = parse_link("https://h/x?X-Amz-Signature=2&v=1")
    assert one.key == other.key
    assert one.key != parse_link("https://h/x?v=2").key
    assert one.key != parse_link("https://h/y?v=1").key
    assert urlsplit(one.url).hostname not in one.key
