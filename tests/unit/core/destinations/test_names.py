import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.destinations.names import (
    LONGEST_NAME,
    check_url,
    journal_path,
    name_from_disposition,
    name_from_url,
    part_name,
)
from pgetpy.errors import BadReferenceError


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "HTTPS://Example.com:8443/a%20b?c=d#e",
        "http://[::1]:8080/x",
        "http://user:pass@my_host-1.internal/x",
        "http://münchen.example/ä b.bin",
    ],
)
def test_an_http_url_with_a_host_will_do(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "model.bin",
        "example.com/model.bin",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://exa mple.com/",
        "http://h:0/",
        "http://h:99999/",
        "http://h:port/",
        "http://[zz]/",
        "http://[::1/",
        "http://good.example\\@evil.example/",
        "http://h/a\r\nX: y",
        "http://h\0/",
        "http://%41/",
    ],
)
def test_what_leads_to_no_server_is_refused(url: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        check_url(url)
    assert "\n" not in str(caught.value)


def test_a_refused_url_is_redacted() -> None:
    with pytest.raises(BadReferenceError) as caught:
        check_url("ftp://me:hunter2@example.com/x?token=abc")
    assert "hunter2" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/model.bin?x=/y.bin", "model.bin"),
        ("o/folder%2Fmodel.bin", "model.bin"),
        ("C%3A%5Cx%5Cmodel.bin", "model.bin"),
        ("na%C3%AFve.bin", "naïve.bin"),
        ("e%CC%81.bin", "é.bin"),
        (".gitattributes", ".gitattributes"),
        ("a%0Ab%00c.bin", "abc.bin"),
        ("a%E2%80%AEnib.exe", "anib.exe"),
        ("", None),
        ("a/", None),
        ("..", None),
        ("%2e%2e", None),
        ("...", None),
        ("a/%20.%20", None),
    ],
)
def test_the_last_part_of_a_path_names_the_file(path: str, name: str | None) -> None:
    assert name_from_url(f"http://example.com/{path}") == name


def test_a_long_name_keeps_its_suffix() -> None:
    name = name_from_url(f"http://h/{quote('é' * 300)}.tar.gz")
    assert name is not None
    assert len(name.encode()) <= LONGEST_NAME
    assert name.startswith("é" * 100)
    assert name.endswith(".tar.gz")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("attachment; filename=model.bin", "model.bin"),
        ('attachment; filename="a b;c.bin"', "a b;c.bin"),
        ('inline; filename="a\\"b.bin"', 'a"b.bin'),
        ("attachment; filename=x; filename*=UTF-8''na%C3%AFve.bin", "naïve.bin"),
        ("attachment; filename*=iso-8859-1'de'M%FCll.bin; filename=x", "Müll.bin"),
        ("attachment; filename*=utf-8''%FF%FE; filename=ok.bin", "ok.bin"),
        ("attachment; filename*=bogus''x; filename=ok.bin", "ok.bin"),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ('attachment; x="; filename=evil.bin"; filename=good.bin', "good.bin"),
        ('ATTACHMENT ; FILENAME = "a.bin" ', "a.bin"),
        ("filename=bare.bin", "bare.bin"),
        ('attachment; filename="\xc3\xa9.bin"', "é.bin"),
        ('attachment; filename="\udcc3\udca9\udce9.bin"', "Ã©é.bin"),
        ("attachment; filename=.bashrc", "_bashrc"),
        ('attachment; filename=".."', None),
        ('attachment; filename=""', None),
        ("attachment", None),
        ("", None),
    ],
)
def test_a_content_disposition_names_the_file(header: str, name: str | None) -> None:
    assert name_from_disposition(header) == name


@given(st.text(max_size=400))
def test_whatever_comes_from_outside_is_one_safe_component(text: str) -> None:
    encoded = quote(text, errors="replace", safe="/")
    for name in (
        name_from_url(f"http://h/{encoded}"),
        name_from_disposition(f"attachment; filename*=UTF-8''{encoded}"),
        name_from_disposition(f'attachment; filename="{text}"'),
    ):
        if name is None:
            continue
        assert name.strip(".")
        assert 0 < len(name.encode()) <= LONGEST_NAME
        assert not set("/\\\0") & set(name)
        assert not any(unicodedata.category(char) in {"Cc", "Cs"} for char in name)
        assert unicodedata.is_normalized("NFC", name)


def test_a_part_and_a_journal_stand_beside_their_file() -> None:
    assert part_name("model.bin") == ".model.bin.pgetpy-part"
    assert journal_path(Path("a/model.bin")) == Path("a/.model.bin.pgetpy-journal")


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_names_beside_fit_and_differ(name: str) -> None:
    name = (name * 100).encode()[:LONGEST_NAME].decode(errors="ignore")
    beside = {
        part_name(name),
        journal_path(Path(name)).name,
        part_name(f"{name[:-1]}é"[:LONGEST_NAME]),
    }
    assert all(len(other.encode()) <= LONGEST_NAME for other in beside)
    assert len(beside) == (2 if name.endswith("é") else 3)


def test_a_name_that_is_no_utf8_keeps_its_bytes_in_its_part() -> None:
    assert part_name("\udcff.bin").encode(errors="surrogateescape") == b".\xff.bin.pgetpy-part"
    assert len(part_name("\udcff" * 255).encode(errors="surrogateescape")) <= LONGEST_NAME
