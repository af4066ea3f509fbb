"""
Records and the batch frames that carry them. Pure: bytes in, bytes out.

A frame is one commit, and is valid as a whole or not at all:

    0   magic "QJB1"          4  version u16, flags u16
    8   epoch u32            12  record count u32
    16  batch_seq u64        24  first_lsn u64      (number of the first record)
    32  payload length u32   36  header checksum of the frame before u32 (the chain)
    40  payload crc32 u32    44  crc32 of bytes 0..43 u32
    48  payload: records, each

        0  body length u32, kind u8, flags u8, part u16
        8  key u64
        16 body, zero-padded to a multiple of 8

Frames and records begin at multiples of 8. Both checksums are seeded with the file's salt.

(key, part) names what a record replaces: a snapshot keeps the last record of each name. A
record flagged RECORD_FORGET erases every part of its key, itself included. RECORD_SKIPPABLE
is for the reader of the bodies: it may ignore the record if it does not know its kind.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

RECORD_SKIPPABLE = 1
RECORD_FORGET = 2

#: Nothing but that the daemon stopped in good order.
FRAME_CLOSE = 1
#: Nothing but that all before it is synced; written when the daemon falls idle.
FRAME_SEAL = 2
#: Every byte before this frame was synced before this frame was written.
FRAME_AFTER_SYNC = 4
#: The end of a snapshot; the payload is not records but the footer.
FRAME_FOOTER = 8

FRAME_MAGIC = b"QJB1"
FRAME_VERSION = 1
FRAME_HEADER_BYTES = 48
RECORD_HEADER_BYTES = 16

# The payload of one batch. Above any honest turn of the daemon; low enough that a reader
# can hold a few of them, and that a damaged length field cannot ask for the machine.
BATCH_BYTES_MAX = 8 << 20

_RECORD = struct.Struct("<IBBHQ")
_PADDINGS = tuple(bytes(count) for count in range(8))
_FRAME = struct.Struct("<4sHHIIQQIII")
_CRC = struct.Struct("<I")
_pack_record_header = _RECORD.pack
_FRAME_CHECKED_BYTES = FRAME_HEADER_BYTES - _CRC.size

assert _RECORD.size == RECORD_HEADER_BYTES
assert _FRAME.size == _FRAME_CHECKED_BYTES


class Record(NamedTuple):
    """
    One durable fact: what it is about (key, part) and bytes that only the queue understands.
    """

    kind: int
    flags: int
    part: int
    key: int
    body: bytes


class Position(NamedTuple):
    """
    Where a file validly ends, and what the next frame must say to belong there.

    *crc* is the header checksum of the frame before, or of the file header.
    """

    offset: int
    batch_seq: int
    lsn: int
    crc: int


class Frame(NamedTuple):
    """
    The header of an authentic frame. *crc* is its own checksum.
    """

    flags: int
    epoch: int
    record_count: int
    batch_seq: int
    lsn: int
    payload_bytes: int
    previous_crc: int
    payload_crc: int
    crc: int


def pack_record(kind: int, flags: int, part: int, key: int, body: bytes) -> bytes:
    """
    One record as bytes, padded to a multiple of 8.

    A record larger than BATCH_BYTES_MAX is a bug of the caller and asserts.
    """
    length = len(body)
    packed = _pack_record_header(length, kind, flags, part, key) + body + _PADDINGS[-length & 7]
    assert len(packed) <= BATCH_BYTES_MAX, len(packed)
    return packed


def unpack_records(payload: bytes, record_count: int) -> list[Record]:
    """
    The records of a payload.

    Raises ValueError if they do not fill the payload exactly. The checksum was right, so
    that is a frame which no release of this program has written.
    """
    records: list[Record] = []
    append = records.append
    unpack = _RECORD.unpack_from
    # A million records pass here at a start; Record(...) itself would be a third of it.
    make = tuple.__new__
    offset = 0
    try:
        for _ in range(record_count):
            length, kind, flags, part, key = unpack(payload, offset)
            offset += RECORD_HEADER_BYTES
            end = offset + length
            append(make(Record, (kind, flags, part, key, payload[offset:end])))
            offset = (end + 7) & -8
    except struct.error:
        raise ValueError("a record header lies outside its batch") from None
    if offset != len(payload):
        raise ValueError(f"{record_count} records take {offset} bytes of {len(payload)}")
    return records


def pack_frame(
    payload: bytes, record_count: int, position: Position, epoch: int, flags: int, seed: int
) -> tuple[bytes, int]:
    """
    A whole frame for *position*, and its header checksum.
    """
    _, batch_seq, lsn, previous_crc = position
    head = _FRAME.pack(
        FRAME_MAGIC,
        FRAME_VERSION,
        flags,
        epoch,
        record_count,
        batch_seq,
        lsn,
        len(payload),
        previous_crc,
        crc32(payload, seed),
    )
    crc = crc32(head, seed)
    return b"".join((head, _CRC.pack(crc), payload)), crc


def unpack_frame(buffer: bytes, offset: int, seed: int) -> Frame | None:
    """
    The frame header at *offset*, or None if there is no authentic one.

    Authentic means that the salted checksum matches: this program wrote it into this file.
    The payload is not looked at.
    """
    if buffer[offset : offset + 4] != FRAME_MAGIC:
        return None
    if offset + FRAME_HEADER_BYTES > len(buffer):
        return None
    (crc,) = _CRC.unpack_from(buffer, offset + _FRAME_CHECKED_BYTES)
    if crc32(buffer[offset : offset + _FRAME_CHECKED_BYTES], seed) != crc:
        return None
    _, version, flags, epoch, record_count, *rest = _FRAME.unpack_from(buffer, offset)
    batch_seq, lsn, payload_bytes, previous_crc, payload_crc = rest
    if version != FRAME_VERSION or payload_bytes > BATCH_BYTES_MAX:
        return None
    return Frame(
        flags,
        epoch,
        record_count,
        batch_seq,
        lsn,
        payload_bytes,
        previous_crc,
        payload_crc,
        crc,
    )


def find_frames(buffer: bytes, seed: int) -> Sequence[tuple[int, Frame]]:
    """
    Every authentic frame header in *buffer*, with its offset, found by its magic.

    For looking behind damage: where the chain is broken only the bytes themselves can say
    where a frame begins. *buffer* must begin at a multiple of 8 of its file.
    """
    found = []
    offset = buffer.find(FRAME_MAGIC)
    while offset >= 0:
        frame = unpack_frame(buffer, offset, seed) if offset % 8 == 0 else None
        if frame is not None:
            found.append((offset, frame))
        offset = buffer.find(FRAME_MAGIC, offset + 1)
    return found
