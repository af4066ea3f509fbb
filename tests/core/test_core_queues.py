"""
Named queues: made on first use, limited, paused, deleted and revived.
"""

import pytest
from conversation import Conversation

from queuectl.protocol import (
    QUEUES_MAX,
    WORKERS_MAX,
    DeleteQueue,
    Done,
    Enqueue,
    JobSpec,
    ListQueues,
    SetQueue,
)
from queuectl.views import QueueView


def queues(talk: Conversation, name: str | None = None) -> dict[str, QueueView]:
    """
    Return the named queues.
    """
    return {view.name: view for view in talk.request(ListQueues(name=name)).queues}


def test_a_queue_is_made_by_its_first_job() -> None:
    """
    There is always the queue default; others appear when they are used.
    """
    talk = Conversation()
    assert ["default"] == list(queues(talk))
    talk.enqueue(queue="heavy")
    assert ["default", "heavy"] == list(queues(talk))
    expected = QueueView(
        name="heavy", concurrency=None, paused=False, running=1, jobs={"processing": 1}
    )
    assert {"heavy": expected} == queues(talk, "heavy")


def test_a_limit_holds_for_the_running_jobs_of_its_queue_alone() -> None:
    """
    A queue at its limit starts nothing more; the other queues take the workers.
    """
    talk = Conversation(workers=3)
    talk.set_queue("heavy", concurrency=1)
    first, second = (talk.enqueue(queue="heavy", priority=9) for _ in range(2))
    other = talk.enqueue()
    assert [first, other] == talk.processing()
    assert "queue heavy runs its limit of 1 jobs" == talk.detail(second).why
    talk.exit(first)
    assert [other, second] == talk.processing()


def test_a_changed_limit_holds_at_once() -> None:
    """
    A raised or lifted limit starts what waited for it; a lowered one stops nothing that runs.
    """
    talk = Conversation(workers=4)
    talk.set_queue("q", concurrency=1)
    ids = [talk.enqueue(queue="q") for _ in range(4)]
    talk.set_queue("q", concurrency=2)
    assert ids[:2] == talk.processing()
    talk.set_queue("q", concurrency=0)
    assert ids == talk.processing()
    talk.set_queue("q", concurrency=1)
    assert (ids, []) == (talk.processing(), talk.signals())


def test_the_best_job_of_all_queues_starts() -> None:
    """
    Priority counts across queues, then the order of enqueueing.
    """
    talk = Conversation(workers=1)
    running = talk.enqueue()
    for name, queue, priority in (("a", "x", 0), ("b", "y", 5), ("c", "z", 5), ("d", "x", 1)):
        talk.enqueue(id=name, queue=queue, priority=priority)
    order = []
    talk.exit(running)
    while started := talk.processing():
        order += started
        talk.exit(started[0])
    assert ["b", "c", "d", "a"] == order


def test_a_paused_queue_starts_nothing_until_it_is_resumed() -> None:
    """
    Pausing leaves running jobs alone, holds over a restart, and says why jobs wait.
    """
    talk = Conversation()
    running = talk.enqueue(queue="q")
    talk.set_queue("q", paused=True)
    waiting = talk.enqueue(queue="q")
    talk.restart(snapshot=True)
    assert ["processing", "pending"] == talk.states(running, waiting)
    assert "queue q is paused" == talk.detail(waiting).why
    talk.set_queue("q", paused=False)
    assert "processing" == talk.state(waiting)


def test_pausing_keeps_the_limit_and_limiting_keeps_the_pause() -> None:
    """
    Each of the two is changed without the other.
    """
    talk = Conversation()
    talk.set_queue("q", concurrency=3)
    talk.set_queue("q", paused=True)
    talk.set_queue("q", concurrency=4)
    view = queues(talk)["q"]
    assert (4, True) == (view.concurrency, view.paused)


def test_a_queue_with_unfinished_jobs_is_not_deleted() -> None:
    """
    The refusal says how many there are and how to cancel them; the default queue always stays.
    """
    talk = Conversation(workers=0)
    talk.enqueue(queue="q")
    talk.enqueue(queue="q", hold=True)
    refused = talk.refused(DeleteQueue(name="q"))
    assert "conflict" == refused.code
    assert (
        "the queue has unfinished jobs (2); cancel them first: queuectl cancel --all --queue q"
        == refused.message
    )
    refused = talk.refused(DeleteQueue(name="default"))
    assert ("conflict", "the queue default cannot be deleted") == (refused.code, refused.message)


def test_a_deleted_queue_is_gone_but_its_history_is_not() -> None:
    """
    Finished jobs go on naming it; it comes back, without limit or pause, when one is retried or a
    new job names it.
    """
    talk = Conversation()
    dead, done = talk.enqueue(queue="q", max_retries=0), talk.enqueue(queue="q")
    talk.exit(dead, 1)
    talk.exit(done, 0)
    talk.set_queue("q", concurrency=1, paused=True)
    assert isinstance(talk.request(DeleteQueue(name="q")), Done)
    assert ["default"] == list(queues(talk))
    assert "q" == talk.view(done).queue
    refused = talk.refused(ListQueues(name="q"))
    assert ("not_found", "no queue 'q'; queuectl queue list shows them") == (
        refused.code,
        refused.message,
    )
    talk.restart(snapshot=True)

    talk.act("retry", dead)

    view = queues(talk)["q"]
    assert (None, False, 1) == (view.concurrency, view.paused, view.running)


def test_deleted_queues_do_not_pile_up() -> None:
    """
    A queue that no job names is forgotten with it, so that choosing a job stays cheap.
    """
    talk = Conversation()
    for number in range(5):
        job = talk.enqueue(queue=f"q{number}")
        talk.exit(job, 0)
        talk.request(DeleteQueue(name=f"q{number}"))
        talk.act("prune", job)
        talk.set_queue(f"unused{number}", concurrency=2)
        talk.request(DeleteQueue(name=f"unused{number}"))
    assert ["default"] == list(talk.queue.state.queues)


def test_a_misspelt_queue_is_not_made_by_pausing_it() -> None:
    """
    pause and resume work on queues that are there; delete too.
    """
    talk = Conversation()
    for request in (SetQueue(name="q", paused=True), DeleteQueue(name="q")):
        assert "not_found" == talk.refused(request).code
    assert ["default"] == list(queues(talk))


@pytest.mark.parametrize("concurrency", [-1, WORKERS_MAX + 1])
def test_a_limit_has_limits(concurrency: int) -> None:
    """
    concurrency is 0, for none, up to the number of workers there can be.
    """
    refused = Conversation().refused(SetQueue(name="q", concurrency=concurrency))
    assert ("usage", "concurrency") == (refused.code, refused.field)
    assert f"concurrency must be between 0 (no limit) and {WORKERS_MAX}" == refused.message


def test_there_is_a_limit_on_queues() -> None:
    """
    One queue too many is refused, by enqueue and by set, as a whole batch or as one of it.
    """
    talk = Conversation(workers=0, replay_every=0)
    specs = [JobSpec(command="x", queue=f"q{n}") for n in range(QUEUES_MAX)]
    refused = talk.refused(Enqueue(jobs=specs))
    assert ("try_later", "queue", QUEUES_MAX - 1) == (refused.code, refused.field, refused.index)
    response = talk.request(Enqueue(jobs=specs, partial=True))
    assert [QUEUES_MAX - 1] == [error.index for error in response.errors]
    assert "try_later" == talk.refused(SetQueue(name="more", concurrency=1)).code
    talk.enqueue(queue="q1")


def test_a_batch_may_fill_the_queues_and_use_them() -> None:
    """
    Only a queue that is new counts against the limit, once.
    """
    talk = Conversation(workers=0, replay_every=0)
    names = [f"q{n}" for n in range(QUEUES_MAX - 1)]
    specs = [JobSpec(command="x", queue=name) for name in [*names, *names[-3:], "default"]]
    assert len(specs) == len(talk.request(Enqueue(jobs=specs)).ids)
