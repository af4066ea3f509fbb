"""
How output is cut and told: whatever the chunks in which it was read, the bytes are the same.
"""

import base64
import codecs
import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from queuectl.web.output_feed import PIECE_BYTES_MAX, Cutter, Piece, incomplete_bytes

#: Text of characters of all lengths, and bytes that are none.
OUTPUT = st.one_of(
    st.binary(max_size=60), st.text(alphabet="aé€𝄞\0\x1b", max_size=30).map(str.encode)
)


def cut(data: bytes, chunk_ends: list[int], offset: int = 7) -> list[Piece]:
    """
    Return the pieces of output that is read in chunks which end at these places.
    """
    cutter = Cutter((3, offset))
    pieces: list[Piece] = []
    ends = sorted({min(each, len(data)) for each in chunk_ends} | {len(data)})
    for begin, end in pairwise([0, *ends]):
        pieces += cutter.take(Piece(3, offset + begin, data[begin:end]))
    return pieces + cutter.rest()


def told(piece: Piece) -> bytes:
    """
    Return the bytes that a piece's message carries.
    """
    message = json.loads(piece.told)
    assert message["next_offset"] == message["offset"] + len(piece.data)
    if "text" in message:
        assert "base64" not in message
        return str(message["text"]).encode()
    return base64.b64decode(message["base64"], validate=True)


@given(OUTPUT, st.lists(st.integers(0, 60)))
@settings(max_examples=300, deadline=None)
def test_pieces_are_the_output(data: bytes, chunk_ends: list[int]) -> None:
    """
    They follow each other without a gap, and carry every byte once.
    """
    pieces = cut(data, chunk_ends)
    position = (3, 7)
    for piece in pieces:
        assert piece.begin == position
        position = piece.end
    assert (3, 7 + len(data)) == position
    assert data == b"".join(told(piece) for piece in pieces)


@given(st.text(alphabet="aé€𝄞", max_size=30), st.lists(st.integers(0, 90)))
@settings(max_examples=300, deadline=None)
def test_no_character_is_cut(text: str, chunk_ends: list[int]) -> None:
    """
    Of text each piece is text, wherever it was cut by reading.
    """
    for piece in cut(text.encode(), chunk_ends):
        assert "text" in json.loads(piece.told)


def test_pieces_are_small() -> None:
    """
    However much is read at once, little is told at once: a message is what is held for each reader
    who is slow. Where it is cut, no character is.
    """
    text = "a" + "€" * PIECE_BYTES_MAX
    (first, *others) = Cutter((1, 0)).take(Piece(1, 5, text.encode(), 5))
    assert 5 == first.dropped_bytes
    assert text == "".join(json.loads(each.told)["text"] for each in (first, *others))
    assert {0} == {each.dropped_bytes for each in others}
    sizes = [len(each.data) for each in (first, *others)]
    assert max(sizes) <= PIECE_BYTES_MAX < min(sizes[:-1]) + 3


@given(OUTPUT, st.integers(0, 80), st.integers(0, 80), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_a_part_of_a_piece(data: bytes, low: int, high: int, dropped_bytes: int) -> None:
    """
    What is dropped counts as well: the parts before, between and behind two places are the whole.
    """
    piece = Piece(3, 20, data, dropped_bytes)
    low, high = sorted((low, high))
    places = [piece.begin, (3, low), (3, high), piece.end]
    places = [max(min(each, piece.end), piece.begin) for each in places]
    parts = [piece.between(*each) for each in pairwise(places)]
    assert data == b"".join(part.data for part in parts)
    assert dropped_bytes == sum(part.dropped_bytes for part in parts)
    assert places == [parts[0].begin, *(part.end for part in parts)]


@given(st.binary(max_size=8))
@settings(max_examples=500, deadline=None)
def test_what_may_become_a_character(data: bytes) -> None:
    """
    The beginning of a character is held back, as a decoder does that reads on; never more than
    three bytes, whatever they are.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    waiting = decoder.getstate()[0]
    assert len(waiting) <= incomplete_bytes(data) <= 3
    assert not waiting or len(waiting) == incomplete_bytes(data)
