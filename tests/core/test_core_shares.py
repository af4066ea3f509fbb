"""
Fair shares: whose job is next, what users may have, and what is said of it.

The rules are checked against the naive model, step by step, and as what they promise: nobody waits
for another's line, shares follow weights, first in is first out, no slot is idle for nothing.
QUEUECTL_SEED makes other runs than the usual ones.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from conversation import Conversation
from naive_model import Model, ModelJob

from queuectl.environment import pack_variables
from queuectl.protocol import Act, Enqueue, Enqueued, JobSpec, Refused, Selection, Show
from queuectld.core.effects import StartRun
from queuectld.core.peer import Peer

ROOT = Peer(0, "root", admin=True)
ALICE, BOB, CAROL = (Peer(1001 + n, user) for n, user in enumerate(("alice", "bob", "carol")))
USERS = {peer.uid: peer.user for peer in (ROOT, ALICE, BOB, CAROL)}
SEED = int(os.environ.get("QUEUECTL_SEED", "1"))


@pytest.fixture
def rng() -> Iterator[random.Random]:
    print(f"QUEUECTL_SEED={SEED}")
    return random.Random(SEED)


def enqueue(talk: Conversation, peer: Peer, count: int = 1, **fields: object) -> list[str]:
    """
    Make jobs of an account and return their ids.
    """
    jobs = [JobSpec(**{"command": "true", **fields})] * count  # type: ignore[arg-type]
    answer = talk.request(Enqueue(jobs=jobs), peer)
    assert isinstance(answer, Enqueued), answer
    return [str(job_id) for job_id in answer.ids]


def started(talk: Conversation) -> list[str]:
    """
    Return whose jobs the last step started, in order.
    """
    starts = [effect for effect in talk.effects if isinstance(effect, StartRun)]
    return [USERS[start.uid] for start in starts]


def running(talk: Conversation) -> Counter[str]:
    """
    Return how many jobs of each user run.
    """
    jobs = talk.queue.state.jobs
    return Counter(USERS[jobs[n].owner] for n in talk.queue.state.members["processing"])


def end_one(talk: Conversation, job_id: str | None = None) -> list[str]:
    """
    Let a running job end, the one that began first or this one; return whose jobs were started.
    """
    talk.exit(job_id or talk.processing()[0])
    return started(talk)


# --- whose turn it is ---------------------------------------------------------------------------


def test_a_line_of_one_user_does_not_delay_the_first_job_of_another() -> None:
    """
    It starts when the next running job ends, however many wait, whatever the weights.
    """
    for workers in (1, 3):
        for weights in (None, "alice=100", "bob=100"):
            talk = Conversation(workers=workers, replay_every=0)
            talk.set("user_weights", weights)
            enqueue(talk, ALICE, 50)
            for _ in range(7):
                end_one(talk)
            enqueue(talk, BOB)
            assert ["bob"] == end_one(talk)


def test_who_comes_back_is_next_but_has_gathered_nothing() -> None:
    """
    The time without jobs earns no more than the first start.
    """
    talk = Conversation(workers=1, replay_every=0)
    enqueue(talk, BOB)
    end_one(talk)
    enqueue(talk, ALICE, 200)
    for _ in range(100):
        assert ["alice"] == end_one(talk)
    enqueue(talk, BOB, 100)
    whose = [end_one(talk)[0] for _ in range(20)]
    assert ["bob", "alice"] * 10 == whose


def test_who_was_alone_owes_nothing() -> None:
    """
    A hundred starts without a rival do not count against the next.
    """
    talk = Conversation(workers=2, replay_every=0)
    enqueue(talk, ALICE, 200)
    for _ in range(100):
        end_one(talk)
    enqueue(talk, BOB, 50)
    whose = [end_one(talk)[0] for _ in range(20)]
    assert 10 == whose.count("bob")


def test_long_jobs_do_not_gather_slots() -> None:
    """
    Slots are shared, not starts: alice's jobs do not end, bob's do, and each keeps two slots.
    """
    talk = Conversation(workers=4, replay_every=0)
    enqueue(talk, BOB, 100)
    enqueue(talk, ALICE, 100)
    while running(talk) != {"alice": 2, "bob": 2}:
        end_one(talk)
    jobs = talk.queue.state.jobs
    for _ in range(50):
        (job_id, *_) = [each for each in talk.processing() if jobs[int(each)].owner == BOB.uid]
        assert ["bob"] == end_one(talk, job_id)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 1), (5, 3, 2), (10, 9, 1)], ids=str)
def test_shares_of_the_slots_follow_the_weights(
    rng: random.Random, workers: int, weights: tuple[int, ...]
) -> None:
    """
    In the long run each user has its part of the slots' time, also with fewer slots than weights.
    """
    talk = Conversation(workers=workers, replay_every=0)
    talk.set("retention_count", 0)
    users = dict(zip((ALICE, BOB, CAROL), weights, strict=True))
    talk.set("user_weights", ",".join(f"{peer.user}={weight}" for peer, weight in users.items()))
    for peer in users:
        enqueue(talk, peer, workers + 1)
    time: Counter[str] = Counter()
    for _ in range(300):
        (user,) = end_one(talk, rng.choice(talk.processing()))
        talk.advance(0)
        enqueue(talk, next(peer for peer in users if peer.user == user))
        time.update(running(talk))
    for peer, weight in users.items():
        assert abs(time[peer.user] / time.total() - weight / sum(weights)) < 0.1, time


def test_a_priority_is_above_all_shares() -> None:
    """
    An admin's urgent jobs come first, and do not change whose turn it is among the others.
    """
    talk = Conversation(workers=1, replay_every=0)
    enqueue(talk, ALICE, 20)
    enqueue(talk, ROOT, 10, priority=5)
    assert ["root"] * 10 == [end_one(talk)[0] for _ in range(10)]
    enqueue(talk, BOB, 10)
    enqueue(talk, ROOT, 10)
    whose = [end_one(talk)[0] for _ in range(9)]
    assert {"alice": 3, "bob": 3, "root": 3} == Counter(whose)


def test_a_restart_begins_the_turns_anew() -> None:
    """
    What runs still counts; turns are not on disk.
    """
    talk = Conversation(workers=2, replay_every=0)
    enqueue(talk, ALICE, 10)
    enqueue(talk, BOB, 10)
    end_one(talk)
    assert {"alice": 1, "bob": 1} == running(talk)
    talk.restart(snapshot=True)
    assert 0 == talk.queue.state.shares.turn
    for job_id in talk.processing():
        whose = USERS[talk.job(job_id).owner]
        assert [whose] == end_one(talk, job_id)


def test_the_choice_agrees_with_the_naive_model(rng: random.Random) -> None:
    """
    Whatever users, queues, limits and weights: the same job starts, in the order of its user's, and
    no slot is idle while a job may start. Few jobs wait, and many, over and over.
    """
    talk = Conversation(workers=3, replay_every=50)
    talk.set("retention_count", 0)
    model = Model(talk.now, 3)
    model.queues["default"] = (0, False)
    model.set_slots({1, 2, 3})
    for _ in range(1500):
        roll = rng.random()
        if roll < (0.45 if len(model.jobs) < 25 else 0.1):
            peer, queue = rng.choice((ALICE, ALICE, BOB, CAROL)), rng.choice(("default", "a"))
            priority = rng.choice((0, 0, 0, -1))
            (job_id,) = enqueue(talk, peer, queue=queue, priority=priority)
            job = ModelJob(int(job_id), queue, priority, "pending", 0, 0, 0, 0, 0, "dead")
            job.user = peer.user
            model.enqueue(job)
        elif roll < 0.9 and (busy := talk.processing()):
            job_id = rng.choice(busy)
            talk.exit(job_id)
            talk.advance(0)
            model.end(int(job_id), "completed")
            del model.jobs[int(job_id)]
        elif roll < 0.93:
            model.weights = {user: rng.choice((1, 2, 3, 7)) for user in ("alice", "bob")}
            talk.set("user_weights", ",".join(f"{u}={w}" for u, w in model.weights.items()))
        elif roll < 0.96:
            model.user_running_max = rng.choice((None, 1, 2))
            talk.set("user_running_max", model.user_running_max)
        elif roll < 0.98:
            model.queues["a"] = (rng.choice((0, 1, 2)), rng.random() < 0.3)
            talk.set_queue("a", concurrency=model.queues["a"][0], paused=model.queues["a"][1])
        elif roll < 0.99:
            count = rng.randint(1, 4)
            talk.set("workers", count)
            model.set_slots(set(range(1, count + 1)))
        else:
            talk.restart(snapshot=rng.random() < 0.5)
            model.begin_turns()
        model.fill()
        expected = {number: job.slot for number, job in model.jobs.items() if job.slot}
        actual = {n: talk.view(str(n)).worker for n in talk.queue.state.members["processing"]}
        assert expected == actual


# --- what users may have ------------------------------------------------------------------------


def refused(talk: Conversation, peer: Peer, request: object) -> str:
    """
    Return why a request was refused for want of room.
    """
    answer = talk.request(request, peer)
    assert isinstance(answer, Refused), answer
    assert ("try_later", []) == (answer.code, talk.records)
    assert answer.message.isprintable()
    return answer.message


def test_a_user_has_no_more_jobs_than_the_limit() -> None:
    """
    All that wait, run or are dead count, in any state; a batch is refused whole, even a partial
    one; ended jobs make room. Others, and admins, have room of their own.
    """
    talk = Conversation(workers=1)
    talk.set("user_queued_max", 5)
    enqueue(talk, ALICE, max_retries=0)
    talk.exit("1", 1)
    enqueue(talk, ALICE)
    enqueue(talk, ALICE, hold=True)
    enqueue(talk, ALICE, delay_ms=1000)
    assert ["dead", "processing", "held", "scheduled"] == talk.states("1", "2", "3", "4")
    two = [JobSpec(command="true")] * 2
    for partial in (False, True):
        message = refused(talk, ALICE, Enqueue(jobs=two, partial=partial))
        assert "user alice has 4 jobs that wait, run or are dead; 2 more would be" in message
        assert "would be more than 5 (user_queued_max)" in message
    enqueue(talk, ALICE)
    refused(talk, ALICE, Enqueue(jobs=two[:1]))
    enqueue(talk, BOB, 5)
    enqueue(talk, ROOT, 6)
    talk.exit("2")
    enqueue(talk, ALICE)
    talk.set("user_queued_max", None)
    enqueue(talk, ALICE, 100)


def test_retrying_needs_room_as_well() -> None:
    """
    Cancelled jobs that would wait again count; dead and failed ones did before.
    """
    talk = Conversation(workers=0)
    talk.set("user_queued_max", 2)
    enqueue(talk, ALICE, 2)
    retry = Act(action="retry", select=Selection(all=True, states=["cancelled"]))
    talk.act("cancel", all=True)
    enqueue(talk, ALICE)
    assert "1 jobs that wait, run or are dead; 2 more" in refused(talk, ALICE, retry)
    one = Act(action="retry", select=Selection(ids=["1"]))
    assert ["1"] == talk.request(one, ALICE).ids
    assert ["2"] == talk.request(retry, ROOT).ids


def test_a_user_runs_no_more_jobs_than_the_limit_and_is_told_so() -> None:
    """
    Slots stay idle for others; a job that waits for the limit says so, and starts when that is
    raised.
    """
    talk = Conversation(workers=4)
    talk.set("user_running_max", 2)
    *_, last = enqueue(talk, ALICE, 3)
    assert {"alice": 2} == running(talk)
    why = talk.request(Show(id=last), ALICE).why
    assert "user alice has 2 running, of 2 (user_running_max)" == why
    enqueue(talk, BOB)
    assert {"alice": 2, "bob": 1} == running(talk)
    talk.set("user_running_max", 3)
    assert {"alice": 3, "bob": 1} == running(talk)


def test_in_user_mode_nobody_is_limited() -> None:
    """
    There is one account: limits of users are not about it, nor are shares.
    """
    talk = Conversation(workers=4)
    for key in ("user_running_max", "user_queued_max"):
        talk.set(key, 1)
    assert "1" == talk.enqueue()
    assert "2" == talk.enqueue()
    assert ["1", "2"] == talk.processing()


def test_a_user_keeps_no_more_bytes_than_the_limit() -> None:
    """
    What jobs say and their environments count until they are forgotten; the request that goes over
    the limit is taken, the next is not. Others are not touched, nor are admins.
    """
    talk = Conversation(workers=0, replay_every=0)
    talk.set("user_bytes_max", 1 << 20)
    large = Enqueue(jobs=[JobSpec(script="x" * 200_000)], env=pack_variables({"A": "x" * 100_000}))
    for _ in range(5):
        talk.request(large, ALICE)
    message = refused(talk, ALICE, large)
    assert "of at most 1048576 (user_bytes_max); forget finished ones" in message
    share = talk.queue.state.shares.by_owner[ALICE.uid]
    assert 1_100_000 < share.size_bytes < 1_110_000
    for peer in (BOB, ROOT):
        assert isinstance(talk.request(large, peer), Enqueued)
    talk.check_replay()
    talk.act("cancel", "1-5")
    refused(talk, ALICE, large)
    talk.act("prune", "1-5")
    assert 0 == share.size_bytes
    assert isinstance(talk.request(large, ALICE), Enqueued)


# --- what is said of it -------------------------------------------------------------------------


def test_a_job_says_that_it_waits_for_its_share() -> None:
    """
    How many of the owner's jobs run, and how many others wait; not who they are.
    """
    talk = Conversation(workers=2)
    enqueue(talk, ALICE, 3)
    (job_id,) = enqueue(talk, BOB)
    assert (
        "all 2 workers are busy, 0 with jobs of user bob; jobs of 1 other user wait too"
        == talk.request(Show(id=job_id), BOB).why
    )
    enqueue(talk, CAROL)
    assert (
        "2 with jobs of user alice; jobs of 2 other users wait too"
        in talk.request(Show(id="3"), ALICE).why
    )
