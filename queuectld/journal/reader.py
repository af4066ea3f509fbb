"""
Reading frames in order, and judging what follows the last good one.

The one reader of segments and snapshots: recovery, the snapshot process and the tools all
come through here. A frame is accepted when its salted checksums match and it continues the
chain: next batch number, next record number, the file's epoch, the checksum of the frame
before. What stops the reader is judged by read_tail(), where the rule of one batch in
flight (see the package) tells a torn tail from corruption.
"""

from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from queuectld.journal.directory import OpenFile
from queuectld.journal.errors import JournalCorrupt
from queuectld.journal.frames import (
    FRAME_AFTER_SYNC,
    FRAME_CLOSE,
    FRAME_HEADER_BYTES,
    FRAME_SEAL,
    Frame,
    Position,
    Record,
    find_frames,
    unpack_frame,
    unpack_records,
)
from queuectld.journal.header import FileHeader

# How much is read at once. Frames are small; the calls are what costs.
WINDOW_BYTES = 1 << 20


class FrameReader:
    """
    Iterates over (frame, payload) from *start* for as long as the frames are good.

    *end* is the position after the last good frame, *records_end* after the last that was
    not a seal or close: those say something about what is before them and nothing else.
    """

    def __init__(self, file: OpenFile, header: FileHeader, start: Position) -> None:
        self._file = file
        self._epoch = header.epoch
        self._seed = header.seed()
        self._window = b""
        self._window_offset = 0
        self.end = start
        self.records_end = start
        self.last_flags = 0
        #: An authentic frame that does not belong here stopped the reader.
        self.misplaced = False

    def __iter__(self) -> Iterator[tuple[Frame, bytes]]:
        while (found := self._next()) is not None:
            frame, payload = found
            end = Position(
                self.end.offset + FRAME_HEADER_BYTES + frame.payload_bytes,
                frame.batch_seq + 1,
                frame.lsn + frame.record_count,
                frame.crc,
            )
            self.end = end
            self.last_flags = frame.flags
            if not frame.flags & (FRAME_SEAL | FRAME_CLOSE):
                self.records_end = end
            yield frame, payload

    def _next(self) -> tuple[Frame, bytes] | None:
        offset, batch_seq, lsn, previous_crc = self.end
        at = self._fill(offset, FRAME_HEADER_BYTES)
        frame = unpack_frame(self._window, at, self._seed)
        if frame is None:
            return None
        if (batch_seq, lsn, self._epoch, previous_crc) != (
            frame.batch_seq,
            frame.lsn,
            frame.epoch,
            frame.previous_crc,
        ):
            self.misplaced = True
            return None
        at = self._fill(offset, FRAME_HEADER_BYTES + frame.payload_bytes) + FRAME_HEADER_BYTES
        payload = self._window[at : at + frame.payload_bytes]
        if crc32(payload, self._seed) != frame.payload_crc:
            return None
        return frame, payload

    def _fill(self, offset: int, size_bytes: int) -> int:
        """Bring the bytes at *offset* into the window, if the file has them; say where."""
        at = offset - self._window_offset
        if at + size_bytes > len(self._window):
            self._window = self._file.read(max(size_bytes, WINDOW_BYTES), offset)
            self._window_offset = offset
            at = 0
        return at

    def records(self, frame: Frame, payload: bytes) -> list[Record]:
        """
        The records of the frame just read.

        Raises JournalCorrupt if they do not fill it.
        """
        try:
            return unpack_records(payload, frame.record_count)
        except ValueError as error:
            offset = self.end.offset - FRAME_HEADER_BYTES - frame.payload_bytes
            raise JournalCorrupt(self._file.path, offset, str(error), frame.batch_seq - 1) from None


class Tail(NamedTuple):
    """
    How the last segment ends.

    *end* is where its records end, *frames_end_bytes* where its frames do (a seal may
    follow). *torn_bytes* counts what lies behind the frames and is not zero. *synced* says
    that everything before *end* was synced by the process that wrote it: a seal says so,
    and so does a segment without frames. *clean* says that process closed the journal.
    """

    end: Position
    frames_end_bytes: int
    torn_bytes: int
    synced: bool
    clean: bool


def read_tail(file: OpenFile, header: FileHeader, reader: FrameReader) -> Tail:
    """
    Judge what follows the frames of the last segment; *reader* must be exhausted.

    Raises JournalCorrupt if acknowledged batches were there.
    """
    offset = reader.end.offset
    rest = file.read(max(0, file.size_bytes - offset), offset).rstrip(b"\0")
    last_good = reader.end.batch_seq - 1
    if reader.misplaced:
        reason = "a frame that belongs elsewhere"
        raise JournalCorrupt(file.path, offset, reason, last_good)
    for at, frame in find_frames(rest, header.seed()):
        if frame.flags & FRAME_AFTER_SYNC and frame.batch_seq > reader.end.batch_seq:
            raise JournalCorrupt(
                file.path,
                offset,
                f"batch {frame.batch_seq} at byte {offset + at} was written after "
                f"batch {reader.end.batch_seq} was synced, which should be here",
                last_good,
            )
    synced = reader.end == reader.records_end and reader.end == header.start()
    sealed = bool(reader.last_flags & (FRAME_SEAL | FRAME_CLOSE))
    return Tail(
        reader.records_end,
        offset,
        len(rest),
        synced or sealed,
        bool(reader.last_flags & FRAME_CLOSE) and not rest,
    )
