"""Manifests of generations and their locks: what is a lock, and which lines are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.generations.lock import (
    EnvironmentLine,
    FileLine,
    GenerationLock,
    LockedEnvironment,
    LockedRequirement,
    joined_fields,
)
from pgetpy.core.generations.manifest import parse_lock, parse_manifest
from pgetpy.core.references.manifest import split_fields
from pgetpy.errors import BadManifestError

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
LOCK = f"""\
generation 7
https://example.com/x.safetensors unet/x.safetensors {A}
https://example.com/y.tar tokenizer {B} -x
env torch 3.12 numpy==2.1.0 {A} {B} pillow==11.0.0 {C}
"""


def test_a_manifest_that_has_all_digests_is_its_own_lock() -> None:
    lock = parse_manifest(LOCK, "m").locked()
    assert lock is not None
    assert lock == parse_lock(LOCK, "m")
    assert lock.number == 7
    assert lock.files == (
        FileLine("https://example.com/x.safetensors", "unet/x.safetensors", A),
        FileLine("https://example.com/y.tar", "tokenizer", B, extract=True),
    )
    packages = (
        LockedRequirement("numpy==2.1.0", (A, B)),
        LockedRequirement("pillow==11.0.0", (C,)),
    )
    assert lock.environments == (LockedEnvironment("torch", "3.12", packages),)


def test_comments_blank_lines_and_the_order_of_lines_do_not_change_the_identity() -> None:
    first, x, y, env = LOCK.splitlines()
    other = f"\ufeff# for the node\n\n{first}\r\n{env}\n  {y} # an archive\n{x}"
    assert parse_lock(other, "m").digest == parse_lock(LOCK, "m").digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("generation 7", "generation 8"),
        (A, C),
        ("unet/", "vae/"),
        ("example.com/x", "example.org/x"),
        (" -x", ""),
        ("3.12", "3.13"),
        ("numpy==2.1.0", "numpy==2.1.1"),
    ],
)
def test_whatever_a_lock_says_is_part_of_its_identity(old: str, new: str) -> None:
    assert parse_lock(LOCK.replace(old, new), "m").digest != parse_lock(LOCK, "m").digest


def test_environments_without_hashes_are_kept_for_locking() -> None:
    text = "generation 1\nenv torch 3.12 torch>=2.4 numpy\nenv torch 3.12 pillow\n"
    manifest = parse_manifest(text, "m")
    assert manifest.environments == (
        EnvironmentLine("torch", "3.12", ("torch>=2.4", "numpy", "pillow")),
    )
    assert manifest.environments[0].line == 2
    assert manifest.locked() is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"https://example.com/a a {A}", "the same path"),
        (f"https://example.com/b a/b {A}", "in the way of line 2"),
        (f"https://example.com/b ../b {A}", "plain path"),
        (f"https://example.com/b /b {A}", "plain path"),
        (f"https://example.com/b c//b {A}", "plain path"),
        (f"https://example.com/b {'n' * 256} {A}", "too long"),
        (f"https://example.com/b folder/ {A}", "folder/ is a folder"),
        ("https://example.com/b b md5:9e107d9d372bb6826bd81d3542a419d6", "sha256:HEX"),
        ("https://example.com/b b sha256:12", "64 hex digits"),
        ("https://example.com/b", "expected REF DEST"),
        ("https://example.com/b b c d e", "expected REF DEST"),
        (f"https://user:secret@example.com/b b {A}", "contains a secret"),
        (f"https://example.com/b?X-Amz-Signature=0123456789abcdef b {A}", "contains a secret"),
        ("generation 8", "given twice"),
        ("env torch 3.12", "expected env"),
        ("env ../torch 3.12 numpy", "name of an environment"),
        ("env torch three numpy", "not a version of Python"),
        (f"env torch 3.12 {A}", "after the requirement"),
        (f"env torch 3.12 numpy==1 {A} pillow==2", "none for pillow==2"),
        ('https://example.com/b "b', "quotation"),
        (f'https://example.com/b "b\u2028c" {A}', "plain path"),
        (f"https://example.com/b b\x9b31m {A}", "plain path"),
        (f"https://example.com/\x1b[31m b {A}", "contains a control character"),
    ],
)
def test_a_bad_line_is_named(line: str, reason: str) -> None:
    text = f"generation 7\nhttps://example.com/a a {B}\n\n{line}\n"
    with pytest.raises(BadManifestError, match=reason) as caught:
        parse_manifest(text, "m")
    assert caught.value.line == 4
    assert "secret@" not in str(caught.value)


def test_an_environment_has_one_python() -> None:
    with pytest.raises(BadManifestError, match=r"m:3: environment e has Python 3\.12 in line 2"):
        parse_manifest("generation 1\nenv e 3.12 numpy\nenv e 3.13 pillow\n", "m")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "https://example.com/a a\n", "generation 07\n"]
)
def test_the_number_comes_first(text: str) -> None:
    with pytest.raises(BadManifestError, match="generation N"):
        parse_manifest(text, "m")


@pytest.mark.parametrize("number", ["-1", "07", "1" * 19, "seven"])
def test_what_is_not_a_number_is_quoted(number: str) -> None:
    with pytest.raises(BadManifestError, match=f"m:1: '{number}' cannot be the number"):
        parse_manifest(f"generation {number}\nhttps://example.com/a a {A}\n", "m")


def test_a_number_alone_is_not_a_manifest() -> None:
    with pytest.raises(BadManifestError, match="m: it names no files"):
        parse_manifest("generation 7\n", "m")


def test_an_open_line_is_named_where_a_lock_is_needed() -> None:
    text = f"generation 7\nhttps://example.com/a a {A}\nhttps://example.com/b b\nenv e 3.12 numpy\n"
    with pytest.raises(BadManifestError, match=r"m:3: it has no sha256"):
        parse_lock(text, "m")


def test_repositories_may_share_a_folder() -> None:
    text = "generation 7\nhf://a/b models/\nhf://a/c models/\n"
    assert [each.dest for each in parse_manifest(text, "m").files] == ["models/", "models/"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])), min_size=1))
def test_fields_survive_being_joined_and_split(fields: list[str]) -> None:
    assert split_fields(joined_fields(fields)) == fields


_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda name: "/" not in name and name not in (".", "..")
)


@given(st.integers(0, 10**17), st.lists(_NAMES, unique=True, min_size=1))
def test_the_text_of_a_lock_reads_as_the_same_lock(number: int, names: list[str]) -> None:
    files = tuple(FileLine("https://example.com/x", name, A) for name in names)
    lock = GenerationLock(number, files)
    again = parse_lock(lock.text, "m")
    assert again.text == lock.text
    assert {each.dest for each in again.files} == set(names)


def test_a_lock_that_was_cut_is_not_a_smaller_one() -> None:
    files = tuple(FileLine(f"https://example.com/{name}", name, A) for name in ("a", "b", "c d"))
    lock = GenerationLock(
        17, files, (LockedEnvironment("e", "3.12", (LockedRequirement("numpy==2.1.0", (B,)),)),)
    )
    text = lock.file_text
    assert parse_lock(text, "m").digest == lock.digest
    for end in range(len(text) - 1):
        with pytest.raises(BadManifestError):
            parse_lock(text[:end], "m")
    lines = text.splitlines(keepends=True)
    with pytest.raises(BadManifestError, match="it was cut, or changed by hand"):
        parse_lock("".join(lines[:-1]), "m")
    with pytest.raises(BadManifestError, match=r"m:4: .* it may have been cut"):
        parse_lock("".join(lines[:3]) + lines[3][:30], "m")


def test_comments_and_order_may_change_in_a_lock_that_gives_its_digest() -> None:
    files = tuple(FileLine(f"https://example.com/{name}", name, A) for name in "ab")
    first, *lines = GenerationLock(7, files).file_text.splitlines()
    text = "\n".join(["# seven", first, *reversed(lines), "# end"])
    assert parse_lock(text, "m").digest == GenerationLock(7, files).digest


def test_a_lock_without_its_digest_is_one_all_the_same() -> None:
    text = f"generation 7\nhttps://example.com/a a {A}\n"
    assert parse_lock(text, "m").text == text


@pytest.mark.parametrize(
    "dest", ["x/" * 256 + "y", ("x" * 200 + "/") * 11 + "y", "fdp.\u202eexe", "\u2066a"]
)
def test_paths_that_are_too_long_or_reverse_text_are_refused(dest: str) -> None:
    with pytest.raises(BadManifestError, match=r"m:2: .{1,200}$"):
        parse_manifest(f"generation 7\nhttps://example.com/a {dest} {A}\n", "m")


def test_data_in_a_reference_is_not_a_secret() -> None:
    text = f"generation 7\ndata:,hello greeting {A}\n"
    assert parse_lock(text, "m").files[0].url == "data:,hello"


@pytest.mark.parametrize(
    "requirement",
    ["--index-url=https://example.com/", "-r/etc/passwd", "", "./a-1.0-py3-none-any.whl", "/a.whl"],
)
def test_options_of_pip_and_paths_are_not_requirements(requirement: str) -> None:
    with pytest.raises(BadManifestError, match=r"m:2: .* is not a requirement"):
        parse_manifest(f'generation 7\nenv e 3.12 "{requirement}"\n', "m")


def test_a_requirement_with_a_secret_is_refused() -> None:
    text = 'generation 7\nenv e 3.12 "a @ https://user:secret@example.com/a.whl"\n'
    with pytest.raises(BadManifestError, match="contains a secret") as caught:
        parse_manifest(text, "m")
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    "requirement",
    ["numpy", "torch >= 2.8", "a[b,c]==1", "x; python_version<'3'", "a @ https://h/a"],
)
def test_requirements_are_taken_as_pip_takes_them(requirement: str) -> None:
    text = f'generation 7\nenv e 3.12 "{requirement}"\n'
    (environment,) = parse_manifest(text, "m").environments
    assert environment.requirements == (requirement,)
