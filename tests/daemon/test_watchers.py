"""
Watching the queue: who is told what, when, and what it costs.
"""

import os
import random
from typing import Any

import pytest
from daemon_process import DaemonProcess, wait_until
from raw_connection import HELLO, Raw

from queuectl.client import Client
from queuectl.errors import RequestRefused
from queuectl.framing import pack_frame
from queuectl.protocol import (
    Act,
    Acted,
    Done,
    Enqueue,
    JobSpec,
    List,
    LogEnd,
    Logs,
    Output,
    Refused,
    Selection,
    encode,
)
from queuectl.watching import Changed, JobChange, Watch
from queuectld.core.effects import TellForgotten
from queuectld.core.events import Requested
from queuectld.core.peer import Peer
from queuectld.core.queue import Queue
from queuectld.runtime.watchers import (
    CHANGES_MAX,
    SLOW_MS,
    USER_WATCHERS_MAX,
    WATCHERS_MAX,
    WINDOW_MS,
    Watchers,
)

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))
ALICE, BOB, ROOT = Peer(1001, "alice"), Peer(1002, "bob"), Peer(0, "root", admin=True)


class Watched:
    """
    A queue of two accounts, those who watch it, and what was said to each.
    """

    def __init__(self) -> None:
        self.queue = Queue(random=random.random)
        self.now = 1_000
        self.said: list[tuple[int, Any]] = []
        #: Clients that do not take what they are sent, and those that are gone.
        self.slow: set[int] = set()
        self.gone: set[int] = set()
        self.watchers = Watchers(
            self.queue.state,
            lambda: self.now,
            lambda client, response: self.said.append((client, response)),
            lambda client, response: self.said.append((client, response)),
            lambda client: None if client in self.gone else client not in self.slow,
        )

    def watch(self, client: int, peer: Peer = ROOT, **fields: Any) -> None:
        self.ask(Watch(call=client, **fields), peer, client)

    def ask(self, request: Any, peer: Peer = ALICE, client: int = 999) -> None:
        """
        Have a request decided, and all of it on disk.
        """
        records, effects = self.queue.handle(Requested(client, request, peer), self.now)
        for effect in effects:
            if isinstance(effect, TellForgotten):
                self.watchers.forgotten(effect)
            elif hasattr(effect, "numbers"):
                self.watchers.open(effect)
        self.watchers.tell(records)
        self.watchers.attend(self.now)

    def enqueue(self, count: int = 1, peer: Peer = ALICE, **fields: Any) -> None:
        jobs = [JobSpec(command="true", hold=True, **fields)] * count
        self.ask(Enqueue(jobs=jobs), peer)

    def pass_ms(self, span_ms: int) -> None:
        self.now += span_ms
        self.watchers.attend(self.now)

    def told(self, client: int) -> list[JobChange]:
        """
        Return all changes that a client was told, in order.
        """
        return [each for changed in self.messages(client) for each in changed.changes]

    def messages(self, client: int) -> list[Changed]:
        return [said for to, said in self.said if to == client and isinstance(said, Changed)]

    def refusals(self, client: int) -> list[Refused]:
        return [said for to, said in self.said if to == client and isinstance(said, Refused)]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_the_beginning_is_told(watched: Watched) -> None:
    """
    An answer without changes says from when on everything is told.
    """
    watched.watch(1)
    assert [Changed(call=1)] == watched.messages(1)


def test_jobs_that_do_not_exist_for_somebody(watched: Watched) -> None:
    """
    Each account is told of its own jobs, an admin of all; also of their being forgotten.
    """
    for client, peer in ((1, ALICE), (2, BOB), (3, ROOT)):
        watched.watch(client, peer)
    watched.enqueue(peer=ALICE)
    watched.enqueue(peer=BOB)
    watched.ask(Act(action="cancel", select=Selection(all=True)), ROOT)
    watched.ask(Act(action="prune", select=Selection(all=True)), ROOT)
    watched.pass_ms(WINDOW_MS)
    own = [("enqueued", 1), ("moved", 1), ("forgotten", 1)]
    assert own == [(each.what, each.number) for each in watched.told(1)]
    assert [(what, 2) for what, _ in own] == [(each.what, each.number) for each in watched.told(2)]
    assert 6 == len(watched.told(3))


def test_filters(watched: Watched) -> None:
    """
    All given filters must fit: the queue, the state after the change, the account, the ids.
    """
    watched.enqueue()
    watched.watch(1, queue="night")
    watched.watch(2, states=["cancelled"])
    watched.watch(3, user="bob")
    watched.watch(4, ids=["1"])
    watched.watch(5, queue="night", user="bob")
    watched.enqueue(queue="night")
    watched.enqueue(peer=BOB)
    watched.ask(Act(action="cancel", select=Selection(all=True)), ROOT)
    watched.pass_ms(WINDOW_MS)
    found = {client: {each.number for each in watched.told(client)} for client in range(1, 6)}
    assert {1: {2}, 2: {1, 2, 3}, 3: {3}, 4: {1}, 5: set()} == found
    assert {"cancelled"} == {each.state for each in watched.told(2)}


def test_a_message_at_once_then_one_a_window(watched: Watched) -> None:
    """
    Nobody waits for a first change, and a busy queue sends no more than one message a window.
    """
    watched.watch(1)
    for _ in range(5):
        watched.enqueue()
    assert [0, 1] == [len(each.changes) for each in watched.messages(1)]
    assert watched.now + WINDOW_MS == watched.watchers.next_deadline()
    watched.pass_ms(WINDOW_MS - 1)
    assert 2 == len(watched.messages(1))
    watched.pass_ms(1)
    assert [0, 1, 4] == [len(each.changes) for each in watched.messages(1)]
    assert watched.watchers.next_deadline() is None


def test_more_than_can_be_told_is_counted(watched: Watched) -> None:
    """
    Of a flood the first changes are told and the others counted, each once.
    """
    watched.watch(1)
    watched.enqueue(10 * CHANGES_MAX)
    watched.pass_ms(WINDOW_MS)
    first, *others = watched.messages(1)[1:]
    assert not others
    assert (CHANGES_MAX, 9 * CHANGES_MAX) == (len(first.changes), first.missed_count)
    watched.enqueue()
    watched.pass_ms(WINDOW_MS)
    assert (1, 0) == (len(watched.messages(1)[-1].changes), watched.messages(1)[-1].missed_count)


def test_nothing_is_kept_for_who_is_slow(watched: Watched) -> None:
    """
    What a connection does not take is counted; when it takes again it is told how much that was.
    """
    watched.watch(1)
    watched.slow.add(1)
    watched.enqueue(3)
    watched.pass_ms(SLOW_MS)
    watched.enqueue(4)
    watched.pass_ms(SLOW_MS)
    assert [Changed(call=1)] == watched.messages(1)
    watched.slow.clear()
    watched.pass_ms(SLOW_MS)
    assert Changed(call=1, missed_count=7) == watched.messages(1)[-1]


def test_what_is_told_adds_up(watched: Watched) -> None:
    """
    Whatever the pace of the queue and of the watcher, told and counted are all that happened.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    watched.watch(1)
    made = 0
    for _ in range(300):
        count = chance.choice((1, 2, 60, 150))
        watched.enqueue(count)
        made += count
        (watched.slow.add if chance.random() < 0.3 else watched.slow.discard)(1)
        watched.pass_ms(chance.choice((0, 10, WINDOW_MS, SLOW_MS)))
    watched.slow.clear()
    watched.pass_ms(SLOW_MS)
    missed_count = sum(each.missed_count for each in watched.messages(1))
    assert made == len(watched.told(1)) + missed_count
    numbers = [each.number for each in watched.told(1)]
    assert numbers == sorted(set(numbers))


def test_how_many_may_watch(watched: Watched) -> None:
    """
    One account so often, all together so often; who has left makes room.
    """
    for client in range(USER_WATCHERS_MAX):
        watched.watch(client, ALICE)
    watched.watch(500, ALICE)
    assert ["try_later"] == [each.code for each in watched.refusals(500)]
    for client in range(USER_WATCHERS_MAX, WATCHERS_MAX):
        watched.watch(client, ROOT)
    watched.watch(501, ROOT)
    assert ["try_later"] == [each.code for each in watched.refusals(501)]
    watched.watchers.client_gone(0)
    watched.watch(502, ALICE)
    assert not watched.refusals(502)


def test_nothing_is_left_of_who_is_gone(watched: Watched) -> None:
    """
    A connection that ended costs nothing any more, whether that was said or found out.
    """
    watched.watch(1)
    watched.watch(2)
    watched.watchers.client_gone(1)
    watched.gone.add(2)
    watched.enqueue()
    assert watched.watchers._watchers == []
    assert watched.watchers.next_deadline() is None


# --- a whole daemon ------------------------------------------------------------------------------


def test_a_job_watched_from_beginning_to_end(daemon: DaemonProcess) -> None:
    """
    Who watches first and then looks misses nothing, and is told only what holds by then.
    """
    watcher = daemon.client().stream(Watch(), Changed, Done)
    assert Changed(call=1) == next(watcher)
    (job_id,) = daemon.enqueue("exit 0")
    told: list[JobChange] = []
    while not told or told[-1].state != "completed":
        changed = next(watcher)
        assert isinstance(changed, Changed)
        told += changed.changes
    assert ["enqueued", "started", "ended"] == [each.what for each in told]
    assert ("exited", 0, 1) == (told[-1].end, told[-1].exit_code, told[-1].attempt)
    assert {job_id} == {each.id for each in told}


def test_who_watches_is_not_idle_and_may_leave(daemon: DaemonProcess) -> None:
    """
    A watch goes on beside other calls of its connection, and ends with it.
    """
    raw = Raw(daemon.socket)
    raw.send(HELLO + pack_frame(encode(Watch(call=5))) + pack_frame(encode(List(call=6))))
    answers = [raw.receive() for _ in range(3)]
    assert {0, 5, 6} == {each.call for each in answers}
    daemon.enqueue("true", hold=True)
    changed = raw.receive()
    assert (5, "enqueued") == (changed.call, changed.changes[0].what)
    raw.close()
    daemon.enqueue("true", hold=True)
    assert 2 == daemon.status().jobs["held"]


def test_output_from_its_end(daemon: DaemonProcess) -> None:
    """
    With tail_bytes the beginning is said at once, what was there has no time, what comes later has
    one.
    """
    os.mkfifo(f"{daemon.directory}/go")
    (job_id,) = daemon.enqueue(
        "printf 0123456789; read line <go; printf more", cwd=daemon.directory
    )
    wait_until(lambda: daemon.output(job_id) == b"0123456789")
    with Client(daemon.socket) as client:
        answers = client.stream(Logs(id=job_id, tail_bytes=4, follow=True), Output, LogEnd)
        assert Output(call=1, attempt=1, offset=6, data=b"") == next(answers)
        assert Output(call=1, attempt=1, offset=6, data=b"6789") == next(answers)
        with open(f"{daemon.directory}/go", "w", encoding="ascii") as go:
            go.write("\n")
        more = next(answers)
        assert isinstance(more, Output)
        assert (10, b"more") == (more.offset, more.data)
        assert more.at is not None
        assert daemon.show(job_id).job.started_at <= more.at
        assert isinstance(next(answers), LogEnd)


def test_output_that_cannot_be_read(daemon: DaemonProcess) -> None:
    """
    A file that cannot be opened refuses who asks for its end, and nobody else.
    """
    (job_id,) = daemon.enqueue("echo hello")
    daemon.wait_for(job_id)
    path = f"{daemon.state_dir}/output/0/1.1.log"
    os.unlink(path)
    os.symlink("/etc/hostname", path)  # Which no daemon made: it is not followed.
    with Client(daemon.socket) as client:
        answers = client.stream(Logs(id=job_id, tail_bytes=4), Output, LogEnd)
        with pytest.raises(RequestRefused, match="could not be read") as refused:
            next(answers)
    assert "try_later" == refused.value.code
    assert "completed" == daemon.state(job_id)


def test_output_of_a_job_that_has_not_begun(daemon: DaemonProcess) -> None:
    """
    Its stream begins at the first byte.
    """
    (job_id,) = daemon.enqueue("echo hello", hold=True)
    with Client(daemon.socket) as client:
        answers = client.stream(Logs(id=job_id, tail_bytes=4, follow=True), Output, LogEnd)
        assert Output(call=1, attempt=1, offset=0, data=b"") == next(answers)
        with Client(daemon.socket) as other:
            other.call(Act(action="release", select=Selection(ids=[job_id])), Acted)
        first = next(answers)
        assert isinstance(first, Output)
        assert (0, b"hello\n") == (first.offset, first.data)
        assert first.at is not None
