"""
Each call to the operating system fails once, and nothing acknowledged is lost.
"""

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_twins import (
    FailingFiles,
    ShortFiles,
    UnsyncedFiles,
    make_journal,
    pack,
    read_back,
    record,
    reduce,
)

from queuectld.journal.compaction import write_snapshot
from queuectld.journal.directory import Directory
from queuectld.journal.errors import JournalError, JournalFailed
from queuectld.journal.files import Files
from queuectld.journal.frames import Record
from queuectld.journal.journal import Journal

BEFORE = [record(1, b"before"), record(2, b"before" * 40)]


def make_state(path: Path) -> None:
    """A journal that was killed: unsealed tail, leftovers, two generations of snapshots."""
    files = UnsyncedFiles()
    journal = make_journal(path, files)
    journal.open(lambda _: None)
    journal.commit(pack(BEFORE[:1]))
    take_snapshot(journal, files)
    journal.commit(pack(BEFORE[1:]))
    take_snapshot(journal, files)
    journal.commit(pack([record(3, b"replaced")]))
    journal.commit(pack([record(3, b"tail")]))
    journal._release()
    (path / "snap-0000000000000009.qs.tmp").write_bytes(b"left over")


def take_snapshot(journal: Journal, files: Files) -> None:
    journal.rotate()
    number = int(journal.snapshot_command()[-1])
    fd = files.open_directory(journal.directory)
    try:
        write_snapshot(Directory(files, journal.directory, fd), number)
    finally:
        files.close(fd)
    journal.finish_snapshot()


def workload(journal: Journal, files: Files, acked: list[Record], tried: list[Record]) -> None:
    """Everything a journal does, remembering what was acknowledged."""

    def commit(*records: Record) -> None:
        tried.extend(records)
        journal.commit(pack(records))
        acked.extend(records)

    commit(record(10, b"one"), record(11, b"two"))
    journal.seal()
    commit(record(12, bytes(900)))
    commit(record(13, bytes(900)))
    journal.rotate()
    commit(record(10, b"three"))
    take_snapshot(journal, files)
    journal.full = True
    journal.try_extend()
    commit(record(14, b"four"))
    journal.sync()
    journal.close()


@pytest.mark.parametrize(
    ("error", "late"),
    [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False), (errno.ENOSPC, True)],
)
def test_every_call_fails_once(tmp_path: Path, error: int, late: bool) -> None:
    """
    With the n-th call failing, for every n: a named error or none, no descriptor left
    open, and a new process finds all that was acknowledged and nothing that was not tried.
    """
    make_state(tmp_path / "before")
    for nth in range(1, 1000):
        path = tmp_path / str(nth)
        shutil.copytree(tmp_path / "before", path)
        files = FailingFiles(nth, error, late=late)
        journal = make_journal(path, files)
        acked = [*BEFORE, record(3, b"tail")]
        tried = list(acked)
        found: list[Record] = []
        try:
            journal.open(found.append)
            workload(journal, files, acked, tried)
        except JournalError:
            journal.close()
        except OSError:
            assert files.fired is not None
            journal.close()
        assert set() == files.open_fds, (nth, files.fired)
        after = read_back(path, UnsyncedFiles())
        assert reduce(after) in (reduce(acked), reduce(tried)), (nth, files.fired)
        if files.fired is None:
            assert nth > 80
            return
    raise AssertionError("the workload never ran without a fault")


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_first_start_with_every_call_failing(tmp_path: Path, error: int) -> None:
    """
    Setting up a directory may fail anywhere, and can be tried again.
    """
    for nth in range(1, 200):
        path = tmp_path / str(nth)
        files = FailingFiles(nth, error)
        journal = make_journal(path, files)
        try:
            journal.open(lambda _: None)
            journal.commit(pack(BEFORE))
            journal.close()
        except JournalError:
            journal.close()
        assert set() == files.open_fds
        assert read_back(path, UnsyncedFiles()) in ([], BEFORE)
        if files.fired is None:
            return
    raise AssertionError("the workload never ran without a fault")


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failure_is_final(tmp_path: Path, call: str) -> None:
    """
    After a failed write or sync every call raises JournalFailed, and close() still lets go.
    """

    class BrokenFiles(Files):
        broken = False

        def check(self) -> None:
            if self.broken:
                self.broken = False
                raise OSError(errno.EIO, "Input/output error")

    def broken(self: BrokenFiles, *args: object) -> object:
        self.check()
        return getattr(Files, call)(self, *args)

    setattr(BrokenFiles, call, broken)
    files = BrokenFiles()
    journal = make_journal(tmp_path / "j", files)
    journal.open(lambda _: None)
    journal.commit(pack(BEFORE))
    files.broken = True
    with pytest.raises(JournalFailed, match="Input/output error"):
        journal.commit(pack([record(9)]))
    assert journal.failed
    later: list[Callable[[], object]] = [
        lambda: journal.commit(pack([record(9)])),
        journal.sync,
        journal.seal,
        journal.rotate,
        journal.try_extend,
        journal.finish_snapshot,
        journal.abandon_snapshot,
    ]
    for refused in later:
        with pytest.raises(JournalFailed, match="failed earlier"):
            refused()
    journal.close()
    with pytest.raises(JournalFailed):
        journal.commit(pack([record(9)]))

    assert BEFORE == read_back(tmp_path / "j")[:2]


def test_short_reads_and_writes(tmp_path: Path) -> None:
    """
    However little each call takes or gives, the bytes are the same.
    """
    seed = int(os.environ.get("QUEUECTL_SEED", "11"))
    print(f"QUEUECTL_SEED={seed}")
    files = ShortFiles(random.Random(seed))
    journal = make_journal(tmp_path / "j", files)
    journal.open(lambda _: None)
    acked: list[Record] = []
    workload(journal, files, acked, [])

    assert reduce(acked) == reduce(read_back(tmp_path / "j", files))
    assert reduce(acked) == reduce(read_back(tmp_path / "j"))
