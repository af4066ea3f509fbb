"""
The queue's time and the journal's slow calls, with twins of what they stand on.
"""

import select
import threading

import pytest

from queuectld.runtime import clock, committer
from queuectld.runtime.clock import STEP_MS, Clock
from queuectld.runtime.committer import QUICK_S_MAX, Committer


class Times:
    """
    A wall clock that can be set, and a boot clock that cannot.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_700_000_000_000
        self.boot = 5_000
        monkeypatch.setattr(clock, "wall_ms", lambda: self.wall)
        monkeypatch.setattr(clock, "boot_ms", lambda: self.boot)

    def pass_(self, span_ms: int) -> None:
        self.wall += span_ms
        self.boot += span_ms


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


@pytest.mark.parametrize("step_ms", [STEP_MS, -STEP_MS, 86_400_000, -86_400_000 * 3650])
def test_a_set_wall_clock_does_not_move_the_queues_time(times: Times, step_ms: int) -> None:
    """
    It is told once, with how far the wall clock is ahead now; again only when it is set again.
    """
    queue_time = Clock()
    start = queue_time.now()
    assert queue_time.stepped(queue_time.now()) is None
    times.pass_(1000)
    times.wall += step_ms
    assert queue_time.now() == start + 1000
    assert queue_time.stepped(queue_time.now()) == step_ms
    assert queue_time.stepped(queue_time.now()) is None
    times.pass_(10)
    times.wall -= step_ms
    assert queue_time.stepped(queue_time.now()) == 0
    assert queue_time.now() == start + 1010


def test_drift_is_no_step(times: Times) -> None:
    """
    Less than a second is not told.
    """
    queue_time = Clock()
    times.wall += STEP_MS - 1
    assert queue_time.stepped(queue_time.now()) is None
    times.wall += 1
    assert queue_time.stepped(queue_time.now()) == STEP_MS


def test_time_does_not_run_backwards_over_a_restart(times: Times) -> None:
    """
    With a wall clock that is behind what the journal has seen, the queue's time goes on from there,
    and the wall clock counts as set back.
    """
    queue_time = Clock()
    latest = times.wall + 3_600_000
    queue_time.start_no_earlier_than(latest)
    assert queue_time.now() == latest
    assert queue_time.stepped(queue_time.now()) == -3_600_000
    times.pass_(5)
    assert queue_time.now() == latest + 5
    queue_time.start_no_earlier_than(0)
    assert queue_time.now() == latest + 5


def test_the_committer_does_one_task_and_says_so() -> None:
    """
    The descriptor becomes readable when it is done; the result comes once.
    """
    committer = Committer()
    gate = threading.Event()
    committer.submit(lambda: gate.wait(20) and 7)
    assert committer.busy
    assert committer.collect() is None
    gate.set()
    readable, _, _ = select.select([committer.wake_fd], [], [], 20)
    assert readable
    assert committer.collect() == (7, None)
    assert not committer.busy
    assert committer.collect() is None
    assert select.select([committer.wake_fd], [], [], 0)[0] == []
    committer.close()


def test_the_committer_hands_on_what_a_task_raises() -> None:
    """
    Whatever it is: the loop decides what it means, and the thread lives on.
    """
    committer = Committer()

    def fail() -> None:
        raise KeyError("no such luck")

    for _ in range(3):
        committer.submit(fail)
        outcome = committer.collect(wait=True)
        assert outcome is not None
        assert isinstance(outcome[1], KeyError)
    committer.submit(threading.get_ident)
    assert committer.collect(wait=True) != (threading.get_ident(), None)
    committer.close()


def test_a_task_is_run_where_it_is_if_the_loop_says_so() -> None:
    """
    run() does the work in the loop's own thread and hands on what is raised, like submit().
    """
    committer = Committer()

    def fail() -> None:
        raise KeyError("no such luck")

    assert committer.run(threading.get_ident) == (threading.get_ident(), None)
    assert isinstance(committer.run(fail)[1], KeyError)
    assert not committer.busy
    assert select.select([committer.wake_fd], [], [], 0)[0] == []
    committer.close()


@pytest.mark.parametrize("on_thread", [False, True])
def test_the_disk_is_quick_while_its_last_task_was(
    monkeypatch: pytest.MonkeyPatch, on_thread: bool
) -> None:
    """
    It is measured wherever the task ran, and a disk that was never used is not quick.
    """
    times = [0.0]
    monkeypatch.setattr(committer.time, "monotonic", lambda: times[0])
    disk = Committer()
    assert not disk.is_quick
    for took_s in (QUICK_S_MAX, QUICK_S_MAX * 1.5, QUICK_S_MAX / 2):

        def task(took_s: float = took_s) -> None:
            times[0] += took_s

        times[0] = 0.0
        if on_thread:
            disk.submit(task)
            assert disk.collect(wait=True) == (None, None)
        else:
            assert disk.run(task) == (None, None)
        assert disk.is_quick == (took_s <= QUICK_S_MAX)
    disk.close()
