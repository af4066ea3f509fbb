"""
Requirements on frames: whatever the kernel's cuts, payloads come out whole, in order, once.
"""

import os
import random
import struct
import sys

import pytest

from queuectl.framing import FRAME_BYTES_MAX, FrameReader, FrameTooLong, pack_frame

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))
PAYLOADS = [b"", b"a", b"hello", bytes(range(256)), b"\0" * 70_000]


def test_a_frame_is_its_length_in_four_bytes_big_endian_and_the_payload() -> None:
    """
    The layout is part of the protocol.
    """
    assert b"\x00\x00\x00\x02hi" == pack_frame(b"hi")
    assert b"\x00\x00\x00\x00" == pack_frame(b"")


def test_frames_come_out_of_one_piece() -> None:
    """
    Many frames received at once are all there, in order, and nothing after them.
    """
    reader = FrameReader()
    reader.feed(b"".join(map(pack_frame, PAYLOADS)))

    assert list(reader) == PAYLOADS
    assert reader.next_frame() is None
    assert reader.pending_bytes == 0


def test_frames_come_out_of_single_bytes() -> None:
    """
    A frame is given out with its last byte, never before.
    """
    reader = FrameReader()
    payloads = PAYLOADS[:4]
    found = []
    stream = b"".join(map(pack_frame, payloads))
    ends = set()
    position = 0
    for payload in payloads:
        position += 4 + len(payload)
        ends.add(position)
    for index in range(len(stream)):
        reader.feed(stream[index : index + 1])
        whole = list(reader)
        assert len(whole) == ((index + 1) in ends)
        found += whole

    assert found == payloads


@pytest.mark.parametrize("round_number", range(20))
def test_frames_come_out_of_random_cuts(round_number: int) -> None:
    """
    No way of cutting the stream changes what comes out.
    """
    seed = SEED + round_number
    print(f"QUEUECTL_SEED={seed - round_number}")
    rng = random.Random(seed)
    payloads = [rng.randbytes(rng.choice([0, 1, 3, 4, 5, 100, 5000])) for _ in range(50)]
    stream = b"".join(map(pack_frame, payloads))
    reader = FrameReader()
    found = []
    position = 0
    while position < len(stream):
        size = rng.choice([1, 2, 3, 7, 64, 4096])
        reader.feed(stream[position : position + size])
        position += size
        if rng.random() < 0.7:
            found += list(reader)
    found += list(reader)

    assert found == payloads


def test_an_unfinished_frame_is_pending() -> None:
    """
    Bytes of no whole frame are counted, so that a peer which stops in the middle is noticed.
    """
    reader = FrameReader()
    reader.feed(pack_frame(b"one") + b"\0\0\0\5tw")

    assert list(reader) == [b"one"]
    assert reader.pending_bytes == 6


def test_the_largest_frame_passes_and_one_byte_more_does_not() -> None:
    """
    FRAME_BYTES_MAX is allowed; more is refused by the sender, and by the reader before it holds it.
    """
    largest = b"x" * FRAME_BYTES_MAX
    reader = FrameReader()
    reader.feed(pack_frame(largest))
    assert reader.next_frame() == largest

    with pytest.raises(FrameTooLong) as sent:
        pack_frame(largest + b"x")
    assert sent.value.size == FRAME_BYTES_MAX + 1
    reader.feed(struct.pack(">I", FRAME_BYTES_MAX + 1))
    with pytest.raises(FrameTooLong) as received:
        reader.next_frame()
    assert received.value.size == FRAME_BYTES_MAX + 1
    assert str(FRAME_BYTES_MAX) in str(received.value)


def test_nothing_is_kept_of_what_was_given_out() -> None:
    """
    A reader that had a long frame and waits for the next one holds no memory for it.
    """
    reader = FrameReader()
    reader.feed(pack_frame(b"x" * 1_000_000) + b"\0")
    assert reader.next_frame() is not None
    assert reader.next_frame() is None
    assert reader.pending_bytes == 1
    assert sys.getsizeof(reader._buffer) < 1_000
