"""
What opening a journal writes: a first segment, or the successor of the last one.

Order matters in every step. The directory is synced before its names are believed (a
rename may live only in the page cache after a kill). Unsynced records are copied to a new
file before the next segment's header vouches for them. An old segment is never appended
to; of one whose end is certain only the unused runway is cut off.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from queuectld.journal.compaction import removable
from queuectld.journal.directory import (
    FORMAT,
    NO_SPACE,
    Directory,
    Listing,
    format_line,
    segment_name,
    snapshot_name,
)
from queuectld.journal.errors import JournalCorrupt, JournalTooNew
from queuectld.journal.frames import Position, Record
from queuectld.journal.header import HEADER_BYTES, ORIGIN, FileHeader
from queuectld.journal.reader import FrameReader, read_tail
from queuectld.journal.recovery import History, read_history
from queuectld.journal.segment import Segment, write_segment

# What a start on a full disk makes do with until there is more.
RUNWAY_BYTES_MIN = 64 << 10

#: (uuid, number, previous, epoch) -> the header of a new segment, with a fresh salt.
MakeHeader = Callable[[bytes, int, Position, int], FileHeader]


class Recovered(NamedTuple):
    """
    What Journal.open() found.

    *record_count* records were replayed. *torn_bytes* were ignored behind the last good
    batch; nobody was told that they exist. *snapshot* is the file that was used. *clean*
    says that the last daemon closed the journal. *notes* are sentences for the log.
    """

    epoch: int
    record_count: int
    torn_bytes: int
    segment_count: int
    snapshot: str | None
    clean: bool
    notes: list[str]


class Opened(NamedTuple):
    """
    An open journal's parts: sizes of its still files by number, and the segment to write.
    """

    segment: Segment
    sealed: dict[int, int]
    snapshots: dict[int, int]
    full: bool
    recovered: Recovered


def open_history(
    directory: Directory,
    replay: Callable[[Record], None],
    make_header: MakeHeader,
    runway_bytes: int,
    random_bytes: Callable[[int], bytes],
) -> Opened:
    """
    Recover a locked directory and begin a new segment, durable on return.

    Raises JournalCorrupt, JournalTooNew, OSError.
    """
    directory.sync()
    listing = directory.listing()
    if not listing.has_format:
        return _set_up(directory, listing, random_bytes(16), make_header, runway_bytes)
    uuid = directory.read_format()
    for name in listing.unfinished:
        directory.discard(name)
    history = read_history(directory, listing, uuid, replay)
    if history.last.readonly_bits:
        raise JournalTooNew(
            f"{directory.path} was written with features {history.last.readonly_bits:#x} of a "
            "newer queuectl, which this one may read but not change. Run that version."
        )
    if not history.tail.synced:
        _copy_tail(directory, history)
    header = make_header(uuid, history.last.number + 1, history.tail.end, history.last.epoch + 1)
    segment, full = _begin(directory, header, runway_bytes)
    try:
        if history.tail.synced and not history.tail.torn_bytes:
            _cut_runway(directory, history)
        for error in history.broken_snapshots:
            name = os.path.basename(error.path)
            directory.files.rename(directory.fd, name, f"{name}.broken")
        for name in removable(directory.listing()):
            directory.discard(name)
        return _describe(directory, history, segment, full)
    except BaseException:
        segment.close()
        raise


def _set_up(
    directory: Directory,
    listing: Listing,
    uuid: bytes,
    make_header: MakeHeader,
    runway_bytes: int,
) -> Opened:
    """Begin a new journal. FORMAT comes last: without it, nothing was ever acknowledged."""
    _check_interrupted(directory, listing)
    for name in [*listing.unfinished, *map(segment_name, listing.segments)]:
        directory.discard(name)
    segment, full = _begin(directory, make_header(uuid, 1, ORIGIN, 1), runway_bytes)
    try:
        directory.write(FORMAT, format_line(uuid))
        directory.install(FORMAT)
    except BaseException:
        segment.close()
        raise
    return Opened(segment, {}, {}, full, Recovered(1, 0, 0, 1, None, True, []))


def _check_interrupted(directory: Directory, listing: Listing) -> None:
    """Refuse a directory without FORMAT unless it is what an interrupted set-up leaves."""
    if listing.segments == [1] and not listing.snapshots:
        header = directory.segment_header(1)
        with directory.open(segment_name(1)) as file:
            reader = FrameReader(file, header, header.start())
            for _ in reader:
                pass
            if reader.end == header.start() and not read_tail(file, header, reader).torn_bytes:
                return
    elif not listing.segments and not listing.snapshots:
        return
    raise JournalCorrupt(directory.path_of(FORMAT), 0, "the file is missing", 0)


def _begin(directory: Directory, header: FileHeader, runway_bytes: int) -> tuple[Segment, bool]:
    """A new segment, durable; True with it if there was room for a short runway only."""
    full = False
    try:
        segment = write_segment(directory, header, runway_bytes)
    except OSError as error:
        if error.errno not in NO_SPACE or runway_bytes <= RUNWAY_BYTES_MIN:
            raise
        segment = write_segment(directory, header, RUNWAY_BYTES_MIN)
        full = True
    try:
        directory.install(segment.name)
    except BaseException:
        segment.close()
        raise
    return segment, full


def _copy_tail(directory: Directory, history: History) -> None:
    """
    Replace the last segment by a synced copy of its good frames.

    Its writer may have seen a sync fail. The kernel then calls the pages clean, so what was
    just read need not be on disk and syncing the same file again would prove nothing.
    """
    name = segment_name(history.last.number)
    with directory.open(name) as file:
        good = file.read(history.tail.end.offset, 0)
    directory.write(name, good)
    directory.install(name)


def _cut_runway(directory: Directory, history: History) -> None:
    """Give back the zeros behind a segment that is followed by a durable successor."""
    name = segment_name(history.last.number)
    fd = directory.files.open(directory.fd, name, writable=True)
    try:
        directory.files.ftruncate(fd, max(history.tail.frames_end_bytes, HEADER_BYTES))
    finally:
        directory.files.close(fd)


def _describe(directory: Directory, history: History, segment: Segment, full: bool) -> Opened:
    listing = directory.listing()
    sealed = dict(history.segment_bytes)
    for number in listing.segments[:-1]:
        if number not in sealed:
            with directory.open(segment_name(number)) as file:
                sealed[number] = file.size_bytes
    snapshots = {}
    for number in listing.snapshots:
        with directory.open(snapshot_name(number)) as file:
            snapshots[number] = file.size_bytes
    notes = [
        f"A snapshot failed its checks; the generation before it was used. {error}"
        for error in history.broken_snapshots
    ]
    if history.tail.torn_bytes:
        notes.append(
            f"{history.tail.torn_bytes} bytes behind the last good batch of "
            f"{segment_name(history.last.number)} were ignored: a write that was never "
            "acknowledged."
        )
    if full:
        notes.append("There was room for a short runway only; the journal starts full.")
    recovered = Recovered(
        segment.header.epoch,
        history.record_count,
        history.tail.torn_bytes,
        len(listing.segments),
        None if history.snapshot is None else snapshot_name(history.snapshot.header.number),
        history.tail.clean,
        notes,
    )
    return Opened(segment, sealed, snapshots, full, recovered)
