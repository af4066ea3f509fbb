"""
The journal as the daemon uses it: one directory, one writer, one batch in flight.

open() recovers and begins a new segment with the next epoch; commit() appends one batch
and, with durability "always", returns when it is on disk. The writing calls come from one
thread, one at a time; the plain attributes may be read from any.

States: usable; *full* (no room to grow: small batches still go into the runway, others are
refused with JournalFull, and try_extend() ends it); *failed* (a write or sync failed: final,
every later call raises JournalFailed). See the package for the rules behind the order of calls.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, NoReturn

from queuectld.journal.access import lock_directory
from queuectld.journal.compaction import removable
from queuectld.journal.directory import NO_SPACE, Directory, snapshot_name
from queuectld.journal.errors import JournalError, JournalFailed, JournalFull
from queuectld.journal.files import Files
from queuectld.journal.frames import (
    BATCH_BYTES_MAX,
    FRAME_AFTER_SYNC,
    FRAME_CLOSE,
    FRAME_HEADER_BYTES,
    FRAME_SEAL,
    Position,
    Record,
)
from queuectld.journal.header import HEADER_BYTES, SEGMENT_MAGIC, FileHeader
from queuectld.journal.opening import Recovered as Recovered
from queuectld.journal.opening import open_history
from queuectld.journal.segment import Segment, write_segment
from queuectld.journal.snapshot import check_footer

# A segment is the unit that snapshots replace and that recovery copies after a crash: a
# few tenths of a second of either on a slow disk.
SEGMENT_BYTES = 16 << 20

# At about 200 bytes an exit, the runway records 20,000 of them on a full disk.
RUNWAY_BYTES = 4 << 20

# A snapshot is worth its writing when more than this waits to be replayed at a start.
SEALED_COUNT_MAX = 4
SEALED_BYTES_MIN = 1 << 20

Durability = Literal["always", "interval", "off"]


class Journal:
    """
    The ordered, durable history of the queue.

    Time comes from *now* (ms since the epoch) and randomness from *random_bytes*; *version*
    is written into each segment for the people who will read it. Every method may raise
    JournalFailed; what else it raises is said with it.
    """

    def __init__(
        self,
        directory: str,
        *,
        files: Files | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        now: Callable[[], int],
        version: str,
        durability: Durability = "always",
        segment_bytes: int = SEGMENT_BYTES,
        runway_bytes: int = RUNWAY_BYTES,
    ) -> None:
        self.directory = directory
        self.durability = durability
        self.full = False
        self.failed = False
        self.epoch = 0
        self.segment_count = 0
        #: How long the last sync took.
        self.last_sync_ms = 0
        self._files = files or Files()
        self._random_bytes = random_bytes
        self._now = now
        self._version = version.encode("ascii", "replace")
        self._segment_bytes = segment_bytes
        self._runway_bytes = runway_bytes
        self._dir: Directory | None = None
        self._segment: Segment | None = None
        #: A commit that ends beyond this has something to do first: see _make_room().
        self._easy_end = 0
        #: Frames were written since the last sync. Never between calls with "always".
        self._unsynced = False
        self._idle = False
        #: Valid bytes of every file that is not written to any more, by number.
        self._sealed: dict[int, int] = {}
        self._snapshots: dict[int, int] = {}
        self._still_bytes = 0
        #: The segment whose snapshot is being written by the other process.
        self._snapshot_number: int | None = None

    def open(self, replay: Callable[[Record], None]) -> Recovered:
        """
        Take the directory, hand its live records to *replay*, begin a new segment.

        Raises JournalLocked, JournalUnsafe, JournalCorrupt, JournalTooNew, JournalFull.
        After an error nothing is held, and what *replay* was given must be forgotten.
        """
        assert self._dir is None, "the journal is open"
        try:
            self._dir = lock_directory(self._files, self.directory)
            opened = open_history(
                self._dir, replay, self._header, self._runway_bytes, self._random_bytes
            )
        except OSError as error:
            if error.errno in NO_SPACE:
                raise JournalFull(
                    f"{self.directory} has no room to recover into: {error}. Free at least "
                    f"{2 * (self._segment_bytes + self._runway_bytes) >> 20} MiB and start again."
                ) from error
            raise JournalFailed(f"{self.directory} cannot be opened: {error}") from error
        else:
            self._segment = opened.segment
            self._sealed = opened.sealed
            self._snapshots = opened.snapshots
            self._idle = True
            self.full = opened.full
            self.epoch = opened.recovered.epoch
            self._set_easy_end()
            self._count_still()
            return opened.recovered
        finally:
            if self._segment is None:
                self._release()

    def commit(self, records: Sequence[bytes]) -> None:
        """
        Append packed records as one batch: all of them survive, or none.

        Durable on return with durability "always". Raises JournalFull with nothing written.
        """
        if self.failed or self._segment is None:
            self._refuse()
        payload = b"".join(records)
        size_bytes = len(payload)
        assert 0 < size_bytes <= BATCH_BYTES_MAX, size_bytes
        if self._segment.tail + FRAME_HEADER_BYTES + size_bytes > self._easy_end:
            self._make_room(size_bytes)
        try:
            flags = 0 if self._unsynced else FRAME_AFTER_SYNC
            self._segment.append(payload, len(records), flags)
            self._unsynced = True
            self._idle = False
            if self.durability == "always":
                self._sync()
        except OSError as error:
            self._fail(error)

    def sync(self) -> None:
        """
        Wait until every committed batch is durable.
        """
        if self.failed or self._segment is None:
            self._refuse()
        try:
            if self._unsynced:
                self._sync()
        except OSError as error:
            self._fail(error)

    def seal(self) -> None:
        """
        Say on disk that everything so far is synced; for when the daemon falls idle.

        After a seal even damage to the very last batch is told from a torn tail. Does
        nothing if nothing was committed since the last, or if the runway has no room.
        """
        self._close_batches(FRAME_SEAL)

    def close(self) -> None:
        """
        Write the closing frame if the journal is usable, and let the directory go.
        """
        try:
            if self._segment is not None and not self.failed:
                self._idle = False
                self._close_batches(FRAME_CLOSE)
        finally:
            self._release()

    def rotate(self) -> bool:
        """
        Begin a new segment unless the last is empty; False if there is no room for one.
        """
        if self.failed or self._segment is None:
            self._refuse()
        if self._segment.tail > HEADER_BYTES and not self._rotate(self._segment):
            return False
        self._set_easy_end()
        return True

    def try_extend(self) -> bool:
        """
        If the journal is full, try to grow again. Returns whether it is not full now.
        """
        if self.failed or self._segment is None:
            self._refuse()
        if self.full and self._extend(self._segment.tail + self._runway_bytes):
            self.full = False
            if self._segment.tail >= self._segment_bytes:
                self._rotate(self._segment)
            self._set_easy_end()
        return not self.full

    @property
    def size_bytes(self) -> int:
        """
        Valid bytes of all files of the journal.
        """
        segment = self._segment
        return self._still_bytes + (0 if segment is None else segment.tail)

    def wants_snapshot(self) -> bool:
        """
        Whether enough waits to be replayed that a snapshot is worth its writing.
        """
        if self._snapshot_number is not None or not self._sealed:
            return False
        newest = max(self._snapshots, default=0)
        waiting = [size for number, size in self._sealed.items() if number >= newest]
        waiting_bytes = sum(waiting)
        return len(waiting) > SEALED_COUNT_MAX or (
            waiting_bytes > max(SEALED_BYTES_MIN, 2 * self._snapshots.get(newest, 0))
        )

    def snapshot_command(self) -> list[str]:
        """
        The command of the process that writes a snapshot of all sealed segments.

        Call rotate() first, so that what is in the last segment is included. When the
        process has ended, finish_snapshot() if its status was 0, else abandon_snapshot().
        """
        assert self._dir is not None, "the journal is not open"
        assert self._segment is not None
        assert self._snapshot_number is None, "a snapshot is being written"
        self._snapshot_number = self._segment.header.number
        # The code that runs is the code of this process, wherever either was started.
        package_path = os.path.abspath(__file__).rsplit(os.sep, 3)[0]
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from queuectld.journal.compaction import main; sys.exit(main(sys.argv[2:]))"
        )
        number = str(self._snapshot_number)
        return [sys.executable, "-I", "-c", program, package_path, self.directory, number]

    def finish_snapshot(self) -> str:
        """
        Take the finished snapshot into use, delete what it replaces; return its name.

        Raises JournalCorrupt if it is not whole; it is abandoned then.
        """
        if self.failed or self._dir is None:
            self._refuse()
        number = self._snapshot_number
        assert number is not None, "no snapshot is being written"
        name = snapshot_name(number)
        try:
            try:
                snapshot = check_footer(self._dir, number, suffix=".tmp")
                self._dir.rename(name)
            except (JournalError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in NO_SPACE:
                    raise
                self.abandon_snapshot()
                raise
            self._dir.sync()
            # Durable from here on; only now may anything else go.
            self._snapshots[number] = snapshot.size_bytes
            self._snapshot_number = None
            self._delete_removable(self._dir)
        except OSError as error:
            self._fail(error)
        return name

    def abandon_snapshot(self) -> None:
        """
        Forget the snapshot whose process has failed.
        """
        if self.failed or self._dir is None:
            self._refuse()
        number = self._snapshot_number
        assert number is not None, "no snapshot is being written"
        self._snapshot_number = None
        try:
            self._dir.discard(f"{snapshot_name(number)}.tmp")
        except OSError as error:
            self._fail(error)

    def _make_room(self, payload_bytes: int) -> None:
        """What commit() has to do once in a while: rotate, extend, or refuse."""
        assert self._segment is not None
        if self._segment.tail >= self._segment_bytes and not self.full:
            self._rotate(self._segment)
        end = self._segment.tail + FRAME_HEADER_BYTES + payload_bytes
        if not self.full or end > self._segment.runway_end:
            # A quarter at a time: few enough zeros to ride along with this batch's sync,
            # enough of them that the file's size changes seldom.
            self._extend(end + self._runway_bytes * 3 // 4)
        self._set_easy_end()
        if end > self._segment.runway_end:
            raise JournalFull(
                f"{self.directory} has no room for a batch of {payload_bytes} bytes and "
                "nothing of it was written. Free space on its disk; the journal resumes by itself."
            )

    def _set_easy_end(self) -> None:
        assert self._segment is not None
        if self.full:
            # Nothing can be done about the runway; use all of it.
            self._easy_end = self._segment.runway_end
        else:
            comfort = self._segment.runway_end - self._runway_bytes // 2
            self._easy_end = min(comfort, self._segment_bytes)

    def _extend(self, target: int) -> bool:
        """Grow the runway to *target*, or as far as there is room: then the journal is full."""
        assert self._segment is not None
        try:
            self._segment.extend(target)
        except OSError as error:
            if error.errno not in NO_SPACE:
                self._fail(error)
            self.full = True
            return False
        return True

    def _rotate(self, segment: Segment) -> bool:
        """Replace *segment* by a new one; without room for one the journal is full."""
        assert self._dir is not None
        try:
            # The successor's header will vouch for what is here.
            if self._unsynced:
                self._sync()
        except OSError as error:
            self._fail(error)
        number = segment.header.number
        header = self._header(segment.header.uuid, number + 1, segment.records_end, self.epoch)
        try:
            successor = write_segment(self._dir, header, self._runway_bytes)
        except OSError as error:
            if error.errno not in NO_SPACE:
                self._fail(error)
            self.full = True
            return False
        self._segment = successor
        try:
            # No way back from here, whatever the error: if the rename did happen, batches
            # that went on into the old segment would be cut off at what the new one says.
            self._dir.install(successor.name)
            self._sealed[number] = segment.records_end.offset
            self._idle = True
            self._count_still()
            segment.cut_runway()
        except OSError as error:
            self._fail(error)
        finally:
            with suppress(OSError):
                segment.close()
        return True

    def _header(self, uuid: bytes, number: int, previous: Position, epoch: int) -> FileHeader:
        salt = self._random_bytes(8)
        return FileHeader(
            SEGMENT_MAGIC, uuid, number, previous, salt, epoch, self._now(), self._version
        )

    def _sync(self) -> None:
        assert self._segment is not None
        started_at = self._now()
        self._segment.sync()
        self._unsynced = False
        self.last_sync_ms = max(0, self._now() - started_at)

    def _close_batches(self, flag: int) -> None:
        if self.failed or self._segment is None:
            self._refuse()
        try:
            if self._unsynced:
                self._sync()
            if not self._idle and self._segment.fits(0):
                self._segment.append(b"", 0, flag | FRAME_AFTER_SYNC)
                self._sync()
                self._idle = True
        except OSError as error:
            self._fail(error)

    def _delete_removable(self, directory: Directory) -> None:
        for name in removable(directory.listing()):
            directory.discard(name)
        oldest = min(sorted(self._snapshots)[-2:])
        if len(self._snapshots) > 1:
            self._snapshots = {n: size for n, size in self._snapshots.items() if n >= oldest}
            self._sealed = {n: size for n, size in self._sealed.items() if n >= oldest}
        self._count_still()

    def _count_still(self) -> None:
        self._still_bytes = sum(self._sealed.values()) + sum(self._snapshots.values())
        self.segment_count = len(self._sealed) + 1

    def _fail(self, error: OSError) -> NoReturn:
        self.failed = True
        raise JournalFailed(
            f"{self.directory}: {error}. What was not acknowledged may or may not be stored. "
            "Check the disk, then start queuectld again; it recovers what is there."
        ) from error

    def _refuse(self) -> NoReturn:
        assert self.failed, "the journal is not open"
        raise JournalFailed(
            f"{self.directory} failed earlier and takes nothing more. "
            "Check the disk, then start queuectld again; it recovers what is there."
        )

    def _release(self) -> None:
        # The bytes are synced or lost by now; a close that fails changes neither.
        if self._segment is not None:
            with suppress(OSError):
                self._segment.close()
        if self._dir is not None:
            with suppress(OSError):
                self._files.close(self._dir.fd)
        self._segment = None
        self._dir = None
