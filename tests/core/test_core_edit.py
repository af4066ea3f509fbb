"""
Another priority for jobs that were enqueued: their place in the line, and who may give which.
"""

import pytest
from conversation import Conversation

from queuectl.editing import Edit
from queuectl.protocol import PRIORITY_MAX, Acted, Enqueue, JobSpec, Refused, Selection
from queuectld.core.peer import Peer
from queuectld.core.records import JobMoved

ALICE = Peer(1001, "alice")
BOB = Peer(1002, "bob")
ROOT = Peer(0, "root", admin=True)


def edited(talk: Conversation, priority: int, *ids: str) -> Acted:
    answer = talk.request(Edit(select=Selection(ids=list(ids)), priority=priority))
    assert isinstance(answer, Acted), answer
    return answer


def started_order(talk: Conversation, count: int) -> list[str]:
    """
    Let the one worker run *count* jobs, one after the other, and return them in that order.
    """
    order = []
    for _ in range(count):
        (job,) = talk.processing()
        order.append(job)
        talk.exit(job)
    return order


def test_an_edited_job_takes_the_place_of_its_new_priority() -> None:
    """
    Larger runs sooner; within a priority the job that was enqueued first is first, also when it
    came to that priority last.
    """
    talk = Conversation(workers=1)
    jobs = [talk.enqueue(id=name) for name in ("runs", "a", "b", "c", "d")]
    edited(talk, 5, "d")
    edited(talk, 5, "c")
    edited(talk, -5, "a")

    assert ["runs", "c", "d", "b", "a"] == started_order(talk, len(jobs))


def test_back_and_forth_leaves_one_place() -> None:
    """
    A job whose priority is changed and changed back starts once.
    """
    talk = Conversation(workers=1)
    for name in ("runs", "a", "b"):
        talk.enqueue(id=name)
    for priority in (5, 0, 5, 0):
        edited(talk, priority, "b")

    assert ["runs", "a", "b"] == started_order(talk, 3)
    assert [] == talk.processing()


def test_many_edits_leave_a_line_no_longer_than_it_must_be() -> None:
    """
    What an edit leaves behind in the line and among the timers is thrown away in time.
    """
    talk = Conversation(workers=1, replay_every=0)
    talk.enqueue(id="runs")
    talk.enqueue(id="waits")
    talk.enqueue(id="later", delay_ms=60_000)
    for n in range(5_000):
        edited(talk, n % 3, "waits", "later")

    state = talk.queue.state
    (line,) = state.shares.by_owner[None].lines.values()
    assert len(line.ready) < 2_000
    assert len(state.timers) < 2_000


def test_an_edit_keeps_all_else() -> None:
    """
    A failed job keeps its time and its attempts, a held one the reason why it is held.
    """
    talk = Conversation(workers=2)
    failed, held = talk.enqueue(), talk.enqueue(on_lost="hold")
    talk.exit(failed, 1)
    talk.exit(held, None)
    before = [talk.view(failed), talk.detail(held).why]

    edited(talk, 7, failed, held)

    after = talk.view(failed)
    assert (7, before[0].next_run_at, 1) == (after.priority, after.next_run_at, after.attempts)
    assert before[1] == talk.detail(held).why
    talk.restart()
    assert (7, "failed") == (talk.view(failed).priority, talk.state(failed))


def test_the_same_priority_is_no_change() -> None:
    """
    It may be repeated: the job is among those that have it now, and nothing is recorded.
    """
    talk = Conversation(workers=0)
    job = talk.enqueue(priority=3)
    assert [job] == edited(talk, 3, job).ids
    assert [] == talk.records
    assert [job] == edited(talk, 4, job).ids
    assert [JobMoved] == [type(record) for record in talk.records]


def test_filters_mean_the_jobs_that_have_not_started() -> None:
    """
    A filter passes over those that run or have finished; `more` goes on where it stopped.
    """
    talk = Conversation(workers=1)
    runs, waits, other = talk.enqueue(), talk.enqueue(), talk.enqueue(queue="other")
    answer = talk.request(Edit(select=Selection(all=True), priority=1))
    assert [waits, other] == answer.ids
    answer = talk.request(Edit(select=Selection(queue="other"), priority=2))
    assert [other] == answer.ids
    assert [0, 1, 2] == [talk.view(job).priority for job in (runs, waits, other)]


@pytest.mark.parametrize("priority", [PRIORITY_MAX + 1, -PRIORITY_MAX - 1])
def test_a_priority_beyond_the_limits_is_refused(priority: int) -> None:
    """
    With the limits in the message.
    """
    talk = Conversation()
    refused = talk.refused(Edit(select=Selection(ids=["1"]), priority=priority))
    rule = f"priority must be between -{PRIORITY_MAX} and {PRIORITY_MAX}"
    assert ("usage", "priority", rule) == (refused.code, refused.field, refused.message)


def test_a_member_edits_own_jobs_up_to_zero() -> None:
    """
    Before others' jobs only an admin puts a job; another account's does not exist.
    """
    talk = Conversation(workers=0)
    (job,) = talk.request(Enqueue(jobs=[JobSpec(command="true")]), ALICE).ids
    select = Selection(ids=[job])

    assert [job] == talk.request(Edit(select=select, priority=-5), ALICE).ids
    assert [job] == talk.request(Edit(select=select, priority=0), ALICE).ids
    refused = talk.request(Edit(select=select, priority=1), ALICE)
    assert isinstance(refused, Refused)
    assert ("denied", "priority") == (refused.code, refused.field)
    (error,) = talk.request(Edit(select=select, priority=-1), BOB).errors
    assert "not_found" == error.code
    assert [job] == talk.request(Edit(select=select, priority=9), ROOT).ids
    assert [job] == talk.request(Edit(select=select, priority=-1), ALICE).ids
