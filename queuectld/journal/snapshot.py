"""
Snapshots: the live records of everything before a segment, in the order of the journal.

Replaying a snapshot is replaying a subsequence of history. The file is a header, batch
frames of about FRAME_PAYLOAD_BYTES, and a footer frame that only a whole snapshot has:

    0  live record count u64   8  bytes before the footer u64   16  BLAKE2b-128 of them

The frames number batches and records from 1, as a history of their own; the header says
with what batch segment N carries on.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from queuectld.journal.directory import Directory, OpenFile, snapshot_name
from queuectld.journal.errors import JournalCorrupt
from queuectld.journal.files import write_all
from queuectld.journal.frames import (
    FRAME_FOOTER,
    FRAME_HEADER_BYTES,
    Position,
    Record,
    pack_frame,
    unpack_frame,
)
from queuectld.journal.header import (
    HEADER_BYTES,
    ORIGIN,
    SNAPSHOT_MAGIC,
    FileHeader,
    unpack_header,
)
from queuectld.journal.reader import FrameReader

FRAME_PAYLOAD_BYTES = 1 << 20

_FOOTER = struct.Struct("<QQ16s")
_FOOTER_BYTES = FRAME_HEADER_BYTES + _FOOTER.size
_DIGEST_BYTES = 16
_READ_BYTES = 1 << 20


class Snapshot(NamedTuple):
    """
    A snapshot whose footer is in place.
    """

    header: FileHeader
    record_count: int
    size_bytes: int


class SnapshotWriter:
    """
    Writes one snapshot under its unfinished name; add() records, then finish().

    All methods raise OSError as it comes; abandon() after an error leaves nothing behind.
    """

    def __init__(self, directory: Directory, header: FileHeader) -> None:
        assert header.magic == SNAPSHOT_MAGIC
        packed = header.pack()
        header = unpack_header(packed, SNAPSHOT_MAGIC)
        self._directory = directory
        self._files = directory.files
        self._name = f"{snapshot_name(header.number)}.tmp"
        self._epoch = header.epoch
        self._seed = header.seed()
        self._position = _start(header)
        self._digest = blake2b(packed, digest_size=_DIGEST_BYTES)
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self.record_count = 0
        self._fd = self._files.create(directory.fd, self._name)
        try:
            write_all(self._files, self._fd, packed, 0)
        except BaseException:
            self.abandon()
            raise

    def add(self, record: bytes) -> None:
        """
        Append one packed record.
        """
        if self._batch and self._batch_bytes + len(record) > FRAME_PAYLOAD_BYTES:
            self._flush()
        self._batch.append(record)
        self._batch_bytes += len(record)
        self.record_count += 1

    def finish(self) -> None:
        """
        Write the footer, sync and close.
        """
        if self._batch:
            self._flush()
        footer = _FOOTER.pack(self.record_count, self._position.offset, self._digest.digest())
        self._write(footer, 0, FRAME_FOOTER)
        self._files.fsync(self._fd)
        self._files.close(self._fd)

    def abandon(self) -> None:
        """
        Close and remove the file.
        """
        with suppress(OSError):
            self._files.close(self._fd)
        with suppress(OSError):
            self._directory.discard(self._name)

    def _flush(self) -> None:
        self._write(b"".join(self._batch), len(self._batch), 0)
        self._batch.clear()
        self._batch_bytes = 0

    def _write(self, payload: bytes, record_count: int, flags: int) -> None:
        frame, crc = pack_frame(
            payload, record_count, self._position, self._epoch, flags, self._seed
        )
        offset, batch_seq, lsn, _ = self._position
        write_all(self._files, self._fd, frame, offset)
        self._digest.update(frame)
        self._position = Position(offset + len(frame), batch_seq + 1, lsn + record_count, crc)


def check_footer(directory: Directory, number: int, *, suffix: str = "") -> Snapshot:
    """
    The snapshot of segment *number*, whose header and footer are right.

    Reads two short pieces. Raises JournalCorrupt, JournalTooNew, FileNotFoundError.
    """
    with directory.open(snapshot_name(number) + suffix) as file:
        snapshot, _ = _read_footer(file, number)
        return snapshot


def check_snapshot(directory: Directory, number: int, *, suffix: str = "") -> Snapshot:
    """
    The snapshot of segment *number*, every byte of which is as it was written.

    Raises JournalCorrupt, JournalTooNew, FileNotFoundError.
    """
    with directory.open(snapshot_name(number) + suffix) as file:
        snapshot, expected = _read_footer(file, number)
        digest = blake2b(digest_size=_DIGEST_BYTES)
        end = snapshot.size_bytes - _FOOTER_BYTES
        for offset in range(0, end, _READ_BYTES):
            digest.update(file.read(min(_READ_BYTES, end - offset), offset))
        if digest.digest() != expected:
            raise JournalCorrupt(file.path, 0, "its checksum does not match", 0)
        return snapshot


def snapshot_records(directory: Directory, snapshot: Snapshot) -> Iterator[list[Record]]:
    """
    The records of a checked snapshot, batch by batch.

    Raises JournalCorrupt if the frames do not lead exactly to the footer.
    """
    with directory.open(snapshot_name(snapshot.header.number)) as file:
        reader = FrameReader(file, snapshot.header, _start(snapshot.header))
        record_count = 0
        for frame, payload in reader:
            if frame.flags & FRAME_FOOTER:
                break
            record_count += frame.record_count
            yield reader.records(frame, payload)
        if (record_count, snapshot.size_bytes) != (snapshot.record_count, reader.end.offset):
            raise JournalCorrupt(
                file.path,
                reader.end.offset,
                f"{record_count} of {snapshot.record_count} records could be read",
                0,
            )


def _start(header: FileHeader) -> Position:
    return ORIGIN._replace(offset=HEADER_BYTES, crc=header.crc)


def _read_footer(file: OpenFile, number: int) -> tuple[Snapshot, bytes]:
    header = file.header(SNAPSHOT_MAGIC)
    if header.number != number:
        reason = f"it is snapshot {header.number} under another name"
        raise JournalCorrupt(file.path, 0, reason, 0)
    start = file.size_bytes - _FOOTER_BYTES
    footer = file.read(_FOOTER_BYTES, max(start, HEADER_BYTES))
    frame = unpack_frame(footer, 0, header.seed())
    payload = footer[FRAME_HEADER_BYTES:]
    if (
        frame is None
        or not frame.flags & FRAME_FOOTER
        or len(payload) != _FOOTER.size
        or crc32(payload, header.seed()) != frame.payload_crc
    ):
        raise JournalCorrupt(file.path, 0, "it has no footer, so it is not whole", 0)
    record_count, size_bytes, digest = _FOOTER.unpack(payload)
    if size_bytes != start:
        raise JournalCorrupt(file.path, 0, f"it has {start} bytes of {size_bytes}", 0)
    return Snapshot(header, record_count, file.size_bytes), digest
