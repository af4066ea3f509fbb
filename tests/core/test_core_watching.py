"""
Requirements on what those who watch are told: what a record states, of jobs that exist for them.
"""

import pytest
from conversation import Conversation

from queuectl.protocol import SetQueue
from queuectl.watching import JobChange, Watch
from queuectld.core.effects import TellForgotten, WatchJobs
from queuectld.core.events import RunExited
from queuectld.core.peer import Peer
from queuectld.core.records import JobForgotten
from queuectld.core.watching import TABLES, change_of, forgotten, state_after

ALICE, BOB = Peer(1001, "alice"), Peer(1002, "bob")


def changes(queue: Conversation) -> list[JobChange]:
    """
    Return what the records of the last step say.
    """
    state = queue.queue.state
    told = []
    for record in queue.records:
        number = getattr(record, "number", None)
        if number is not None and number in state.jobs:
            job = state.jobs[number]
            change = change_of(record, job, state.spec(job))
            assert change.state == state_after(record)
            told.append(change)
    return told


@pytest.fixture
def queue() -> Conversation:
    return Conversation(workers=1)


def test_a_jobs_way(queue: Conversation) -> None:
    """
    Each step of a job's life is one change, with the state after it and what is new.
    """
    job_id = queue.enqueue("false", id="backup", queue="night", priority=5, max_retries=1)
    number = queue.job(job_id).number
    enqueued, started = changes(queue)
    common = {"number": number, "id": "backup", "queue": "night"}
    assert enqueued == JobChange(
        what="enqueued", state="pending", at=queue.now, priority=5, **common
    )
    assert started == JobChange(
        what="started", state="processing", at=queue.now, attempt=1, worker=1, **common
    )
    queue.handle(RunExited(number, 1, exit_code=3))
    (ended,) = changes(queue)
    due_at = queue.view(job_id).next_run_at
    assert due_at is not None
    assert ended == JobChange(
        what="ended",
        state="failed",
        at=queue.now,
        next_run_at=due_at,
        attempt=1,
        worker=1,
        end="exited",
        exit_code=3,
        **common,
    )
    queue.act("hold", job_id)
    (moved,) = changes(queue)
    assert ("moved", "held", 5) == (moved.what, moved.state, moved.priority)


def test_stopping_is_told(queue: Conversation) -> None:
    """
    A running attempt that is to end is told with what its end will be.
    """
    job_id = queue.enqueue("sleep 9")
    queue.act("cancel", job_id)
    (stopping,) = changes(queue)
    assert ("stopping", "processing", "cancelled") == (
        stopping.what,
        stopping.state,
        stopping.end,
    )


def test_forgotten_jobs_are_told(queue: Conversation) -> None:
    """
    A job that left the history is told with what it was; its record alone could not say.
    """
    job_id = queue.enqueue("true", hold=True, queue="night")
    queue.act("cancel", job_id)
    queue.act("prune", all=True)
    assert any(isinstance(record, JobForgotten) for record in queue.records)
    (effect,) = [each for each in queue.effects if isinstance(each, TellForgotten)]
    (job,) = effect.jobs
    change = forgotten(job, queue.queue.state.spec(job), queue.now)
    assert ("forgotten", job_id, "cancelled", "night") == (
        change.what,
        change.id,
        change.state,
        change.queue,
    )


def test_watching_jobs_by_id(queue: Conversation) -> None:
    """
    Ids are those of jobs that exist for who asks; of others nothing is said but that.
    """
    job_id = queue.enqueue("true", hold=True, id="mine")
    effect = queue.request(Watch(ids=[job_id]))
    assert isinstance(effect, WatchJobs)
    assert effect.numbers == frozenset({queue.job(job_id).number})
    assert "not_found" == queue.refused(Watch(ids=["other"])).code
    assert "not_found" == queue.request(Watch(ids=[job_id]), ALICE).code
    assert queue.request(Watch(), ALICE).numbers is None


def test_tables(queue: Conversation) -> None:
    """
    What is not a job's is told as the name of what to look at again.
    """
    queue.set("backoff_base", 3)
    queue_set = [TABLES[type(record)] for record in queue.records]
    queue.request(SetQueue(name="night", concurrency=1))
    queue_set += [TABLES[type(record)] for record in queue.records]
    assert ["settings", "queues"] == queue_set
