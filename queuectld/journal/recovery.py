"""
Reading the whole history: the newest good snapshot, then every segment since.

Nothing here writes; Journal.open() acts on what read_history() found, and the tools only
report it. What each segment validly holds is stated by its successor's header, so a sealed
segment checks exactly or is corrupt. Only the last segment may end in a torn tail.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from queuectld.journal.directory import Directory, Listing, segment_name, snapshot_name
from queuectld.journal.errors import JournalCorrupt
from queuectld.journal.frames import FRAME_CLOSE, FRAME_SEAL, Record
from queuectld.journal.header import ORIGIN, FileHeader
from queuectld.journal.reader import FrameReader, Tail, read_tail
from queuectld.journal.snapshot import Snapshot, check_snapshot, snapshot_records


class History(NamedTuple):
    """
    What the directory holds.

    *snapshot* is where the reading began, None for segment 1. *broken_snapshots* are the
    newer ones that did not check. *last* and *tail* are the header and the end of the last
    segment. *segment_bytes* has the valid size of every segment that was read.
    """

    snapshot: Snapshot | None
    broken_snapshots: list[JournalCorrupt]
    last: FileHeader
    tail: Tail
    segment_bytes: dict[int, int]
    record_count: int


def read_history(
    directory: Directory, listing: Listing, uuid: bytes, replay: Callable[[Record], None]
) -> History:
    """
    Hand every live record to *replay*, in the order of the journal.

    Raises JournalCorrupt or JournalTooNew; *replay* may have seen some records by then.
    """
    snapshot, broken = choose_snapshot(directory, listing, uuid)
    record_count = 0
    if snapshot is not None:
        for records in snapshot_records(directory, snapshot):
            for record in records:
                replay(record)
        record_count = snapshot.record_count
    try:
        header = first_header(directory, snapshot)
    except JournalCorrupt:
        # The older generation is not whole: the newest snapshot was the only way in.
        if broken:
            raise broken[0] from None
        raise
    _check_uuid(directory, header, uuid)
    numbers = range(header.number, max(listing.segments) + 1)
    segment_bytes = {}
    for number in numbers[1:]:
        try:
            successor = directory.segment_header(number)
        except JournalCorrupt as error:
            # The damage is in the successor; only now is it known what is good before it.
            raise _with_batch(error, directory, header) from None
        _check_uuid(directory, successor, uuid)
        for records in sealed_records(directory, header, successor):
            for record in records:
                replay(record)
            record_count += len(records)
        segment_bytes[header.number] = successor.previous.offset
        header = successor
    with directory.open(segment_name(header.number)) as file:
        reader = FrameReader(file, header, header.start())
        for frame, payload in reader:
            for record in reader.records(frame, payload):
                replay(record)
            record_count += frame.record_count
        tail = read_tail(file, header, reader)
    segment_bytes[header.number] = tail.end.offset
    return History(snapshot, broken, header, tail, segment_bytes, record_count)


def choose_snapshot(
    directory: Directory, listing: Listing, uuid: bytes
) -> tuple[Snapshot | None, list[JournalCorrupt]]:
    """
    The newest snapshot that checks, and why each newer one did not.
    """
    broken = []
    for number in reversed(listing.snapshots):
        try:
            snapshot = check_snapshot(directory, number)
            if snapshot.header.uuid != uuid:
                path = directory.path_of(snapshot_name(number))
                raise JournalCorrupt(path, 0, "it belongs to another journal", 0)
        except JournalCorrupt as error:
            broken.append(error)
            continue
        return snapshot, broken
    return None, broken


def sealed_records(
    directory: Directory, header: FileHeader, successor: FileHeader
) -> Iterator[list[Record]]:
    """
    The records of a segment that has a successor, batch by batch.

    Raises JournalCorrupt unless the frames end exactly where the successor says.
    """
    end = successor.previous
    with directory.open(segment_name(header.number)) as file:
        reader = FrameReader(file, header, header.start())
        for frame, payload in reader:
            if frame.flags & (FRAME_SEAL | FRAME_CLOSE):
                continue
            # A torn tail may lie behind the end; recovery has judged and left it.
            if reader.end.offset > end.offset:
                break
            yield reader.records(frame, payload)
            if reader.records_end == end:
                return
        if reader.records_end != end:
            raise JournalCorrupt(
                file.path,
                min(reader.end.offset, end.offset),
                f"segment {successor.number} follows batch {end.batch_seq - 1} at byte "
                f"{end.offset}, but the good frames end with batch {reader.end.batch_seq - 1}",
                reader.end.batch_seq - 1,
            )


def first_header(directory: Directory, snapshot: Snapshot | None) -> FileHeader:
    """
    The header of the first segment after *snapshot*, None for the beginning of history.

    Raises JournalCorrupt unless it carries on exactly where the snapshot ends.
    """
    number = 1 if snapshot is None else snapshot.header.number
    previous = ORIGIN if snapshot is None else snapshot.header.previous
    header = directory.segment_header(number, previous.batch_seq - 1)
    if header.previous != previous:
        path = directory.path_of(segment_name(number))
        reason = "it does not carry on where the snapshot ends"
        raise JournalCorrupt(path, 0, reason, previous.batch_seq - 1)
    return header


def _check_uuid(directory: Directory, header: FileHeader, uuid: bytes) -> None:
    if header.uuid != uuid:
        path = directory.path_of(segment_name(header.number))
        reason = "it belongs to another journal"
        raise JournalCorrupt(path, 0, reason, header.previous.batch_seq - 1)


def _with_batch(error: JournalCorrupt, directory: Directory, header: FileHeader) -> JournalCorrupt:
    with directory.open(segment_name(header.number)) as file:
        reader = FrameReader(file, header, header.start())
        for _ in reader:
            pass
    return JournalCorrupt(error.path, error.offset, error.reason, reader.end.batch_seq - 1)
