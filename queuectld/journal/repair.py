"""
Cutting a damaged journal off at its last good batch.

The last resort: what lies behind the damage was acknowledged and is given up. So the
directory is copied first, what is lost is named, and plan_repair() only looks. The cut
journal gets a fresh last segment whose epoch is above any that the removed segments can
have had: nobody may meet an epoch twice.
"""

import os
from typing import NamedTuple
from zlib import crc32

from queuectld.journal.directory import Directory, Listing, segment_name
from queuectld.journal.errors import JournalCorrupt, JournalError
from queuectld.journal.frames import (
    FRAME_HEADER_BYTES,
    Position,
    find_frames,
    unpack_records,
)
from queuectld.journal.header import HEADER_BYTES, ORIGIN, SEGMENT_MAGIC, FileHeader
from queuectld.journal.reader import FrameReader
from queuectld.journal.recovery import choose_snapshot, read_history
from queuectld.journal.segment import write_segment

#: Stands in the header of the segment that a repair begins.
REPAIR_VERSION = b"repair"


class Loss(NamedTuple):
    """
    Authentic batches behind the cut, and the keys of those that can still be read.
    """

    batch_count: int
    record_count: int
    keys: list[int]


class Repair(NamedTuple):
    """
    What a repair would do: keep segments before *number*, and *number* up to *end*.

    Segments up to *number* stay, the last of them up to *end*; if not *kept* then no segment
    stays, and the snapshot is all there is. *dropped* are the segments to remove.
    """

    damage: JournalCorrupt
    number: int
    kept: bool
    end: Position
    dropped: list[int]
    next_header: FileHeader
    loss: Loss


def plan_repair(directory: Directory, now: int, salt: bytes) -> Repair | None:
    """
    How to cut the journal, or None if it needs no repair. Changes nothing.

    Raises JournalError if cutting cannot help, OSError as it comes.
    """
    listing = directory.listing()
    uuid = directory.read_format()
    segments = listing.segments
    damage: JournalCorrupt | None = None
    while segments:
        try:
            history = read_history(
                directory, listing._replace(segments=segments), uuid, lambda _: None
            )
        except JournalCorrupt as error:
            damage = damage or error
            number = _segment_of(error, listing)
            if error.offset:
                end = _good_end(directory, number, error.offset)
                return _plan(directory, listing, damage, (number, end), now, salt)
            # Nothing of this segment can be used: look at those before it.
            remaining = [kept for kept in segments if kept < number]
            if remaining == segments:
                # It is the first since the snapshot, so there is nothing before it.
                return _plan(directory, listing, damage, None, now, salt)
            segments = remaining
        else:
            if damage is None:
                return None
            kept = (history.last.number, history.tail.end)
            return _plan(directory, listing, damage, kept, now, salt)
    if damage is None:
        path = directory.path_of(segment_name(1))
        damage = JournalCorrupt(path, 0, "the file is missing", 0)
    return _plan(directory, listing, damage, None, now, salt)


def apply_repair(directory: Directory, repair: Repair, backup: Directory) -> None:
    """
    Copy the journal's files into *backup*, then cut. The directory must be locked.

    Raises OSError as it comes; the copies are complete before anything is changed.
    """
    for name in sorted(directory.files.listdir(directory.fd)):
        if name.startswith(("seg-", "snap-", "FORMAT")):
            with directory.open(name) as file:
                backup.write(name, file.read(file.size_bytes, 0))
            backup.rename(name)
    backup.sync()
    for number in reversed(repair.dropped):
        directory.discard(segment_name(number))
    if repair.kept:
        name = segment_name(repair.number)
        with directory.open(name) as file:
            good = file.read(repair.end.offset, 0)
        directory.write(name, good)
        directory.install(name)
    segment = write_segment(directory, repair.next_header, 0)
    segment.close()
    directory.install(segment.name)


def _segment_of(error: JournalCorrupt, listing: Listing) -> int:
    name = os.path.basename(error.path)
    for number in range(1, max(listing.segments) + 1):
        if segment_name(number) == name:
            return number
    raise JournalError(
        f"{error} Cutting cannot repair this, because {name} is not a segment. "
        "Restore the directory from a backup."
    )


def _good_end(directory: Directory, number: int, offset: int) -> Position:
    header = directory.segment_header(number)
    with directory.open(segment_name(number)) as file:
        reader = FrameReader(file, header, header.start())
        frames = iter(reader)
        while reader.end.offset < offset and next(frames, None) is not None:
            pass
    return reader.records_end


def _plan(
    directory: Directory,
    listing: Listing,
    damage: JournalCorrupt,
    kept: tuple[int, Position] | None,
    now: int,
    salt: bytes,
) -> Repair:
    """*kept* is the last segment of which something stays, and its end."""
    uuid = directory.read_format()
    if kept is not None:
        number, end = kept
        epoch = directory.segment_header(number).epoch
    else:
        snapshot, _ = choose_snapshot(directory, listing, uuid)
        number = 0 if snapshot is None else snapshot.header.number - 1
        end = ORIGIN if snapshot is None else snapshot.header.previous
        epoch = 0 if snapshot is None else snapshot.header.epoch
    dropped = [n for n in listing.segments if n > number]
    # Each segment may have been a start of its own.
    epoch += max([1, *(n - number for n in dropped)])
    header = FileHeader(SEGMENT_MAGIC, uuid, number + 1, end, salt, epoch, now, REPAIR_VERSION)
    loss = _loss(directory, kept, dropped)
    return Repair(damage, number, kept is not None, end, dropped, header, loss)


def _loss(directory: Directory, kept: tuple[int, Position] | None, dropped: list[int]) -> Loss:
    batch_count = record_count = 0
    keys: set[int] = set()
    starts = dict.fromkeys(dropped, HEADER_BYTES)
    if kept is not None:
        starts[kept[0]] = kept[1].offset
    for number, start in starts.items():
        try:
            seed = directory.segment_header(number).seed()
        except JournalCorrupt:
            # Without its salt nothing in the file can be told from a stranger's bytes.
            continue
        with directory.open(segment_name(number)) as file:
            data = file.read(max(0, file.size_bytes - start), start)
        for offset, frame in find_frames(data, seed):
            batch_count += frame.record_count > 0
            record_count += frame.record_count
            payload = data[offset + FRAME_HEADER_BYTES :][: frame.payload_bytes]
            if crc32(payload, seed) == frame.payload_crc:
                keys.update(r.key for r in unpack_records(payload, frame.record_count))
    return Loss(batch_count, record_count, sorted(keys))
