"""
The segment that is being written.

    header | frames ... tail | runway: zeros ... runway_end |

Invariants: every byte from tail to runway_end is zero or part of a write that never was
acknowledged; nothing is written beyond runway_end but zeros; the position (batch number,
record number, chain) moves only after a write has returned, so a refused batch may be
tried again as if nothing had happened.
"""

from contextlib import suppress

from queuectld.journal.directory import Directory, segment_name
from queuectld.journal.files import write_all
from queuectld.journal.frames import FRAME_HEADER_BYTES, Position, pack_frame
from queuectld.journal.header import HEADER_BYTES, FileHeader, unpack_header

_ZEROS = bytes(1 << 20)


class Segment:
    """
    One segment file open for appending. All methods raise OSError as it comes.
    """

    def __init__(self, directory: Directory, fd: int, header: FileHeader) -> None:
        self._files = directory.files
        self._fd = fd
        self._epoch = header.epoch
        self._seed = header.seed()
        self._position = header.start()
        self.header = header
        self.name = segment_name(header.number)
        #: Where the records end: what the next segment will call our valid length. A
        #: trailing seal is left out, because whether the seal itself was synced may never
        #: be known, while what it vouches for was.
        self.records_end = self._position
        self.tail = HEADER_BYTES
        self.runway_end = HEADER_BYTES

    def append(self, payload: bytes, record_count: int, flags: int) -> None:
        """
        Write one frame at the tail, inside the runway. Not synced.
        """
        frame, crc = pack_frame(
            payload, record_count, self._position, self._epoch, flags, self._seed
        )
        offset, batch_seq, lsn, _ = self._position
        end = offset + len(frame)
        assert end <= self.runway_end, (end, self.runway_end)
        write_all(self._files, self._fd, frame, offset)
        self.tail = end
        self._position = Position(end, batch_seq + 1, lsn + record_count, crc)
        if record_count:
            self.records_end = self._position

    def fits(self, payload_bytes: int) -> bool:
        """
        Whether a frame with this payload fits into the runway.
        """
        return self.tail + FRAME_HEADER_BYTES + payload_bytes <= self.runway_end

    def extend(self, target: int) -> None:
        """
        Write zeros until the runway reaches *target*. Not synced: the next sync covers them.

        What was written before an error counts.
        """
        while self.runway_end < target:
            zeros = memoryview(_ZEROS)[: target - self.runway_end]
            count = self._files.pwrite(self._fd, zeros, self.runway_end)
            if count <= 0:
                raise OSError("the kernel took none of the bytes of a write")
            self.runway_end += count

    def sync(self) -> None:
        """
        Wait until every frame is durable.
        """
        self._files.fdatasync(self._fd)

    def cut_runway(self) -> None:
        """
        Give the runway back; nothing can be appended any more.
        """
        self._files.ftruncate(self._fd, self.tail)

    def close(self) -> None:
        """
        Close the file as it is.
        """
        self._files.close(self._fd)


def write_segment(directory: Directory, header: FileHeader, runway_bytes: int) -> Segment:
    """
    A new segment with a runway, synced, under its unfinished name.

    Raises OSError as it comes, and leaves nothing behind then.
    """
    files = directory.files
    name = segment_name(header.number)
    packed = header.pack()
    fd = files.create(directory.fd, f"{name}.tmp")
    try:
        write_all(files, fd, packed, 0)
        segment = Segment(directory, fd, unpack_header(packed, header.magic))
        segment.extend(HEADER_BYTES + runway_bytes)
        files.fsync(fd)
    except BaseException:
        with suppress(OSError):
            files.close(fd)
        with suppress(OSError):
            directory.discard(f"{name}.tmp")
        raise
    return segment
