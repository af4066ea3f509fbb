"""
The first 160 bytes of a segment or snapshot.

    0    magic 8 (0x89, four letters, CR LF ^Z: a text-mode copy breaks it visibly)
    8    format major u16, minor u16
    12   feature bits u32 x 3: a reader that does not know a bit of the first may not read
         the file, of the second may not write to the directory, of the third need not care
    24   uuid of the state directory 16
    40   file number u64
    48   first_batch_seq u64    56 first_lsn u64     what the first frame here carries on from
    64   salt u64, secret
    72   prev_valid_bytes u64   80 prev_crc u32      where and with what the predecessor ended
    84   epoch u32              88 created_at u64 (ms)
    96   version of the writer, 16 bytes of text
    112  zeros
    156  crc32 of bytes 0..155 u32: where the chain of frame checksums begins

A segment's header is what vouches for the segment before it. Snapshot N repeats the four
fields about the predecessor from segment N, which is how the two are known to belong together.
"""

import struct
from typing import NamedTuple
from zlib import crc32

from queuectld.journal.frames import Position

HEADER_BYTES = 160
SEGMENT_MAGIC = b"\x89QSG\r\n\x1a\n"
SNAPSHOT_MAGIC = b"\x89QSN\r\n\x1a\n"
FORMAT_MAJOR = 1
FORMAT_MINOR = 0

_HEADER = struct.Struct("<8sHHIII16sQQQ8sQIIQ16s44x")
_CRC = struct.Struct("<I")

assert _HEADER.size == HEADER_BYTES - _CRC.size

#: Where the history begins: batches and records are numbered from 1.
ORIGIN = Position(offset=0, batch_seq=1, lsn=1, crc=0)


class HeaderDamaged(ValueError):
    """
    These bytes are not a file header.
    """


class HeaderUnknown(ValueError):
    """
    The header is sound, but names a format or feature that this release does not know.
    """


class FileHeader(NamedTuple):
    """
    A file header as values; *previous* is where the predecessor validly ended.

    *crc* is the stored checksum of a header that was read, and the chain of frames begins
    with it; pack() computes it anew.
    """

    magic: bytes
    uuid: bytes
    number: int
    previous: Position
    salt: bytes
    epoch: int
    created_at: int
    version: bytes
    incompatible_bits: int = 0
    readonly_bits: int = 0
    compatible_bits: int = 0
    crc: int = 0

    def pack(self) -> bytes:
        """
        The header as HEADER_BYTES bytes.
        """
        packed = _HEADER.pack(
            self.magic,
            FORMAT_MAJOR,
            FORMAT_MINOR,
            self.incompatible_bits,
            self.readonly_bits,
            self.compatible_bits,
            self.uuid,
            self.number,
            self.previous.batch_seq,
            self.previous.lsn,
            self.salt,
            self.previous.offset,
            self.previous.crc,
            self.epoch,
            self.created_at,
            self.version[:16],
        )
        return packed + _CRC.pack(crc32(packed))

    def seed(self) -> int:
        """
        What the checksums of this file's frames start from.
        """
        return crc32(self.salt)

    def start(self) -> Position:
        """
        The position of the first frame of a segment.
        """
        _, batch_seq, lsn, _ = self.previous
        return Position(HEADER_BYTES, batch_seq, lsn, self.crc)


def unpack_header(data: bytes, magic: bytes) -> FileHeader:
    """
    The header at the beginning of *data*.

    Raises HeaderDamaged if it is not a header of this kind, HeaderUnknown if its format or
    its features are from the future.
    """
    if len(data) < HEADER_BYTES:
        raise HeaderDamaged(f"the file has {len(data)} bytes, its header takes {HEADER_BYTES}")
    if data[:8] != magic:
        raise HeaderDamaged("the file does not begin with its magic bytes")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc32(data[: _HEADER.size]) != crc:
        raise HeaderDamaged("the header checksum does not match")
    _, major, minor, incompatible, readonly, compatible, *rest = _HEADER.unpack_from(data)
    uuid, number, batch_seq, lsn, salt, offset, previous_crc, epoch, created_at, version = rest
    if major != FORMAT_MAJOR or incompatible:
        raise HeaderUnknown(
            f"format {major}.{minor}, features {incompatible:#x}, "
            f"written by {version.rstrip(bytes(1)).decode('ascii', 'replace')}"
        )
    return FileHeader(
        magic,
        uuid,
        number,
        Position(offset, batch_seq, lsn, previous_crc),
        salt,
        epoch,
        created_at,
        version.rstrip(bytes(1)),
        incompatible,
        readonly,
        compatible,
        crc,
    )
