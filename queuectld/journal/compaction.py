"""
Making what is old smaller: which records live on, and which files may go.

A snapshot is a merge of files that never change again: the snapshot before it and the
sealed segments since. So it is made by a process of its own (main() below), niced, without
the lock, reading with the same code as recovery; the daemon pays for none of it, and each
snapshot is a test of the journal. A fork of the daemon would copy its whole heap.

A record lives on if it is the last with its (key, part) and no later record forgets its
key. Live records keep the order of the journal, so replaying a snapshot is replaying a
subsequence of history.
"""

import os
import sys
from collections.abc import Callable, Iterator

from queuectld.journal.directory import (
    Directory,
    Listing,
    segment_name,
    snapshot_name,
)
from queuectld.journal.errors import JournalError
from queuectld.journal.files import Files
from queuectld.journal.frames import RECORD_FORGET, Record, pack_record
from queuectld.journal.header import SNAPSHOT_MAGIC
from queuectld.journal.recovery import first_header, sealed_records
from queuectld.journal.snapshot import (
    Snapshot,
    SnapshotWriter,
    check_snapshot,
    snapshot_records,
)

EXIT_REFUSED = 65
EXIT_FAILED = 74


def removable(listing: Listing) -> list[str]:
    """
    The files that two generations no longer need, in the order to delete them.

    Kept are the newest two snapshots and every segment since the older one. The first
    snapshot's other generation is the whole journal, so nothing may go before the second.
    """
    if len(listing.snapshots) < 2:
        return []
    oldest = listing.snapshots[-2]
    # Snapshots first: one that outlives its segments would be a generation that is not whole.
    return [snapshot_name(number) for number in listing.snapshots if number < oldest] + [
        segment_name(number) for number in listing.segments if number < oldest
    ]


def live_records(read: Callable[[], Iterator[list[Record]]]) -> Iterator[bytes]:
    """
    The records that live on, packed, in order. *read* is called twice and must agree.

    Holds one number per (key, part) in memory, and no bodies.
    """
    last: dict[int, int] = {}
    forgotten: dict[int, int] = {}
    ordinal = 0
    for records in read():
        for _, flags, part, key, _ in records:
            ordinal += 1
            if flags & RECORD_FORGET:
                forgotten[key] = ordinal
            else:
                last[key << 16 | part] = ordinal
    ordinal = 0
    for records in read():
        for record in records:
            ordinal += 1
            _, flags, part, key, _ = record
            if (
                not flags & RECORD_FORGET
                and last[key << 16 | part] == ordinal
                and forgotten.get(key, 0) < ordinal
            ):
                yield pack_record(*record)


def write_snapshot(
    directory: Directory, number: int, random_bytes: Callable[[int], bytes] = os.urandom
) -> Snapshot:
    """
    Write the snapshot of everything before segment *number* under its unfinished name.

    It is synced and read back. The bases are the newest older snapshot and the segments
    since. Raises JournalCorrupt if a source does not check, OSError as it comes.
    """
    successor = directory.segment_header(number)
    older = [base for base in directory.listing().snapshots if base < number]
    base = check_snapshot(directory, older[-1]) if older else None

    def read() -> Iterator[list[Record]]:
        if base is not None:
            yield from snapshot_records(directory, base)
        header = first_header(directory, base)
        while header.number < number:
            following = directory.segment_header(header.number + 1)
            yield from sealed_records(directory, header, following)
            header = following

    # Everything but the salt is that of the segment this snapshot leads up to.
    header = successor._replace(magic=SNAPSHOT_MAGIC, salt=random_bytes(8))
    writer = SnapshotWriter(directory, header)
    try:
        for record in live_records(read):
            writer.add(record)
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return check_snapshot(directory, number, suffix=".tmp")


def main(arguments: list[str]) -> int:
    """
    Write one snapshot: DIRECTORY NUMBER. Returns the exit status.

    0 is a whole, synced snapshot under its unfinished name; any other leaves nothing that
    the daemon would use, and stderr says why.
    """
    path, number = arguments
    os.nice(19)
    files = Files()
    try:
        directory = Directory(files, path, files.open_directory(path))
        directory.discard(f"{snapshot_name(int(number))}.tmp")
        write_snapshot(directory, int(number))
    except JournalError as error:
        sys.stderr.write(f"snapshot refused: {error}\n")
        return EXIT_REFUSED
    except OSError as error:
        sys.stderr.write(f"snapshot failed: {path}: {error}\n")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
