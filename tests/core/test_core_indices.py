"""
The parts of the core by themselves: the line, the timers, the slots, the backoff.
"""

import itertools
import random

import pytest

from queuectl.protocol import PRIORITY_MAX
from queuectld.core.limits import Slots
from queuectld.core.ready import Ready, pack, unpack
from queuectld.core.records import NUMBER_MAX
from queuectld.core.retry import backoff_ms
from queuectld.core.timers import Timers, earliest

# --- the line -----------------------------------------------------------------------------------


def test_line_entries_sort_as_jobs_run() -> None:
    """
    Smaller entries run sooner: larger priority first, then smaller number; nothing is cut off.
    """
    priorities = (PRIORITY_MAX, 10, 1, 0, -1, -10, -PRIORITY_MAX)
    numbers = (1, 2, 1 << 32, NUMBER_MAX - 1)
    places = list(itertools.product(priorities, numbers))
    entries = [pack(*place) for place in places]
    assert sorted(entries) == entries
    assert places == [unpack(entry) for entry in entries]


def test_the_line_gives_the_best_live_entry() -> None:
    """
    Stale entries are dropped when they surface; asking twice gives the same.
    """
    ready = Ready()
    assert None is ready.head(lambda *_: True)
    for number in range(1, 6):
        ready.push(number % 3, number)
    live = {(1, 4), (0, 3), (1, 1)}
    order = []
    while (head := ready.head(lambda *entry: entry in live)) is not None:
        assert head == ready.head(lambda *entry: entry in live)
        order.append(unpack(head))
        live.discard(order[-1])
    assert ([(1, 1), (1, 4), (0, 3)], 0) == (order, len(ready))


def test_a_rebuilt_line_is_in_order() -> None:
    """
    Rebuilding keeps exactly the entries given.
    """
    ready = Ready()
    ready.push(0, 9)
    entries = [(priority, number) for number in range(20) for priority in (1, 5)]
    ready.rebuild(entries)
    assert sorted(entries) == sorted(ready.entries())
    assert pack(5, 0) == ready.head(lambda *_: True)


# --- timers -------------------------------------------------------------------------------------


def test_timers_give_the_earliest_live_one() -> None:
    """
    By time, then by number; repeats of an entry leave with it.
    """
    timers = Timers()
    assert None is timers.head(lambda *_: True)
    entries = [(5, 1), (3, 2), (3, 1), (1 << 50, 7), (3, 2), (4, 9)]
    for at, number in entries:
        timers.push(at, number)
    assert sorted(entries) == sorted(timers.entries())
    order = []
    while (head := timers.head(lambda at, number: number != 9)) is not None:
        order.append(head)
        timers.pop()
    assert [(3, 1), (3, 2), (5, 1), (1 << 50, 7)] == order


def test_rebuilt_timers_keep_what_is_live() -> None:
    """
    Rebuilding drops the stale ones wherever they are.
    """
    timers = Timers()
    for number in range(100):
        timers.push(1000 - number, number)
    timers.rebuild(lambda at, number: number % 2 == 0)
    assert 50 == len(timers)
    assert (902, 98) == timers.head(lambda *_: True)


@pytest.mark.parametrize(
    ("times", "expected"),
    [((), None), ((None, None), None), ((None, 7, 3, None, 5), 3), ((0, None, 2), 0)],
)
def test_the_earliest_of_some_times(times: tuple[int | None, ...], expected: int | None) -> None:
    """
    None is no time; 0 is one, and means at once.
    """
    assert expected == earliest(*times)


# --- slots --------------------------------------------------------------------------------------


def test_slots_behave_like_a_plain_table() -> None:
    """
    Whatever is set, occupied and freed: the lowest idle slot is given, busy slots that are taken
    away stay until they are free, and free numbers are those that no slot has.
    """
    rng = random.Random(5)
    slots = Slots()
    taking: set[int] = set()
    busy: dict[int, int] = {}
    for step in range(3000):
        roll = rng.random()
        idle = sorted(taking - busy.keys())
        if roll < 0.1:
            taking = set(rng.sample(range(1, 9), rng.randrange(6)))
            slots.set(dict.fromkeys(taking, step), {})
        elif roll < 0.6 and idle:
            assert idle[0] == slots.first_idle()
            busy[idle[0]] = step
            slots.occupy(idle[0], step, step)
        elif busy:
            number = rng.choice(sorted(busy))
            slots.free(number, busy.pop(number))
        there = taking | busy.keys()
        assert there == slots.by_number.keys()
        assert (min(taking - busy.keys(), default=None)) == slots.first_idle()
        assert sorted(taking) == slots.numbers()
        assert [n for n in range(1, 20) if n not in there][:3] == slots.free_numbers(3)
        for number, slot in slots.by_number.items():
            assert (busy.get(number, 0), number not in taking) == (slot.job, slot.draining)


def test_freeing_a_slot_of_another_job_does_nothing() -> None:
    """
    In a snapshot the end of a run may come when its slot has another job, or is gone.
    """
    slots = Slots()
    slots.set({1: 0}, {})
    slots.occupy(1, 5, 0)
    slots.free(1, 4)
    slots.free(2, 4)
    assert 5 == slots.by_number[1].job


def test_a_slot_that_is_gone_comes_back_draining_for_its_job() -> None:
    """
    In a snapshot a run may begin before the slots are known.
    """
    slots = Slots()
    slots.occupy(3, 5, 100)
    assert (True, None) == (slots.by_number[3].draining, slots.first_idle())
    slots.set({}, {3: 50})
    assert 50 == slots.by_number[3].since_at
    slots.free(3, 5)
    assert {} == slots.by_number


# --- backoff ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "base", "longest_ms", "expected"),
    [
        (1, 2, 3_600_000, 2000),
        (11, 2, 3_600_000, 2_048_000),
        (12, 2, 3_600_000, 3_600_000),
        (60_000, 1000, 3_600_000, 3_600_000),
        (60_000, 1.0000001, 3_600_000, 1006),
        (60_000, 1, 3_600_000, 1000),
        (1, 2, 0, 0),
        (1, 2, 1, 1),
        (1, 2, 999, 999),
        (1, 2, 1000, 1000),
        (2, 2, 4000, 4000),
        (2, 2, 4001, 4000),
        (3, 10, 10**15, 1_000_000),
    ],
)
def test_backoff_is_base_to_the_attempts_within_its_cap(
    attempts: int, base: float, longest_ms: int, expected: int
) -> None:
    """
    Any attempt and any base allowed gives a wait, without overflow.
    """
    assert expected == backoff_ms(attempts, base, longest_ms, 0, lambda: 1.0)


@pytest.mark.parametrize(("roll", "expected"), [(0.0, 4000), (0.5, 4500), (1.0, 5000)])
def test_jitter_is_a_share_of_the_wait(roll: float, expected: int) -> None:
    """
    It is added on top, also of the cap.
    """
    assert expected == backoff_ms(9, 2, 4000, 0.25, lambda: roll)
