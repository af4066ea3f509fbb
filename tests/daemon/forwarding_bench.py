"""
Output that is forwarded without a daemon: jobs that write, journals of several kinds, and a clock.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon_process import wait_until
from journal_twin import JournalTwin, fields_of

from queuectld.core.records import JobEnqueued, Record, RunEnded, RunStarted, SlotsChanged, store
from queuectld.core.state import State
from queuectld.runtime.forwarding import POLL_MS, Forwarding
from queuectld.runtime.output import OutputStore
from queuectld.runtime.system_journal import JournalSocket


class Warnings:
    """
    A log that keeps its warnings.
    """

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.sums: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        if event == "outputs_not_forwarded":
            self.sums.append(fields)
        else:
            assert event == "output_not_forwarded"
            self.told.append(fields)


class Roomy(JournalSocket):
    """
    A journal that takes everything at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []

    def send(self, entry: bytes) -> bool:
        self.messages.append(fields_of(entry)["MESSAGE"])
        return True


class Away(JournalSocket):
    """
    A journal that takes nothing.
    """

    def send(self, entry: bytes) -> bool:
        return False


class Counting(OutputStore):
    """
    Output, and how many files of it were opened to be read.
    """

    opened_count = 0

    def open(self, number: int, attempt: int) -> int | None:
        self.opened_count += 1
        return super().open(number, attempt)


class Bench:
    """
    Jobs that write, what is sent of it, and a clock that moves one turn at a time.
    """

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "journal.sock")
        self.journal = JournalTwin(self.path)
        self.output = Counting(str(directory / "output"))
        self.state = State()
        self.apply(SlotsChanged(1, {1: 1, 2: 1}, {}, True))
        self.log = Warnings()
        self.now = 1_000_000
        self.fds: dict[int, int] = {}
        self.sockets: list[JournalSocket] = []
        self.begin()
        self.journal.start()

    def begin(self, journal: JournalSocket | None = None) -> None:
        """
        Be the next daemon.
        """
        self.sockets.append(journal or JournalSocket(self.path))
        self.forwarding = Forwarding(self.state, self.output, self.log, self.sockets[-1])
        self.forwarding.attend(self.now)

    def apply(self, record: Record) -> None:
        self.state.apply(record, store(record).body)

    def start(self, number: int, **fields: Any) -> None:
        """
        Have a job begin to run.
        """
        given: dict[str, Any] = {"output": "journal", "command": "true", "user": "alice", "uid": 9}
        given |= fields
        self.apply(
            JobEnqueued(number, 5, "pending", 0, "q", 0, 1, "/", 18, **given),
        )
        record = RunStarted(number, 6, 1, number, 1, 0)
        self.apply(record)
        self.forwarding.started(record)
        self.fds[number] = self.output.create(number, 1)

    def write(self, number: int, data: bytes) -> None:
        os.write(self.fds[number], data)

    def end(self, number: int) -> None:
        """
        Have it end.
        """
        record = RunEnded(number, 7, 1, number, 6, "exited", "completed", 0, 0, 0)
        self.apply(record)
        self.forwarding.ended(record, self.now)

    def turn(self) -> None:
        self.now += POLL_MS
        self.forwarding.attend(self.now)

    def turn_until(self, condition: Callable[[], object]) -> None:
        """
        The journal takes a few entries at a time, so it may take some turns.
        """

        def reached() -> object:
            self.turn()
            return condition()

        wait_until(reached)

    @property
    def skipped_bytes(self) -> int:
        return sum(told["skipped_bytes"] for told in self.log.told)

    def close(self) -> None:
        self.forwarding.stop(self.now)
        for each in self.sockets:
            each.close()
        self.journal.close()
        for fd in self.fds.values():
            os.close(fd)
