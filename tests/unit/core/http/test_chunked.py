"""The chunked coding: whatever the pieces it comes in, the bytes in it; cut or broken, no end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.chunked import ChunkedDecoder, ChunkError


def fed(pieces: list[bytes]) -> tuple[bytes, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    return b"".join(decoder.feed(piece) for piece in pieces), decoder


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body and one way to write it in chunks."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=8))
    end = draw(st.sampled_from([b"\r\n", b"\n"]))
    extension = draw(st.sampled_from([b"", b" ", b";a", b";a=1", b' ; a="b;c"']))
    trailers = draw(st.sampled_from([b"", b"X-Digest: 1" + end, b"A: 1" + end + b"B: 2" + end]))
    zeros = b"0" * draw(st.integers(0, 20))
    written = [zeros + b"%X" % len(chunk) + extension + end + chunk + end for chunk in chunks]
    coded = b"".join(written) + b"0" + zeros + extension + end + trailers + end
    return b"".join(chunks), coded


@given(chunked(), st.lists(st.integers(0, 10_000), max_size=12), st.binary(max_size=5))
def test_however_it_is_cut_the_body_comes_out(
    written: tuple[bytes, bytes], cuts: list[int], behind: bytes
) -> None:
    plain, coded = written
    got, decoder = fed(pieces_of(coded + behind, cuts))
    assert (got, decoder.complete, decoder.surplus) == (plain, True, len(behind))


@given(chunked(), st.integers(0, 10_000))
def test_a_body_that_is_cut_off_is_never_complete(written: tuple[bytes, bytes], at: int) -> None:
    plain, coded = written
    got, decoder = fed([coded[: at % len(coded)]])
    assert not decoder.complete
    assert plain.startswith(got)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_nonsense_is_an_error_or_waits_for_more(data: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            got, decoder = fed(pieces)
        except ChunkError:
            return "error"
        return got, decoder.complete, decoder.surplus

    assert outcome([data]) == outcome(pieces_of(data, cuts))


@pytest.mark.parametrize(
    "coded",
    [
        b"\r\n",
        b"zz\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"5\rhello\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhelloX\n",
        b"1" * 17 + b"\r\n",
        b"5;" + b"a" * 17_000,
        b"0\r\n" + b"A: " + b"a" * 17_000,
        b"0\r\n" + b"A: aaaa\r\n" * 10_000,
    ],
)
def test_what_is_no_chunk_is_an_error(coded: bytes) -> None:
    with pytest.raises(ChunkError):
        fed([coded])
    with pytest.raises(ChunkError):
        fed([coded[at : at + 1] for at in range(len(coded))])
