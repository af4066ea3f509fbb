"""
The format, byte by byte.
"""

import random
from zlib import crc32

import pytest
from journal_twins import MemoryFiles, make_journal, pack, record

from queuectld.journal.directory import Directory
from queuectld.journal.frames import (
    BATCH_BYTES_MAX,
    FRAME_AFTER_SYNC,
    RECORD_FORGET,
    Position,
    Record,
    find_frames,
    pack_frame,
    pack_record,
    unpack_frame,
    unpack_records,
)
from queuectld.journal.header import (
    HEADER_BYTES,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    FileHeader,
    HeaderDamaged,
    HeaderUnknown,
    unpack_header,
)
from queuectld.journal.reader import FrameReader

SALT = bytes(range(8))
SEED = crc32(SALT)
HEADER = FileHeader(
    SEGMENT_MAGIC, bytes(range(16)), 42, Position(4096, 7, 19, 0xABCD), SALT, 3, 1234, b"1.2.3"
)


def test_record_golden() -> None:
    """
    A record is sixteen bytes of header and a body padded to eight.
    """
    packed = pack_record(5, RECORD_FORGET, 2, 258, b"abc")

    expected = "03000000 05 02 0200 0201000000000000 616263 0000000000"
    assert bytes.fromhex(expected) == packed


def test_frame_golden() -> None:
    """
    A frame with a known salt has these bytes for ever.
    """
    payload = pack_record(5, 0, 0, 1, b"body")
    frame, crc = pack_frame(payload, 1, Position(160, 7, 19, 0xABCD), 3, FRAME_AFTER_SYNC, SEED)

    expected = (
        "514a4231 0100 0400 03000000 01000000 0700000000000000 1300000000000000"
        "18000000 cdab0000 803ec356 d5a82aff"
        "04000000 05 00 0000 0100000000000000 626f647900000000"
    )
    assert bytes.fromhex(expected).hex() == frame.hex()
    assert int.from_bytes(frame[44:48], "little") == crc


def test_header_golden() -> None:
    """
    A file header has these bytes for ever, and reads back as it was.
    """
    packed = HEADER.pack()

    expected = (
        "89515347 0d0a1a0a 0100 0000 00000000 00000000 00000000"
        "000102030405060708090a0b0c0d0e0f 2a00000000000000"
        "0700000000000000 1300000000000000 0001020304050607"
        "0010000000000000 cdab0000 03000000 d204000000000000"
        "312e322e33000000 0000000000000000" + "00" * 44 + "bfc28649"
    )
    assert bytes.fromhex(expected).hex() == packed.hex()
    assert len(packed) == HEADER_BYTES
    assert unpack_header(packed, SEGMENT_MAGIC)._replace(crc=0) == HEADER


def test_every_flipped_bit_of_a_header_is_refused() -> None:
    """
    No damaged header is taken for a header.
    """
    packed = HEADER.pack()
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HeaderDamaged):
            unpack_header(bytes(damaged), SEGMENT_MAGIC)
    with pytest.raises(HeaderDamaged):
        unpack_header(packed, SNAPSHOT_MAGIC)
    for length in range(len(packed)):
        with pytest.raises(HeaderDamaged):
            unpack_header(packed[:length], SEGMENT_MAGIC)


def test_unknown_features_name_their_writer() -> None:
    """
    A file from the future is refused by naming the version that wrote it.
    """
    packed = HEADER._replace(incompatible_bits=4).pack()

    with pytest.raises(HeaderUnknown, match=r"features 0x4, written by 1\.2\.3"):
        unpack_header(packed, SEGMENT_MAGIC)


def test_records_read_back_as_written() -> None:
    """
    Any records survive packing, whatever their sizes.
    """
    rng = random.Random(3)
    records = [
        Record(rng.randrange(256), rng.randrange(4), rng.randrange(1 << 16), key, rng.randbytes(n))
        for n, key in enumerate([0, 1, (1 << 64) - 1, *(rng.getrandbits(64) for _ in range(60))])
    ]

    assert records == unpack_records(b"".join(pack(records)), len(records))


def test_payload_must_be_filled_exactly() -> None:
    """
    A payload that its records do not fill exactly is refused at every length.
    """
    payload = b"".join(pack([record(1, b"abc"), record(2, b"0123456789")]))
    for length in range(len(payload)):
        with pytest.raises(ValueError, match="record"):
            unpack_records(payload[:length], 2)
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match="record"):
            unpack_records(payload, count)


def test_every_flipped_bit_of_a_frame_header_is_refused() -> None:
    """
    No bit of a frame header can change unseen, and no other salt accepts it.
    """
    frame, _ = pack_frame(b"", 0, Position(160, 7, 19, 1), 3, 0, SEED)
    assert unpack_frame(frame, 0, SEED) is not None
    assert unpack_frame(frame, 0, SEED ^ 1) is None
    for bit in range(8 * 48):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        assert unpack_frame(bytes(damaged), 0, SEED) is None
    for length in range(48):
        assert unpack_frame(frame[:length], 0, SEED) is None


def test_frames_are_found_where_they_can_begin() -> None:
    """
    Looking behind damage finds authentic frames at multiples of eight, and nothing else.
    """
    frame, _ = pack_frame(b"", 0, Position(160, 7, 19, 1), 3, 0, SEED)
    forged, _ = pack_frame(b"", 0, Position(160, 9, 19, 1), 3, 0, SEED ^ 5)
    buffer = b"QJB1" * 2 + frame + b"x" + frame + bytes(7) + forged + frame

    found = [(offset, f.batch_seq) for offset, f in find_frames(buffer, SEED)]

    assert found == [(8, 7), (8 + 48 + 1 + 48 + 7 + 48, 7)]


@pytest.mark.parametrize("window", [1, 3, 48, 49, 200, 1 << 20])
def test_reader_is_the_same_in_any_pieces(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """
    What is read does not depend on how much is read at once.
    """
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk)
    journal.open(lambda _: None)
    batches = [[record(n, bytes(n * 37))] for n in range(8)]
    for batch in batches:
        journal.commit(pack(batch))
    monkeypatch.setattr("queuectld.journal.reader.WINDOW_BYTES", window)
    directory = Directory(disk, "/state", disk.open_directory("/state"))
    header = directory.segment_header(1)
    with directory.open("seg-0000000000000001.qj") as file:
        reader = FrameReader(file, header, header.start())
        found = [reader.records(frame, payload) for frame, payload in reader]

    assert batches == found


def test_a_record_beyond_the_limit_is_a_bug() -> None:
    """
    The caller splits; the journal does not pack what no batch could hold.
    """
    pack_record(1, 0, 0, 1, bytes(BATCH_BYTES_MAX - 16))
    with pytest.raises(AssertionError):
        pack_record(1, 0, 0, 1, bytes(BATCH_BYTES_MAX - 15))
