"""
Waits for jobs: how many there may be, and that nothing is left of them.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from queuectl.protocol import Act, Enqueue, JobSpec, Refused, Selection, Waited
from queuectld.core.effects import AwaitJobs
from queuectld.core.events import Requested
from queuectld.core.peer import Peer
from queuectld.core.queue import Queue
from queuectld.runtime.output import OutputStore
from queuectld.runtime.streams import WAITED_JOBS_MAX, Streams

ALICE, BOB = Peer(1001, "alice"), Peer(1002, "bob")
JOBS = list(range(1, 1_001))


class Waits:
    """
    Held jobs of which all may end at once, and those who wait for them.
    """

    def __init__(self, directory: Path) -> None:
        self.queue = Queue(random=random.random)
        jobs = [JobSpec(command="true", hold=True)] * len(JOBS)
        self.queue.handle(Requested(1, Enqueue(jobs=jobs), ALICE), 1_000)
        self.answers: list[tuple[int, Any]] = []
        self.streams = Streams(
            self.queue,
            OutputStore(str(directory / "output")),
            lambda: 2_000,
            lambda client, response: self.answers.append((client, response)),
            lambda client, response: None,
            lambda client: True,
        )

    def wait(self, client: int, peer: Peer = ALICE, **fields: Any) -> None:
        given = {"call": 1, "numbers": JOBS, "waiting": JOBS, "any": False} | fields
        self.streams.wait(AwaitJobs(client=client, peer=peer, **given))

    def cancel_all(self) -> None:
        """
        End every job.
        """
        self.queue.handle(Requested(1, Act(action="cancel", select=Selection(all=True))), 2_000)
        for number in JOBS:
            self.streams.changed(number)

    @property
    def refused_count(self) -> int:
        return sum(isinstance(response, Refused) for _, response in self.answers)

    @property
    def nothing_left(self) -> bool:
        streams = self.streams
        return not (streams._waits or streams._waits_of or streams._waited)


@pytest.fixture
def waits(tmp_path: Path) -> Waits:
    return Waits(tmp_path)


def test_an_account_waits_for_so_many(waits: Waits) -> None:
    """
    On however many connections, and whether the jobs that it names have ended or not; others may
    still. Who is refused may again when another wait has ended.
    """
    for client in range(WAITED_JOBS_MAX // len(JOBS)):
        waits.wait(client, waiting=JOBS[:1] if client % 2 else JOBS)
    assert not waits.answers
    waits.wait(998)
    assert 1 == waits.refused_count
    waits.wait(999, BOB)
    waits.streams.client_gone(0)
    waits.wait(998)
    assert 1 == waits.refused_count


@pytest.mark.parametrize("waits_for_any", [False, True])
def test_nothing_is_left_of_waits(waits: Waits, waits_for_any: bool) -> None:
    """
    They end with their jobs or with their client, whichever comes first; each is answered once.
    """
    for client in (1, 2, 2, 3):
        waits.wait(client, any=waits_for_any)
    waits.streams.client_gone(2)
    waits.cancel_all()
    assert [1, 3] == [client for client, _ in waits.answers]
    assert all(isinstance(response, Waited) for _, response in waits.answers)
    waits.streams.client_gone(1)
    assert waits.nothing_left
