"""
Turns of the daemon's loop, made by hand, on a disk that is full at a chosen moment.
"""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import wait_until

from queuectl.protocol import Enqueue, JobSpec
from queuectld.core.admission import BATCH_RECORDS_BYTES_MAX
from queuectld.core.events import Configured, DaemonBegan, Requested
from queuectld.core.queue import Queue
from queuectld.journal.files import Files
from queuectld.journal.journal import Journal
from queuectld.runtime import committer
from queuectld.runtime.clock import Clock, wall_ms
from queuectld.runtime.daemon import Daemon
from queuectld.runtime.job_log import JobLog
from queuectld.runtime.systemd import ServiceManager


class Disk(Files):
    """
    A disk that files cannot grow on while it is full.
    """

    is_full = False

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.is_full and offset + len(data) > os.fstat(fd).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pwrite(fd, data, offset)


class Quiet:
    """
    A log that nobody reads.
    """

    def __getattr__(self, _level: str) -> Any:
        return lambda _event, **_fields: None


class Turns:
    """
    A daemon without clients and runner. What it decides is known by what its journal holds.
    """

    def __init__(self, directory: str) -> None:
        self.disk = Disk()
        self.directory = directory
        self.queue = Queue(random=random.random)
        journal = self._journal()
        journal.open(lambda record: None)
        log = Quiet()
        self.daemon = Daemon(
            queue=self.queue,
            journal=journal,
            clock=Clock(),
            state_dir=directory,
            mode="user",
            version="1",
            log=log,
            manager=ServiceManager(),
            job_log=JobLog(log),
        )
        self.daemon.event(Configured({}, {}))
        self.daemon.event(DaemonBegan(1, "1", 1))
        self.daemon.turn()
        wait_until(self.is_idle)

    def _journal(self) -> Journal:
        return Journal(f"{self.directory}/journal", files=self.disk, now=wall_ms, version="1")

    def is_idle(self) -> bool:
        """
        Go on; return whether all that was decided is on disk.
        """
        for fd, events in self.daemon.epoll.poll(0):
            self.daemon.handlers[fd](events)
        self.daemon.housekeeping.attend(self.daemon.clock.now())
        self.daemon.turn()
        return self.daemon.idle and not self.daemon.housekeeping.waits_for_room

    def enqueue(self, size_bytes: int) -> None:
        """
        Have jobs enqueued whose records take about so many bytes.
        """
        spec = JobSpec(command="#" * 100_000, hold=True)
        self.daemon.event(Requested(1, Enqueue(jobs=[spec] * (size_bytes // 100_000))))

    def close(self) -> None:
        self.daemon.committer.close()
        self.daemon.journal.close()
        self.daemon.epoll.close()


@pytest.fixture(params=[True, False], ids=["quick disk", "slow disk"])
def turns(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Turns]:
    # A quick disk is waited for by the loop itself, a slow one by a thread of its own.
    monkeypatch.setattr(committer, "QUICK_S_MAX", 3600 if request.param else -1)
    made = Turns(str(tmp_path))
    yield made
    made.close()


def test_what_gathers_while_a_batch_waits_for_room_stays_a_batch(turns: Turns) -> None:
    """
    Requests of the same turn come before the queue hears that the disk is full. They are refused
    all the same: what is decided must fit into one batch when there is room again.
    """
    turns.disk.is_full = True
    for size_bytes in (300_000, 6_000_000, 6_000_000, 300_000, 6_000_000):
        assert size_bytes < BATCH_RECORDS_BYTES_MAX
        turns.enqueue(size_bytes)
    turns.daemon.turn()
    wait_until(lambda: turns.is_idle() or turns.daemon.housekeeping.waits_for_room)
    assert turns.daemon.housekeeping.waits_for_room
    turns.disk.is_full = False
    wait_until(turns.is_idle)
    assert 63 == len(turns.queue.state.jobs)
