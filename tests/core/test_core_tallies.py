"""
What is counted: every start and end once, what is enqueued without being counted, and by the
minute.
"""

import random
from typing import Any

import pytest
from conversation import START_AT, Conversation, replayed

from queuectl.measures import (
    HISTORY_MINUTES_MAX,
    MINUTE_MS,
    OTHER_QUEUES,
    OTHER_USERS,
    GetHistory,
    History,
    MinuteView,
    SeriesView,
)
from queuectl.protocol import Enqueue, JobSpec, Refused
from queuectld.core import history, measuring, tallies
from queuectld.core.events import DaemonBegan
from queuectld.core.measuring import oldest_pending_at, series_views
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.core.tally import SPAN_BOUNDS_MS, Histogram

ALICE = Peer(1001, "alice")
BOB = Peer(1002, "bob")
ROOT = Peer(0, "root", admin=True)


def series(talk: Conversation, peer: Peer = EVERYBODY) -> dict[tuple[str, str | None], SeriesView]:
    views = series_views(talk.queue.state, talk.queue.tallies, peer)
    found = {(view.queue, view.user): view for view in views}
    assert len(found) == len(views)
    return found


def minutes(talk: Conversation, peer: Peer = EVERYBODY, **fields: Any) -> list[MinuteView]:
    answer = talk.request(GetHistory(**fields), peer)
    assert isinstance(answer, History), answer
    times = [minute.at for minute in answer.minutes]
    assert times == list(range(times[0], times[0] + len(times) * MINUTE_MS, MINUTE_MS))
    assert times[-1] <= talk.now < times[-1] + MINUTE_MS
    return answer.minutes


def enqueue(talk: Conversation, peer: Peer, count: int = 1, **fields: Any) -> list[str]:
    answer = talk.request(Enqueue(jobs=[JobSpec(command="true", **fields)] * count), peer)
    return [str(each) for each in answer.ids]


def counted(view: SeriesView | MinuteView) -> dict[str, int]:
    """
    Return what happened, without what did not.
    """
    names = ("enqueued", "started", "retried", "completed", "failed", "dead", "cancelled", "lost")
    return {name: value for name in names if (value := getattr(view, name))}


def test_each_outcome_is_counted_once() -> None:
    """
    An attempt ends in one of completed, failed, dead and cancelled; retried and lost are beside
    that. Jobs that are cancelled without running count too.
    """
    talk = Conversation(workers=10)
    done, failing, stopped, lost = (talk.enqueue(max_retries=1) for _ in range(4))
    talk.exit(done)
    talk.exit(failing, 3)
    talk.advance(10_000)
    talk.exit(failing, 3)
    talk.act("cancel", stopped)
    talk.exit(stopped, None, 15)
    talk.exit(lost, None)
    held = talk.enqueue(hold=True)
    talk.act("cancel", held)

    expected = {
        "enqueued": 5,
        "started": 5,
        "retried": 1,
        "completed": 1,
        "failed": 2,
        "dead": 1,
        "cancelled": 2,
        "lost": 1,
    }
    (view,) = series(talk).values()
    assert counted(view) == expected
    assert counted(minutes(talk)[-1]) == expected
    assert (view.queue, view.user) == ("default", None)
    states = {"completed": 1, "dead": 1, "cancelled": 2, "failed": 1}
    assert states == {name: count for name, count in view.jobs.items() if count}


def test_a_job_held_for_its_lost_attempt_has_failed() -> None:
    """
    Lost attempts count whatever on_lost makes of their job.
    """
    talk = Conversation(workers=2)
    talk.exit(talk.enqueue(on_lost="hold"), None)
    talk.exit(talk.enqueue(on_lost="dead"), None)

    (view,) = series(talk).values()
    assert counted(view) == {"enqueued": 2, "started": 2, "failed": 1, "dead": 1, "lost": 2}
    assert view.run_counts == []


def test_waits_are_counted_from_when_a_job_may_start() -> None:
    """
    Not from its enqueue: neither a delay nor the backoff is the queue's slowness.
    """
    talk = Conversation(workers=1)
    first = talk.enqueue(delay_ms=500_000)
    talk.advance(500_000)
    second = talk.enqueue()
    talk.advance(7_000)
    talk.exit(first)
    talk.advance(40)
    talk.exit(second)

    (view,) = series(talk).values()
    assert view.wait_sum_ms == 7_000
    assert view.run_sum_ms == 7_040
    bounds = [*SPAN_BOUNDS_MS, None]
    assert {bounds[i]: n for i, n in enumerate(view.wait_counts) if n} == {10: 1, 10_000: 1}
    assert {bounds[i]: n for i, n in enumerate(view.run_counts) if n} == {50: 1, 10_000: 1}


def test_a_histogram_counts_a_value_under_the_first_bound_that_it_does_not_exceed() -> None:
    """
    Bounds are inclusive, as `le` is; what is above the last one has a count of its own.
    """
    histogram = Histogram((1, 10))
    histogram.add([0, 1, 1.5])
    histogram.add([10, 11])

    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 23.5


def test_what_is_forgotten_stays_counted() -> None:
    """
    Retention takes jobs away, not what was counted of them.
    """
    talk = Conversation(workers=2)
    for _ in range(3):
        talk.exit(talk.enqueue(queue="brief"))
    talk.set("retention", 1000)
    talk.advance(5_000)
    assert talk.queue.state.jobs == {}

    view = series(talk)["brief", None]
    assert counted(view) == {"enqueued": 3, "started": 3, "completed": 3}
    assert set(view.jobs.values()) == {0}
    assert counted(minutes(talk)[-1])["enqueued"] == 3


def test_a_daemon_counts_from_its_start() -> None:
    """
    After a restart totals begin at 0, though the jobs are there; the minutes before it are put
    together from them.
    """
    talk = Conversation(workers=1)
    talk.exit(talk.enqueue())
    talk.advance(3 * MINUTE_MS)
    talk.exit(talk.enqueue(max_retries=0), 1)
    talk.act("cancel", talk.enqueue(hold=True))
    talk.advance(MINUTE_MS)
    before = [counted(minute) for minute in minutes(talk)]
    talk.restart()

    (view,) = series(talk).values()
    assert counted(view) == {}
    assert [counted(minute) for minute in minutes(talk)] == before
    assert before[-5:] == [
        {"enqueued": 1, "started": 1, "completed": 1},
        {},
        {},
        {"enqueued": 2, "started": 1, "dead": 1, "cancelled": 1},
        {},
    ]
    talk.enqueue()
    (view,) = series(talk).values()
    assert counted(view) == {"enqueued": 1, "started": 1}


def test_the_minute_of_a_restart_is_one() -> None:
    """
    What happened in a minute before the daemon began in it, and after, is shown together.
    """
    talk = Conversation(workers=1)
    talk.exit(talk.enqueue())
    talk.restart()
    talk.exit(talk.enqueue())

    assert counted(minutes(talk)[-1]) == {"enqueued": 2, "started": 2, "completed": 2}
    talk.advance(MINUTE_MS)
    talk.exit(talk.enqueue())
    last = minutes(talk)[-2:]
    assert [counted(minute) for minute in last] == [
        {"enqueued": 2, "started": 2, "completed": 2},
        {"enqueued": 1, "started": 1, "completed": 1},
    ]


@pytest.mark.parametrize("snapshot", [False, True])
def test_minutes_before_the_start_are_those_of_the_daemon_before(snapshot: bool) -> None:
    """
    As long as nothing was forgotten, retried by hand, held or put off, what is rebuilt is what was
    counted, but for jobs that were pending or processing.
    """
    rng = random.Random(1)
    talk = Conversation(workers=3, replay_every=0)
    for _ in range(300):
        running = list(talk.queue.state.members["processing"])
        if running and rng.random() < 0.5:
            talk.exit(str(rng.choice(running)), rng.choice([0, 0, 1]))
        else:
            talk.enqueue(max_retries=0, queue=rng.choice(["a", "b"]))
        talk.advance(rng.choice([0, 100, 5_000, 90_000]))
    before = minutes(talk)
    talk.restart(snapshot=snapshot)

    after = minutes(talk)
    assert [counted(each) for each in before] == [counted(each) for each in after]
    assert [each.wait_counts for each in before] == [each.wait_counts for each in after]
    assert [each.run_sum_ms for each in before] == [each.run_sum_ms for each in after]
    assert any(each.run_sum_ms for each in before)


def test_what_is_known_of_the_past_of_a_retried_job() -> None:
    """
    Of each attempt when it began and how it ended; of the first, what it waited for since it was
    due, and of one that could not start no run.
    """
    talk = Conversation(workers=1)
    job = talk.enqueue(max_retries=2, delay_ms=5 * MINUTE_MS)
    talk.advance(5 * MINUTE_MS)
    talk.exit(job, 1)
    talk.advance(10_000)
    talk.exit(job, None)
    talk.advance(10_000)
    talk.refuse_start(job)
    before = minutes(talk)
    talk.restart()

    after = minutes(talk)
    assert [counted(each) for each in before] == [counted(each) for each in after]
    assert counted(after[-1]) == {"started": 3, "retried": 2, "failed": 2, "dead": 1, "lost": 1}
    assert [sum(each[-1].run_counts) for each in (before, after)] == [1, 1]
    assert [sum(each[-1].wait_counts) for each in (before, after)] == [3, 1]
    assert [each[-1].wait_sum_ms for each in (before, after)] == [0, 0]


def test_what_is_looked_at_for_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A start does not look at more than the latest jobs, and says since when it knows.
    """
    monkeypatch.setattr(history, "REBUILD_JOBS_MAX", 3)
    talk = Conversation(workers=1, replay_every=0)
    for _ in range(5):
        talk.exit(talk.enqueue())
        talk.advance(MINUTE_MS)
    talk.restart()

    answer = talk.request(GetHistory())
    assert sum(minute.enqueued for minute in answer.minutes) == 3
    assert sum(minute.completed for minute in answer.minutes) == 3
    assert answer.known_since_at == START_AT + MINUTE_MS
    assert answer.counted_since_at == talk.now


def test_a_minute_shows_the_jobs_at_its_end() -> None:
    """
    Also when nothing happened for hours: then they were there all the time.
    """
    talk = Conversation(workers=1)
    first, _second = talk.enqueue(), talk.enqueue()
    talk.advance(10 * MINUTE_MS)
    talk.exit(first)
    talk.advance(MINUTE_MS)

    depth = [(minute.pending, minute.processing) for minute in minutes(talk)[-13:]]
    assert depth == [(0, 0), *[(1, 1)] * 10, (0, 1), (0, 1)]


def test_a_day_is_kept() -> None:
    """
    Older minutes go; so do all when a daemon slept for longer than a day.
    """
    talk = Conversation(workers=1)
    talk.enqueue(hold=True)
    assert len(minutes(talk)) == HISTORY_MINUTES_MAX + 1
    for _ in range(3):
        talk.advance(10 * MINUTE_MS)
        minutes(talk)
    assert len(minutes(talk)) == HISTORY_MINUTES_MAX + 1
    assert sum(minute.enqueued for minute in minutes(talk)) == 1

    talk.advance(3 * HISTORY_MINUTES_MAX * MINUTE_MS)
    assert len(minutes(talk)) == HISTORY_MINUTES_MAX + 1
    assert sum(minute.enqueued for minute in minutes(talk)) == 0
    (view,) = series(talk).values()
    assert view.enqueued == 1


def test_only_the_minutes_after_a_time_are_told() -> None:
    """
    Who has the minutes so far asks for those that ended since.
    """
    talk = Conversation(workers=1)
    talk.advance(5 * MINUTE_MS)
    last_at = minutes(talk)[-1].at
    talk.advance(2 * MINUTE_MS)

    found = minutes(talk, since_at=last_at)
    assert [minute.at for minute in found] == [last_at + n * MINUTE_MS for n in (0, 1, 2)]


def test_everybody_sees_their_own_and_admins_all() -> None:
    """
    For a member the jobs of others do not exist, in no sum and by no name.
    """
    talk = Conversation(workers=1, replay_every=0)
    enqueue(talk, ALICE, 2, queue="shared")
    enqueue(talk, BOB, 3, queue="shared")

    assert [(*key, view.enqueued) for key, view in series(talk, ALICE).items()] == [
        ("shared", "alice", 2)
    ]
    assert sorted((*key, view.enqueued) for key, view in series(talk, ROOT).items()) == [
        ("shared", "alice", 2),
        ("shared", "bob", 3),
    ]
    assert minutes(talk, BOB)[-1].enqueued == 3
    assert minutes(talk, BOB, user="bob")[-1].enqueued == 3
    assert minutes(talk, ROOT)[-1].enqueued == 5
    assert minutes(talk, ROOT, user="alice")[-1].enqueued == 2
    assert series(talk, Peer(1003, "carol")) == {}
    assert minutes(talk, Peer(1003, "carol"))[-1].enqueued == 0
    refused = talk.request(GetHistory(user="alice"), BOB)
    assert isinstance(refused, Refused)
    assert refused.code == "not_found"


def test_the_oldest_pending_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is the one that waits longest, whatever its priority, of those that one may see; of very many
    jobs, of those that are next.
    """
    talk = Conversation(workers=1, runner=False, replay_every=0)
    assert oldest_pending_at(talk.queue.state, EVERYBODY) is None
    enqueue(talk, ALICE, priority=-5)
    talk.advance(1_000)
    enqueue(talk, ALICE)
    talk.advance(1_000)
    enqueue(talk, BOB)

    state = talk.queue.state
    assert oldest_pending_at(state, ALICE) == START_AT
    assert oldest_pending_at(state, BOB) == START_AT + 2_000
    assert oldest_pending_at(state, ROOT) == START_AT
    monkeypatch.setattr(measuring, "PENDING_LOOK_MAX", 2)
    assert oldest_pending_at(state, ALICE) == START_AT + 1_000


def test_no_two_accounts_are_called_the_same() -> None:
    """
    Where one was renamed and another got its name, the uid tells them apart.
    """
    talk = Conversation(workers=1, replay_every=0)
    enqueue(talk, ALICE, queue="a")
    enqueue(talk, Peer(1009, "alice"), queue="a")
    enqueue(talk, BOB, queue="a")

    assert {user for _, user in series(talk, ROOT)} == {"alice 1001", "alice 1009", "bob"}


def total(views: dict[tuple[str, str | None], SeriesView], name: str) -> int:
    return sum(getattr(view, name) for view in views.values())


def test_only_so_many_pairs_have_totals_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    All others of an account are summed up, and accounts beyond their number too: nothing is left
    out, and nothing changes its place.
    """
    monkeypatch.setattr(tallies, "SERIES_MAX", 3)
    monkeypatch.setattr(measuring, "SERIES_USERS_MAX", 1)
    talk = Conversation(workers=50, replay_every=0)
    rng = random.Random(2)
    peers = [ALICE, BOB, Peer(1003, "carol")]
    before: dict[tuple[str, str | None], SeriesView] = {}
    for _ in range(150):
        enqueue(talk, rng.choice(peers), queue=f"q{rng.randrange(4)}", max_retries=0)
        running = list(talk.queue.state.members["processing"])
        if rng.random() < 0.7:
            talk.exit(str(rng.choice(running)), rng.choice([0, 1]))
        talk.advance(rng.choice([0, 10_000, 70_000]))
        views = series(talk, ROOT)
        for key, view in before.items():
            for name in counted(view):
                assert getattr(views[key], name) >= getattr(view, name), (key, name)
        before = views

    state = talk.queue.state
    assert len([key for key in views if key[0] != OTHER_QUEUES]) == 3
    assert (OTHER_QUEUES, OTHER_USERS) in views
    assert len(views) == 5
    assert total(views, "enqueued") == len(state.jobs)
    assert total(views, "completed") == state.counts["completed"]
    assert total(views, "dead") == state.counts["dead"]
    assert sum(view.jobs["dead"] for view in views.values()) == state.counts["dead"]
    for peer in peers:
        own = series(talk, peer)
        assert total(own, "enqueued") == sum(state.shares.by_owner[peer.uid].counts.values())
        assert {user for _, user in own} == {peer.user}
    assert minutes(talk, ROOT)[-1].enqueued <= len(state.jobs)


def test_after_a_restart_pairs_beyond_the_limit_begin_at_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Jobs that were there before are not taken for new ones, in no sum.
    """
    monkeypatch.setattr(tallies, "SERIES_MAX", 2)
    talk = Conversation(workers=1, runner=False, replay_every=0)
    for name in ("a", "b", "c", "d"):
        enqueue(talk, ALICE, queue=name)
    talk.restart(runner=False)
    assert total(series(talk, ROOT), "enqueued") == 0
    enqueue(talk, ALICE, queue="d")
    enqueue(talk, BOB, queue="a")

    views = series(talk, ROOT)
    assert {key: view.enqueued for key, view in views.items() if view.enqueued} == {
        (OTHER_QUEUES, "alice"): 1,
        (OTHER_QUEUES, "bob"): 1,
    }


def test_memory_of_accounts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With too many accounts at work the earliest minutes lose what is of each, never what is of all.
    """
    monkeypatch.setattr(history, "USER_BUCKETS_MAX", 4)
    talk = Conversation(workers=0, runner=False, replay_every=0)
    for _ in range(6):
        enqueue(talk, ALICE)
        enqueue(talk, BOB)
        talk.advance(MINUTE_MS)

    answer = talk.request(GetHistory(), ALICE)
    assert [minute.enqueued for minute in answer.minutes[-7:]] == [0, 0, 0, 0, 1, 1, 0]
    assert answer.known_since_at == answer.minutes[-3].at
    assert [minute.enqueued for minute in minutes(talk, ROOT)[-7:]] == [2, 2, 2, 2, 2, 2, 0]


def test_counting_changes_nothing_durable() -> None:
    """
    A replayed queue has counted nothing, and begins when it hears of its first event.
    """
    talk = Conversation(workers=1)
    talk.exit(talk.enqueue())
    twin = replayed(talk.stored)
    assert twin.tallies.totals == {}

    twin.handle(DaemonBegan(7, "1.0", 1), talk.now)
    assert twin.tallies.started_at == talk.now
