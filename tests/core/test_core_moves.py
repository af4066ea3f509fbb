"""
The table of moves between states: all of it is used, and nothing else happens.
"""

from collections.abc import Callable

import pytest
from conversation import START_AT, Conversation
from test_core_actions import job_in

from queuectl.editing import Edit
from queuectl.protocol import Selection
from queuectl.views import JOB_STATES, JobState
from queuectld.core.job import TRANSITIONS
from queuectld.core.records import JobMoved, Record, RunEnded, RunStarted

Step = Callable[[Conversation, str], object]


def lose(talk: Conversation, job: str) -> None:
    talk.exit(job, None)


def step_clock(talk: Conversation, job: str) -> None:
    talk.act("cancel", job)
    job = talk.enqueue(run_at=START_AT + 9000, hold=job == "held")
    talk.step_clock(1000)


def give_priority(talk: Conversation, job: str) -> None:
    talk.request(Edit(select=Selection(ids=[job]), priority=5))


# One way to make each move of the table.
WAYS: dict[tuple[JobState, JobState], Step] = {
    ("scheduled", "scheduled"): step_clock,
    ("scheduled", "pending"): lambda talk, job: talk.advance(60_000),
    ("scheduled", "held"): lambda talk, job: talk.act("hold", job),
    ("scheduled", "cancelled"): lambda talk, job: talk.act("cancel", job),
    ("held", "scheduled"): lambda talk, job: talk.act("release", job),
    ("held", "pending"): lambda talk, job: (talk.advance(60_000), talk.act("release", job)),
    ("held", "held"): step_clock,
    ("held", "cancelled"): lambda talk, job: talk.act("cancel", job),
    ("pending", "pending"): lambda talk, job: give_priority(talk, job),
    ("pending", "held"): lambda talk, job: talk.act("hold", job),
    ("pending", "processing"): lambda talk, job: talk.set_queue("paused", paused=False),
    ("pending", "cancelled"): lambda talk, job: talk.act("cancel", job),
    ("processing", "completed"): lambda talk, job: talk.exit(job, 0),
    ("processing", "failed"): lambda talk, job: talk.exit(job, 1),
    ("processing", "dead"): lambda talk, job: (talk.set("max_retries", 0), lose(talk, "default")),
    ("processing", "held"): lambda talk, job: (talk.set("on_lost", "hold"), lose(talk, "default")),
    ("processing", "cancelled"): lambda talk, job: (talk.act("cancel", job), lose(talk, job)),
    ("failed", "pending"): lambda talk, job: talk.advance(2000),
    ("failed", "failed"): lambda talk, job: give_priority(talk, job),
    ("failed", "held"): lambda talk, job: talk.act("hold", job),
    ("failed", "cancelled"): lambda talk, job: talk.act("cancel", job),
    ("dead", "pending"): lambda talk, job: talk.act("retry", job),
    ("cancelled", "pending"): lambda talk, job: talk.act("retry", job),
}


def target(record: Record) -> JobState | None:
    """
    Return the state that a record moves its job to.
    """
    if isinstance(record, RunStarted):
        return "processing"
    return record.state if isinstance(record, JobMoved | RunEnded) else None


@pytest.mark.parametrize(("before", "after"), WAYS, ids=lambda state: state)
def test_every_move_of_the_table_can_be_made(
    monkeypatch: pytest.MonkeyPatch, before: JobState, after: JobState
) -> None:
    """
    Each move is made by something that people or runs do, through a record that says it.
    """
    talk = Conversation(workers=3)
    job = job_in(talk, before)
    if before == "processing":
        talk.enqueue(id="default")  # Follows the settings.
    moves: list[tuple[JobState, JobState | None]] = []
    apply = talk.queue.state.apply

    def watch(record: Record, body: bytes) -> None:
        if (to := target(record)) is not None:
            number = record.number  # type: ignore[attr-defined]
            moves.append((talk.queue.state.jobs[number].state, to))
        apply(record, body)

    monkeypatch.setattr(talk.queue.state, "apply", watch)
    WAYS[before, after](talk, job)

    assert (before, after) in moves


def test_the_table_has_the_moves_that_are_made_and_no_others() -> None:
    """
    A move that nothing makes would be a hole in the table.
    """
    assert set(WAYS) == {(state, to) for state, targets in TRANSITIONS.items() for to in targets}


@pytest.mark.parametrize("before", JOB_STATES)
@pytest.mark.parametrize("after", JOB_STATES)
def test_a_move_that_the_table_does_not_have_is_a_bug(before: JobState, after: JobState) -> None:
    """
    It asserts, with the job's story, before anything has changed.
    """
    if after in TRANSITIONS[before]:
        return
    talk = Conversation()
    job = talk.job(job_in(talk, before))
    talk.check_replay()

    with pytest.raises(AssertionError, match=f"{job.number}, '{before}', '{after}'"):
        talk.queue.record(JobMoved(job.number, talk.now, after, 0, 0, 0))

    assert before == job.state
    talk.queue.validate()
    talk.check_replay()


@pytest.mark.parametrize("state", [state for state in JOB_STATES if state != "processing"])
def test_only_a_running_job_is_stopped(state: JobState) -> None:
    """
    A stop request for a job that does not run is a bug too.
    """
    talk = Conversation()
    job = talk.job(job_in(talk, state))
    with pytest.raises(AssertionError):
        talk.queue.stop(job, "cancelled", talk.now)
    talk.check_replay()
