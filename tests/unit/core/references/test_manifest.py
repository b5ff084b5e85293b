import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.manifest import Manifest, parse_manifest
from pgetpy.errors import BadManifestError

MD5 = "md5:" + "0123456789abcdef" * 2


def jobs(text: str) -> tuple[Job, ...]:
    return parse_manifest(text, "list.txt").jobs


def refused(text: str) -> BadManifestError:
    with pytest.raises(BadManifestError) as caught:
        parse_manifest(text, "list.txt")
    return caught.value


def test_each_line_is_a_url_and_a_destination() -> None:
    manifest = parse_manifest("http://h/a a.bin\n\n \thttps://h/b \t dir/b.bin\r\n", "list.txt")
    assert manifest.jobs == (Job("http://h/a", "a.bin"), Job("https://h/b", "dir/b.bin"))
    assert [job.place for job in manifest.jobs] == [" (list.txt:1)", " (list.txt:3)"]


def test_a_third_column_is_a_digest() -> None:
    assert jobs(f"http://h/a a {MD5}") == (Job("http://h/a", "a", Checksum.parse(MD5)),)


def test_a_number_sign_that_begins_a_field_begins_a_comment() -> None:
    text = f"# all\n  # some\nhttp://h/a#part a#b # rest\nhttp://h/b b {MD5} #x\n"
    assert [(job.url, job.dest) for job in jobs(text)] == [
        ("http://h/a#part", "a#b"),
        ("http://h/b", "b"),
    ]


@pytest.mark.parametrize(
    ("field", "dest"),
    [
        ('"a b.bin"', "a b.bin"),
        ("'a b.bin'", "a b.bin"),
        (r'"a \"b\" \\ \n.bin"', r'a "b" \ \n.bin'),
        ("it's", "it's"),
        ('"#a"', "#a"),
        ("\udcff.bin", "\udcff.bin"),
    ],
)
def test_a_quoted_destination_may_hold_blanks(field: str, dest: str) -> None:
    assert jobs(f"http://h/a {field}")[0].dest == dest


def test_the_same_pair_twice_is_skipped_with_a_warning() -> None:
    manifest = parse_manifest("http://h/a?token=s3cret a\nhttp://h/a?token=s3cret ./a", "list.txt")
    assert len(manifest.jobs) == 1
    (warning,) = manifest.warnings
    assert warning.startswith("list.txt:2:")
    assert "s3cret" not in warning


def test_one_destination_with_two_urls_is_refused_with_its_line_and_redacted() -> None:
    error = refused("http://h/a?token=s3cret a\n\nhttp://h/b?token=s3cret a\n")
    assert (error.path, error.line) == ("list.txt", 3)
    assert "duplicate destination a with different urls: http://h/a?token=*** and" in str(error)
    assert "s3cret" not in str(error)


def test_one_destination_with_two_checksums_is_refused() -> None:
    assert "different checksums" in str(refused(f"http://h/a a\nhttp://h/a a {MD5}"))


def test_a_folder_takes_several_urls() -> None:
    assert len(jobs("http://h/a d/\nhttp://h/b d/\nhttp://h/a d/")) == 2
    text = "http://h/a d\nhttp://h/b d"
    assert len(parse_manifest(text, "-", is_folder=lambda dest: dest == "d").jobs) == 2


def test_a_folder_takes_files_beside_those_of_an_archive() -> None:
    lines = ["http://h/1 d", "http://h/2.tar d -x", "http://h/3 d", "http://h/1 d"]
    read = parse_manifest("\n".join(lines), "-", is_folder=lambda dest: dest == "d")
    assert [job.url for job in read.jobs] == ["http://h/1", "http://h/2.tar", "http://h/3"]
    assert len(read.warnings) == 1


def test_bytes_that_are_thrown_away_need_no_destination() -> None:
    manifest = parse_manifest("http://h/a\nhttp://h/a x\nhttp://h/b x", "-", to_null=True)
    assert [job.dest for job in manifest.jobs] == [None, None, None]


@pytest.mark.parametrize(
    "line",
    [
        "http://h/a",
        f"http://h/a a {MD5} x",
        "ftp://h/a a",
        "a http://h/a",
        "http://h/a a md5:12",
        "http://h/a -",
        'http://h/a ""',
        'http://h/a "a b',
        "http://h/a 'a'b",
        "http://h/a a\0b",
    ],
)
def test_a_malformed_line_is_refused_with_its_place(line: str) -> None:
    error = refused(f"http://h/ok ok\n{line}\n")
    assert str(error).startswith("list.txt:2: ")
    assert "\n" not in str(error)


def test_a_manifest_may_be_empty() -> None:
    assert parse_manifest("\ufeff\n# nothing\n", "-") == Manifest((), ())


_FIELDS = st.sampled_from(["http://h/a", "http://h/b", "x", "y/", '"p q"', "'", "#", MD5, "-"])
_GAPS = st.sampled_from([" ", "\t", "\n", "\r\n", ""])


@given(st.one_of(st.text(), st.lists(st.one_of(_FIELDS, _GAPS)).map("".join)))
def test_any_text_is_read_or_refused_with_a_line_of_it(text: str) -> None:
    try:
        places = {job.place for job in parse_manifest(text, "list.txt").jobs}
    except BadManifestError as error:
        places = {f" (list.txt:{error.line})"}
    assert places <= {f" (list.txt:{line})" for line in range(1, text.count("\n") + 2)}
