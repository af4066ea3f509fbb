"""
What people see: every job can say why it is in its state, and what happens next.
"""

import pytest
from conversation import START_AT, Conversation
from test_core_actions import job_in

from queuectl.environment import pack_variables
from queuectl.protocol import DETAIL_RUNS_MAX, Enqueue, JobSpec
from queuectl.views import JobState

DOES_START = "starts as soon as nothing of this holds it back"
WORDS: dict[JobState, tuple[str, str]] = {
    "scheduled": ("waits for its time", "becomes pending at its next run time"),
    "held": ("held (by hand)", "waits for: queuectl release held"),
    "pending": ("queue paused is paused", DOES_START),
    "processing": ("attempt 1 runs", "ends as completed with exit code 0"),
    "failed": ("the last attempt failed: exit code 1", "tries again, 3 attempts left"),
    "completed": ("ended with exit code 0", "nothing"),
    "dead": (
        "given up after 1 attempt: exit code 1",
        "stays in the dead letter queue until: queuectl dlq retry dead",
    ),
    "cancelled": ("cancelled", "nothing, unless: queuectl retry cancelled"),
}


@pytest.mark.parametrize("state", WORDS)
def test_a_job_says_why_it_is_in_its_state_and_what_happens_next(state: JobState) -> None:
    """
    In words, with the command that would change it.
    """
    talk = Conversation()
    detail = talk.detail(job_in(talk, state))
    assert WORDS[state] == (detail.why, detail.next)


def test_a_job_that_is_being_stopped_says_so() -> None:
    """
    Who asked, and what comes after the grace time.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.act("cancel", job)
    detail = talk.detail(job)
    assert "being ended (cancelled): SIGTERM was sent" == detail.why
    assert "SIGKILL after the grace time" == detail.next


def test_a_pending_job_says_that_the_workers_are_busy() -> None:
    """
    The last of the reasons why a job waits; the others have conversations of their own.
    """
    talk = Conversation(workers=2)
    for _ in range(3):
        talk.enqueue()
    assert "all 2 workers are busy with jobs that came first or have a higher priority" == (
        talk.detail("3").why
    )


def test_a_job_shows_what_was_asked_for() -> None:
    """
    Commands as one would type them, the environment in force, the script, the limits.
    """
    talk = Conversation()
    specs = [
        JobSpec(command="a | b", id="shell", timeout_ms=5, kill_after_ms=6, env={"B": "2"}),
        JobSpec(argv=["echo", "it's"], id="exact"),
        JobSpec(script="text", script_name="run.sh", argv=["a b"], id="script"),
        JobSpec(script="text", id="nameless"),
    ]
    talk.request(
        Enqueue(jobs=specs, env=pack_variables({"A": "1", "B": "1"}), cwd="/srv", umask=0o7027)
    )
    assert ["a | b", "echo 'it'\"'\"'s'", "run.sh 'a b'", "script"] == [
        talk.view(str(spec.id)).command for spec in specs
    ]
    detail = talk.detail("shell")
    assert ({"A": "1", "B": "2"}, 0o027, None) == (detail.env, detail.umask, detail.script)
    assert ("/srv", 5, 6) == (detail.job.cwd, detail.job.timeout_ms, detail.job.kill_after_ms)
    assert "text" == talk.detail("script").script


def test_a_job_that_follows_the_settings_shows_them() -> None:
    """
    What it did not say is shown as it is in force.
    """
    talk = Conversation()
    job = talk.enqueue()
    for key, value in (("max_retries", 7), ("job_timeout", 8), ("kill_after", 9)):
        talk.set(key, value)
    talk.set("on_lost", "hold")
    view = talk.view(job)
    assert (7, 8, 9, "hold") == (
        view.max_retries,
        view.timeout_ms,
        view.kill_after_ms,
        view.on_lost,
    )


def test_times_of_a_job_are_those_of_its_last_attempt() -> None:
    """
    Made, started, finished and changed; and the last error while the next attempt runs.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.now += 10
    talk.exit(job, 1)
    view = talk.view(job)
    assert (START_AT, START_AT, START_AT + 10, START_AT + 10) == (
        view.created_at,
        view.started_at,
        view.finished_at,
        view.updated_at,
    )
    talk.advance(2000)
    view = talk.view(job)
    assert (START_AT + 2010, None, None, "exit code 1") == (
        view.started_at,
        view.finished_at,
        view.exit_code,
        view.last_error,
    )


def test_of_many_attempts_the_last_are_shown() -> None:
    """
    Whoever retries a job again and again can still look at it, and holds up nobody by looking.
    """
    talk = Conversation(replay_every=0)
    job_id = talk.enqueue("x", max_retries=0)
    for _ in range(DETAIL_RUNS_MAX + 5):
        talk.exit(job_id, 1)
        talk.act("retry", job_id)
    shown = [run.attempt for run in talk.detail(job_id).runs]
    assert list(range(7, DETAIL_RUNS_MAX + 7)) == shown
