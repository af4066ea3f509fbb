"""
No space left is a state: the runway goes on taking small batches, and room ends it.
"""

import errno
import os
from pathlib import Path

import pytest
from journal_twins import LimitedFiles, make_journal, pack, read_back, record

from queuectld.journal.errors import JournalFailed, JournalFull
from queuectld.journal.files import Files
from queuectld.journal.frames import Record

ROOM = 20_000


def small(key: int) -> list[Record]:
    return [record(key, b"exit")]


def test_full_disk_keeps_taking_small_batches_then_refuses(tmp_path: Path) -> None:
    """
    Without room to grow the runway is used up to its last frame; then nothing is written.
    """
    files = LimitedFiles(5_000)
    journal = make_journal(tmp_path / "j", files, runway_bytes=4096, segment_bytes=1 << 16)
    journal.open(lambda _: None)
    assert not journal.full
    committed = []
    refused = None
    for key in range(1000):
        try:
            journal.commit(pack(small(key)))
        except JournalFull:
            refused = key
            break
        committed += small(key)
    assert journal.full
    assert refused is not None
    assert len(committed) * 72 > 4096
    size_bytes = journal.size_bytes
    with pytest.raises(JournalFull, match="nothing of it was written"):
        journal.commit(pack(small(refused)))
    assert size_bytes == journal.size_bytes
    assert not journal.try_extend()

    files.room_bytes = 1 << 20
    assert journal.try_extend()
    assert not journal.full
    journal.commit(pack(small(refused)))
    journal.close()

    assert committed + small(refused) == read_back(tmp_path / "j")


def test_a_large_batch_is_refused_while_small_ones_go_on(tmp_path: Path) -> None:
    """
    A batch beyond the room is refused whole, and does not take the runway from others.
    """
    files = LimitedFiles(6_000)
    journal = make_journal(tmp_path / "j", files, runway_bytes=4096, segment_bytes=1 << 16)
    journal.open(lambda _: None)
    with pytest.raises(JournalFull):
        journal.commit(pack([record(1, bytes(10_000))]))
    assert journal.full
    journal.commit(pack(small(2)))
    journal.close()

    assert small(2) == read_back(tmp_path / "j")


def test_no_room_for_rotation_stays_on_the_old_segment(tmp_path: Path) -> None:
    """
    A segment may grow beyond its size while there is no room for the next one.
    """
    files = LimitedFiles(ROOM)
    journal = make_journal(tmp_path / "j", files, runway_bytes=4096, segment_bytes=8192)
    journal.open(lambda _: None)
    files.room_bytes = 4096
    committed = []
    while not journal.full:
        records = [record(len(committed), bytes(500))]
        journal.commit(pack(records))
        committed += records
    assert 1 == journal.segment_count
    assert not journal.rotate()
    files.room_bytes = 1 << 20
    assert journal.try_extend()
    assert ["seg-0000000000000001.qj"] == sorted(
        name for name in os.listdir(tmp_path / "j") if name.startswith("seg")
    ) or journal.segment_count == 2
    assert journal.rotate()
    journal.commit(pack(small(7_777)))
    journal.close()

    assert committed + small(7_777) == read_back(tmp_path / "j")


def test_start_on_a_full_disk(tmp_path: Path) -> None:
    """
    A start makes do with a short runway and says so; without even that it is refused.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    journal.commit(pack(small(1)))
    journal.close()
    files = LimitedFiles(70_000)
    journal = make_journal(tmp_path / "j", files, runway_bytes=1 << 20)
    recovered = journal.open(lambda _: None)
    assert journal.full
    assert "short runway" in recovered.notes[0]
    journal.commit(pack(small(2)))
    files.room_bytes = 2 << 20
    assert journal.try_extend()
    journal.close()

    with pytest.raises(JournalFull, match="Free at least"):
        make_journal(tmp_path / "j", LimitedFiles(100)).open(lambda _: None)
    assert small(1) + small(2) == read_back(tmp_path / "j")


def test_no_space_inside_the_runway_is_a_failing_disk(tmp_path: Path) -> None:
    """
    Overwriting that fails for space breaks the promise of the runway: stop.
    """

    class CopyOnWriteFiles(Files):
        full = False

        def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().pwrite(fd, data, offset)

    files = CopyOnWriteFiles()
    journal = make_journal(tmp_path / "j", files)
    journal.open(lambda _: None)
    journal.commit(pack(small(1)))
    files.full = True
    with pytest.raises(JournalFailed, match="No space left"):
        journal.commit(pack(small(2)))
    journal.close()

    assert small(1) == read_back(tmp_path / "j")


def test_runway_is_given_back_by_still_segments(tmp_path: Path) -> None:
    """
    A segment that is not written to any more takes the bytes it needs and no others.
    """
    journal = make_journal(tmp_path / "j", runway_bytes=1 << 16)
    journal.open(lambda _: None)
    journal.commit(pack(small(1)))
    assert os.path.getsize(tmp_path / "j" / "seg-0000000000000001.qj") >= 1 << 16
    journal.rotate()
    journal.commit(pack(small(2)))
    journal.close()
    make_journal(tmp_path / "j").open(lambda _: None)

    sizes = [os.path.getsize(tmp_path / "j" / f"seg-{number:016}.qj") for number in (1, 2)]
    assert [160 + 72, 160 + 72 + 48] == sizes


def test_batches_larger_than_the_runway(tmp_path: Path) -> None:
    """
    With room on the disk the runway grows to whatever a batch needs.
    """
    journal = make_journal(tmp_path / "j", segment_bytes=1 << 20)
    journal.open(lambda _: None)
    records = [record(key, bytes([key]) * size) for key, size in enumerate([1, 99_999, 5, 300_000])]
    for r in records:
        journal.commit(pack([r]))
    journal.close()

    assert records == read_back(tmp_path / "j")
