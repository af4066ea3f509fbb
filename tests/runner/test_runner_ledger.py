import errno
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_ledger import (
    OTHER_BOOT,
    Directory,
    Full,
    exited,
    intent,
    started,
    unseen,
)

from queuectld.runner import ledger as ledger_module
from queuectld.runner.ledger import (
    DAMAGED_NAME,
    RECORD_BYTES,
    Files,
    LedgerError,
    Started,
    read_boot_id,
)
from queuectld.runner.messages import Exited


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
        ledger.intend(*intent(job, 1, 500 + job))
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
    ledger.intend(*intent(exit_.job, exit_.attempt, 1))
    ledger.exit(exit_)

    assert [exit_] == directory.open().exits()


def test_an_intent_alone_may_be_a_process(directory: Directory):
    """
    Killed between the intent and what became of it, nobody knows whether there was a process: the
    intent comes back with all its fields until it is given its process or its end.
    """
    directory.open().intend(*intent(4, 2, 77))
    for _ in range(2):
        ledger = directory.open()
        assert ([intent(4, 2, 77)], [], []) == (ledger.intents(), ledger.started(), ledger.exits())
    ledger.start(started(4, 2)._replace(is_found=True))

    ledger = directory.open()
    assert ([], []) == (ledger.intents(), ledger.exits())
    assert [started(4, 2)._replace(is_found=True)] == ledger.started()


def test_an_old_intent_is_an_end_nobody_saw(directory: Directory):
    """
    Those of versions before say nothing that a process could be known by.
    """
    directory.open().intend(*intent(4, 2, 77))
    data = bytearray(directory.file.read_bytes())
    data[-63] = 0  # flags
    data[-40:-4] = bytes(36)  # all that follows its time
    data[-4:] = zlib.crc32(data[-RECORD_BYTES:-4]).to_bytes(4, "little")
    directory.file.write_bytes(data)

    ledger = directory.open()
    assert ([], [unseen(4, 2, started_at=77)]) == (ledger.intents(), ledger.exits())


def test_another_boot_ends_every_run(directory: Directory):
    """
    After a reboot nothing lives, acknowledgements are still awaited, and the ledger epoch begins
    anew, while the highest epoch still fences.
    """
    ledger = directory.open()
    ledger.greet(5)
    for job in (1, 2, 3):
        ledger.intend(*intent(job, 1, 500 + job))
    ledger.start(started(1))
    ledger.start(started(2))
    ledger.exit(exited(2))

    ledger = directory.open(OTHER_BOOT)

    assert ([], []) == (ledger.intents(), ledger.started())
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
    ledger.intend(*intent(1, 1, 501))
    ledger.start(started(1))
    ledger.exit(exited(1))
    ledger.forget(1, 1)
    data = directory.file.read_bytes()
    # After each record: intents, runs, exits, ledger epoch.
    states = [
        ([], [], [], 0),
        ([], [], [], 0),
        ([], [], [], 3),
        ([intent(1, 1, 501)], [], [], 3),
        ([], [started(1)], [], 3),
        ([], [], [exited(1)], 3),
        ([], [], [], 3),
    ]
    assert len(states) - 1 == len(data) // RECORD_BYTES

    for size in range(len(data) + 1):
        directory.file.write_bytes(data[:size])
        ledger = directory.open()

        expected = states[size // RECORD_BYTES]
        found = (ledger.intents(), ledger.started(), ledger.exits(), ledger.ledger_epoch)
        assert expected == found, size
        # Less than a header is no ledger at all.
        assert (0 < size < RECORD_BYTES) == ledger.damaged
        ledger.intend(*intent(9, 1, 509))
        ledger.start(started(9))
        ledger.close()
        assert started(9) in directory.open().started()


def test_a_bad_last_record_is_a_torn_one(directory: Directory):
    """
    Bytes of the last record that did not arrive make it torn, not the ledger damaged.
    """
    ledger = directory.open()
    ledger.greet(3)
    ledger.intend(*intent(1, 1, 501))
    data = bytearray(directory.file.read_bytes())
    data[-RECORD_BYTES // 2 :] = bytes(RECORD_BYTES // 2)
    directory.file.write_bytes(data)

    ledger = directory.open()

    assert ([], 3, False) == (ledger.intents(), ledger.ledger_epoch, ledger.damaged)


def test_a_bad_record_before_others_ends_the_promise(directory: Directory):
    """
    What follows a damaged record is kept, but no daemon is told that nothing is missing.
    """
    ledger = directory.open()
    ledger.greet(3)
    ledger.intend(*intent(1, 1, 501))
    ledger.intend(*intent(2, 1, 502))
    ledger.greet(4)
    data = bytearray(directory.file.read_bytes())
    for position in range(2 * RECORD_BYTES, 3 * RECORD_BYTES):
        broken = bytearray(data)
        broken[position] ^= 0x10
        directory.file.write_bytes(broken)

        ledger = directory.open()

        assert [intent(2, 1, 502)] == ledger.intents()
        assert (True, 0, 4) == (ledger.damaged, ledger.ledger_epoch, ledger.epoch_max)
        ledger.close()


def test_a_file_that_is_no_ledger_is_put_aside(directory: Directory):
    """
    An unreadable header leaves nothing to go by: the file is kept beside, and a new one begun.
    """
    directory.open().intend(*intent(1, 1, 501))
    data = bytearray(directory.file.read_bytes())
    data[20] ^= 1
    directory.file.write_bytes(data)

    ledger = directory.open()

    assert (True, [], 0) == (ledger.damaged, ledger.intents(), ledger.ledger_epoch)
    assert bytes(data) == (directory.path / DAMAGED_NAME).read_bytes()
    assert not directory.open().damaged


def test_a_newer_ledger_is_refused(directory: Directory, monkeypatch: pytest.MonkeyPatch):
    """
    An older program does not guess at a newer file, and leaves it as it is.
    """
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "VERSION", 2)
        directory.open().intend(*intent(1, 1, 501))
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
        ledger.intend(*intent(1, 1, 501))
    files.is_full = False
    ledger.intend(*intent(2, 1, 502))

    assert [intent(2, 1, 502)] == directory.open().intents()


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
        ledger.intend(*intent(job, 1, 500 + job))
    files.is_full = True
    for job in (1, 2, 3):
        ledger.start(started(job))
    ledger.exit(exited(1))
    ledger.exit(exited(2))
    ledger.forget(1, 1)
    ledger.greet(2)
    assert ledger.is_waiting
    with pytest.raises(OSError, match=r"room|space"):
        ledger.intend(*intent(4, 1, 504))
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
    ledger.intend(*intent(1, 1, 501))
    files.is_full = True
    ledger.exit(exited(1))
    files.is_full = False
    ledger.intend(*intent(2, 1, 502))

    assert not ledger.is_waiting
    ledger = directory.open()
    assert ([exited(1)], [intent(2, 1, 502)]) == (ledger.exits(), ledger.intents())


@pytest.mark.parametrize("torn_bytes", [0, 40])
def test_every_call_fails_once(directory: Directory, torn_bytes: int):
    """
    Whichever call finds no room, from opening to the last record: either opening says so, or no
    record that was taken is lost once there is room again.
    """
    history = directory.open()
    history.greet(1)
    for job in (1, 2, 3):
        history.intend(*intent(job, 1, 500 + job))
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
            ledger.intend(*intent(4, 1, 504))
            intended = [intent(4, 1, 504)]
        except OSError:
            intended = []
        files.is_full = False
        ledger.try_flush()
        ledger.close()

        ledger = directory.open()
        assert [started(3)] == ledger.started(), fail_at
        assert ([exited(2)], intended) == (ledger.exits(), ledger.intents()), fail_at
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
    ledger.intend(*intent(1, 1, 501))
    ledger.start(started(1))
    for job in range(2, 12_000):
        ledger.intend(*intent(job, 1, 500 + job))
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
        ledger.intend(*intent(job, 1, 500 + job))
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
                ledger.intend(*intent(next_job, 1, 500 + next_job))
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
