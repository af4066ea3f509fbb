import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuectld.runner import ledger as ledger_module
from queuectld.runner.ledger import (
    DAMAGED_NAME,
    LEDGER_NAME,
    RECORD_BYTES,
    Files,
    Ledger,
    LedgerError,
    Started,
    read_boot_id,
)
from queuectld.runner.messages import Exited

BOOT = b"b" * 16
OTHER_BOOT = b"o" * 16
NOW = 1_000_000


def started(job: int, attempt: int = 1) -> Started:
    return Started(job, attempt, 500 + job, 100 + job, 7, 9)


def exited(job: int, attempt: int = 1, status: int = 0x300) -> Exited:
    return Exited(job, attempt, status, True, 500 + job, 600 + job, True, 1, 2, 3)


def unseen(job: int, attempt: int = 1, started_at: int | None = None) -> Exited:
    at = 500 + job if started_at is None else started_at
    return Exited(job, attempt, 0, False, at, NOW, False, 0, 0, 0)


class Full(Files):
    """
    A twin of Files whose n-th call fails, and all that follow until `is_full` is cleared. A write
    that fails leaves `torn_bytes` of what it was given behind.
    """

    def __init__(self, fail_at: int = -1, torn_bytes: int = 0) -> None:
        self.is_full = False
        self.fail_at = fail_at
        self.torn_bytes = torn_bytes
        self.call_count = 0

    def _call(self) -> None:
        self.call_count += 1
        if self.is_full or self.call_count == self.fail_at:
            self.is_full = True
            raise OSError(errno.ENOSPC, "no room")

    def open(self, name: str, flags: int, directory_fd: int) -> int:
        self._call()
        return super().open(name, flags, directory_fd)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        self._call()
        return super().pread(fd, size_bytes, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        try:
            self._call()
        except OSError:
            if not self.torn_bytes:
                raise
            return super().pwrite(fd, data[: self.torn_bytes], offset)
        return super().pwrite(fd, data, offset)

    def rename(self, old: str, new: str, directory_fd: int) -> None:
        self._call()
        super().rename(old, new, directory_fd)


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.open_ledgers: list[Ledger] = []

    @property
    def file(self) -> Path:
        return self.path / LEDGER_NAME

    def open(self, boot_id: bytes = BOOT, files: Files | None = None) -> Ledger:
        ledger = Ledger(self.fd, boot_id, NOW, files)
        self.open_ledgers.append(ledger)
        return ledger


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    directory = Directory(tmp_path)
    yield directory
    for ledger in directory.open_ledgers:
        ledger.close()
    os.close(directory.fd)


def test_a_new_ledger_knows_nothing(directory: Directory):
    """
    Without a file there are no runs, no exits and no epoch, and no damage either.
    """
    ledger = directory.open()

    assert ([], [], 0, 0, False) == (
        ledger.started(),
        ledger.exits(),
        ledger.epoch_max,
        ledger.ledger_epoch,
        ledger.damaged,
    )


def test_what_was_remembered_is_there_for_the_next_runner(directory: Directory):
    """
    Runs and exits come back with all their fields, forgotten attempts do not, and the ledger
    epoch is that of the first daemon while the highest is that of the last.
    """
    ledger = directory.open()
    ledger.greet(5)
    for job in (1, 2, 3):
        ledger.intend(job, 1, 500 + job)
        ledger.start(started(job))
    ledger.greet(9)
    ledger.exit(exited(2))
    ledger.exit(exited(3))
    ledger.forget(3, 1)
    for _ in range(2):  # The second reads what the first has written anew.
        ledger = directory.open()

        assert [started(1)] == ledger.started()
        assert [exited(2)] == ledger.exits()
        assert (5, 9) == (ledger.ledger_epoch, ledger.epoch_max)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("usage_known", [True, False])
def test_an_exit_keeps_every_field(directory: Directory, known: bool, usage_known: bool):
    """
    Fields at their limits and both flags survive.
    """
    exit_ = Exited(2**64 - 1, 2**32 - 1, -(2**31), known, 1, 2**64 - 1, usage_known, 1, 2, 3)
    ledger = directory.open()
    ledger.intend(exit_.job, exit_.attempt, 1)
    ledger.exit(exit_)

    assert [exit_] == directory.open().exits()


def test_an_intent_alone_is_an_end_nobody_saw(directory: Directory):
    """
    Killed between the intent and the process, nobody knows whether there was one.
    """
    directory.open().intend(4, 2, 77)

    assert [unseen(4, 2, started_at=77)] == directory.open().exits()


def test_another_boot_ends_every_run(directory: Directory):
    """
    After a reboot nothing lives, acknowledgements are still awaited, and the ledger epoch begins
    anew, while the highest epoch still fences.
    """
    ledger = directory.open()
    ledger.greet(5)
    for job in (1, 2, 3):
        ledger.intend(job, 1, 500 + job)
    ledger.start(started(1))
    ledger.start(started(2))
    ledger.exit(exited(2))

    ledger = directory.open(OTHER_BOOT)

    assert [] == ledger.started()
    assert [unseen(1), exited(2), unseen(3)] == ledger.exits()
    assert (0, 5) == (ledger.ledger_epoch, ledger.epoch_max)
    ledger.greet(6)
    assert (6, 6) == (ledger.ledger_epoch, ledger.epoch_max)


def test_a_ledger_cut_at_any_byte_holds_the_records_before(directory: Directory):
    """
    A torn last record is left out, everything before it stands, and the file goes on growing.
    """
    ledger = directory.open()
    ledger.greet(3)
    ledger.intend(1, 1, 501)
    ledger.start(started(1))
    ledger.exit(exited(1))
    ledger.forget(1, 1)
    data = directory.file.read_bytes()
    # After each record: runs, exits, ledger epoch.
    states = [
        ([], [], 0),
        ([], [], 0),
        ([], [], 3),
        ([], [unseen(1)], 3),
        ([started(1)], [], 3),
        ([], [exited(1)], 3),
        ([], [], 3),
    ]
    assert len(states) - 1 == len(data) // RECORD_BYTES

    for size in range(len(data) + 1):
        directory.file.write_bytes(data[:size])
        ledger = directory.open()

        expected = states[size // RECORD_BYTES]
        assert expected == (ledger.started(), ledger.exits(), ledger.ledger_epoch), size
        # Less than a header is no ledger at all.
        assert (0 < size < RECORD_BYTES) == ledger.damaged
        ledger.intend(9, 1, 509)
        ledger.start(started(9))
        ledger.close()
        assert started(9) in directory.open().started()


def test_a_bad_last_record_is_a_torn_one(directory: Directory):
    """
    Bytes of the last record that did not arrive make it torn, not the ledger damaged.
    """
    ledger = directory.open()
    ledger.greet(3)
    ledger.intend(1, 1, 501)
    data = bytearray(directory.file.read_bytes())
    data[-RECORD_BYTES // 2 :] = bytes(RECORD_BYTES // 2)
    directory.file.write_bytes(data)

    ledger = directory.open()

    assert ([], 3, False) == (ledger.exits(), ledger.ledger_epoch, ledger.damaged)


def test_a_bad_record_before_others_ends_the_promise(directory: Directory):
    """
    What follows a damaged record is kept, but no daemon is told that nothing is missing.
    """
    ledger = directory.open()
    ledger.greet(3)
    ledger.intend(1, 1, 501)
    ledger.intend(2, 1, 502)
    ledger.greet(4)
    data = bytearray(directory.file.read_bytes())
    for position in range(2 * RECORD_BYTES, 3 * RECORD_BYTES):
        broken = bytearray(data)
        broken[position] ^= 0x10
        directory.file.write_bytes(broken)

        ledger = directory.open()

        assert [unseen(2)] == ledger.exits()
        assert (True, 0, 4) == (ledger.damaged, ledger.ledger_epoch, ledger.epoch_max)
        ledger.close()


def test_a_file_that_is_no_ledger_is_put_aside(directory: Directory):
    """
    An unreadable header leaves nothing to go by: the file is kept beside, and a new one begun.
    """
    directory.open().intend(1, 1, 501)
    data = bytearray(directory.file.read_bytes())
    data[20] ^= 1
    directory.file.write_bytes(data)

    ledger = directory.open()

    assert (True, [], 0) == (ledger.damaged, ledger.exits(), ledger.ledger_epoch)
    assert bytes(data) == (directory.path / DAMAGED_NAME).read_bytes()
    assert not directory.open().damaged


def test_a_newer_ledger_is_refused(directory: Directory, monkeypatch: pytest.MonkeyPatch):
    """
    An older program does not guess at a newer file, and leaves it as it is.
    """
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "VERSION", 2)
        directory.open().intend(1, 1, 501)
    data = directory.file.read_bytes()

    with pytest.raises(LedgerError, match="version 2"):
        directory.open()
    assert data == directory.file.read_bytes()


def test_an_intent_without_room_refuses(directory: Directory):
    """
    No process without its intent: the caller is told, and nothing of it stays.
    """
    files = Full(torn_bytes=30)
    ledger = directory.open(files=files)
    files.is_full = True
    with pytest.raises(OSError, match="No space"):
        ledger.intend(1, 1, 501)
    files.is_full = False
    ledger.intend(2, 1, 502)

    assert [unseen(2)] == directory.open().exits()


@pytest.mark.parametrize("torn_bytes", [0, 1, 63])
def test_an_exit_without_room_waits_for_it(directory: Directory, torn_bytes: int):
    """
    What happens while the disk is full is written, in order, once it is not; only a START, which
    can be refused, is.
    """
    files = Full(torn_bytes=torn_bytes)
    ledger = directory.open(files=files)
    ledger.greet(1)
    for job in (1, 2, 3):
        ledger.intend(job, 1, 500 + job)
    files.is_full = True
    for job in (1, 2, 3):
        ledger.start(started(job))
    ledger.exit(exited(1))
    ledger.exit(exited(2))
    ledger.forget(1, 1)
    ledger.greet(2)
    assert ledger.is_waiting
    with pytest.raises(OSError, match=r"room|space"):
        ledger.intend(4, 1, 504)
    ledger.try_flush()
    assert ledger.is_waiting
    files.is_full = False
    ledger.try_flush()
    assert not ledger.is_waiting

    ledger = directory.open()
    assert ([started(3)], [exited(2)]) == (ledger.started(), ledger.exits())
    assert (1, 2) == (ledger.ledger_epoch, ledger.epoch_max)


def test_what_waits_goes_out_before_the_next_record(directory: Directory):
    """
    With room again, the next record of any kind takes along what waits.
    """
    files = Full()
    ledger = directory.open(files=files)
    ledger.intend(1, 1, 501)
    files.is_full = True
    ledger.exit(exited(1))
    files.is_full = False
    ledger.intend(2, 1, 502)

    assert not ledger.is_waiting
    assert [exited(1), unseen(2)] == directory.open().exits()


@pytest.mark.parametrize("torn_bytes", [0, 40])
def test_every_call_fails_once(directory: Directory, torn_bytes: int):
    """
    Whichever call finds no room, from opening to the last record: either opening says so, or no
    record that was taken is lost once there is room again.
    """
    history = directory.open()
    history.greet(1)
    for job in (1, 2, 3):
        history.intend(job, 1, 500 + job)
        history.start(started(job))
    data = directory.file.read_bytes()
    fail_at = 0
    while True:
        fail_at += 1
        directory.file.write_bytes(data)
        files = Full(fail_at, torn_bytes)
        try:
            ledger = directory.open(files=files)
        except OSError:
            assert data == directory.file.read_bytes()
            continue
        ledger.exit(exited(1))
        ledger.forget(1, 1)
        ledger.exit(exited(2))
        try:
            ledger.intend(4, 1, 504)
            intended = [unseen(4)]
        except OSError:
            intended = []
        files.is_full = False
        ledger.try_flush()
        ledger.close()

        ledger = directory.open()
        assert [started(3)] == ledger.started(), fail_at
        assert [exited(2), *intended] == ledger.exits(), fail_at
        assert not ledger.damaged
        ledger.close()
        if files.call_count < fail_at:
            break
    assert fail_at > 8


def test_a_ledger_of_acknowledged_runs_stays_small(directory: Directory):
    """
    Past 1 MiB the file is written anew, so it does not grow with what is over.
    """
    ledger = directory.open()
    ledger.intend(1, 1, 501)
    ledger.start(started(1))
    for job in range(2, 12_000):
        ledger.intend(job, 1, 500 + job)
        ledger.start(started(job))
        ledger.exit(exited(job))
        ledger.forget(job, 1)

    assert directory.file.stat().st_size < 1.1 * 1024 * 1024
    assert [started(1)] == directory.open().started()


def test_a_ledger_that_cannot_be_written_anew_goes_on(directory: Directory):
    """
    Writing it anew needs room too: without it the old file goes on, and nothing is lost.
    """

    class NoNewFile(Files):
        def open(self, name: str, flags: int, directory_fd: int) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, "no room")
            return super().open(name, flags, directory_fd)

    directory.open().greet(1)
    with pytest.raises(OSError, match="room"):
        directory.open(OTHER_BOOT, NoNewFile())  # Its pids mean nothing in this boot.
    ledger = directory.open(files=NoNewFile())
    for job in range(1, 10_000):
        ledger.intend(job, 1, 500 + job)
        ledger.start(started(job))
        ledger.exit(exited(job))
        if job != 7:
            ledger.forget(job, 1)

    assert [exited(7)] == directory.open().exits()


def test_random_histories_come_back(directory: Directory, rng: random.Random):
    """
    Against a dictionary: whatever is remembered, forgotten, interrupted by full disks and read
    again, one record per attempt is the state.
    """
    model: dict[int, Started | Exited] = {}
    files = Full()
    ledger = directory.open(files=files)
    ledger.greet(1)
    next_job = 1
    for _ in range(4000):
        files.is_full = rng.random() < 0.2
        files.torn_bytes = rng.randrange(RECORD_BYTES)
        running = [job for job, state in model.items() if isinstance(state, Started)]
        ended = [job for job, state in model.items() if isinstance(state, Exited)]
        step = rng.random()
        if step < 0.4:
            try:
                ledger.intend(next_job, 1, 500 + next_job)
                ledger.start(started(next_job))
                model[next_job] = started(next_job)
            except OSError:
                assert files.is_full
            next_job += 1
        elif step < 0.65 and running:
            job = rng.choice(running)
            ledger.exit(exited(job))
            model[job] = exited(job)
        elif step < 0.95 and ended:
            job = rng.choice(ended)
            ledger.forget(job, 1)
            del model[job]
        elif step > 0.98:
            files.is_full = False
            ledger.try_flush()
            ledger.close()
            ledger = directory.open(files=files)
            found = {(s.job): s for s in [*ledger.started(), *ledger.exits()]}
            assert model == found


def test_the_boot_id_is_that_of_the_kernel():
    """
    Sixteen bytes, the same at each look.
    """
    boot_id = read_boot_id()

    assert 16 == len(boot_id)
    assert boot_id == read_boot_id()
