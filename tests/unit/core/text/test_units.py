import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.text.units import (
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_size,
)
from pgetpy.errors import BadSettingError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("125M", 125_000_000),
        ("125mb", 125_000_000),
        ("16MiB", 16 * 2**20),
        ("16Mi", 16 * 2**20),
        ("4096", 4096),
        ("4096B", 4096),
        ("1.5 GB", 1_500_000_000),
        (".5k", 500),
        ("1.", 1),
        ("1,000", 1000),
        ("0.1GiB", 107_374_182),
        ("1E", 10**18),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_size_is_read_as_pget_reads_it(text: str, size: int) -> None:
    assert parse_size(text, name="-m") == size


@pytest.mark.parametrize(
    "text", ["", "M", "-5", "1e3", "10Q", "1.2.3", "5 5", "0x10", "9223372036854775808", "9" * 5000]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadSettingError) as caught:
        parse_size(text, name="PGET_CHUNK_SIZE")
    assert caught.value.name == "PGET_CHUNK_SIZE"


@given(st.integers(0, 2**63 - 1))
def test_plain_bytes_are_exact(size: int) -> None:
    assert parse_size(str(size), name="-m") == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1h1m1s", 3661),
        ("15", 15),
        ("0.25", 0.25),
        ("250us", 250e-6),
        ("250µs", 250e-6),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text, name="--connect-timeout") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5x", "1m 30s", "-5s", "5S", "1d", "nan", "."])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadSettingError, match="is not a duration"):
        parse_duration(text, name="--connect-timeout")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2**31, "2.1 GB"),
        (10**22, "10000 EB"),
    ],
)
def test_a_size_is_written_for_people(size: int, text: str) -> None:
    assert format_size(size) == text
    assert format_rate(size) == f"{text}/s"


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_a_larger_size_never_reads_smaller(one: int, other: int) -> None:
    small, large = sorted((one, other))
    written = [parse_size(format_size(size), name="") for size in (small, large)]
    assert written[0] <= written[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m 00s"),
        (90, "1m 30s"),
        (3599.6, "1h 00m"),
        (7500, "2h 05m"),
        (90_000, "1d 1h"),
    ],
)
def test_a_duration_is_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
