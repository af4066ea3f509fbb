"""
What runs when, and what becomes of it: order, retries, timeouts, starts that fail.
"""

import signal

import pytest
from conversation import START_AT, Conversation

from queuectld.core.effects import AckExit, StartRun
from queuectld.core.events import RunExited, RunSpawned
from queuectld.core.records import ATTEMPTS_MAX

# --- order --------------------------------------------------------------------------------------


def test_larger_priorities_run_sooner() -> None:
    """
    Of the pending jobs the one with the largest priority starts, however late it came.
    """
    talk = Conversation(workers=1)
    first = talk.enqueue()
    for priority in (-10, 0, 10, 1000, -1000):
        talk.enqueue(id=f"p{priority}", priority=priority)

    order = []
    talk.exit(first)
    while running := talk.processing():
        order += running
        talk.exit(running[0])

    assert ["p1000", "p10", "p0", "p-10", "p-1000"] == order


def test_equal_priorities_run_in_the_order_of_enqueueing() -> None:
    """
    Within a priority the line is first in, first out, also for a job that was held in between.
    """
    talk = Conversation(workers=1)
    ids = [talk.enqueue(priority=5) for _ in range(5)]
    talk.act("hold", ids[2])
    talk.act("release", ids[2])

    order = []
    while running := talk.processing():
        order += running
        talk.exit(running[0])

    assert ids == order


def test_as_many_jobs_run_as_there_are_workers() -> None:
    """
    Each worker runs one job at a time, and the lowest idle number takes the next.
    """
    talk = Conversation(workers=2)
    ids = [talk.enqueue() for _ in range(4)]
    assert ids[:2] == talk.processing()
    assert [1, 2] == [talk.view(each).worker for each in ids[:2]]

    talk.exit(ids[1])

    assert [ids[0], ids[2]] == talk.processing()
    assert 2 == talk.view(ids[2]).worker


def test_a_run_gets_what_was_asked_for() -> None:
    """
    A start has the shell's or the exact arguments, the environment of the request under that of the
    job, and the job's id, attempt, queue and worker as variables.
    """
    talk = Conversation(workers=3)
    talk.enqueue("a | b", id="shell", env={"X": "1"}, cwd="/srv", queue="q")
    (shell,) = (each for each in talk.effects if isinstance(each, StartRun))
    talk.enqueue(argv=["make", "-j2"], id="exact")
    (exact,) = (each for each in talk.effects if isinstance(each, StartRun))
    talk.enqueue(script="#!/bin/sh\nexit", argv=["one"], id="script")
    (script,) = (each for each in talk.effects if isinstance(each, StartRun))

    own = {"QUEUECTL_ATTEMPT": "1", "QUEUECTL_QUEUE": "default"}
    assert (
        StartRun(
            1,
            1,
            ["/bin/sh", "-c", "a | b"],
            {
                **own,
                "X": "1",
                "QUEUECTL_JOB_ID": "shell",
                "QUEUECTL_QUEUE": "q",
                "QUEUECTL_SLOT": "1",
            },
            "/srv",
            0o022,
        )
        == shell
    )
    assert (["make", "-j2"], "2", "exact") == (
        exact.argv,
        exact.env["QUEUECTL_SLOT"],
        exact.env["QUEUECTL_JOB_ID"],
    )
    assert (["one"], "#!/bin/sh\nexit") == (script.argv, script.script)


# --- retries ------------------------------------------------------------------------------------


def waits_of(talk: Conversation, job_id: str) -> list[int]:
    """
    Fail every attempt of a job and return the waits between them.
    """
    waits = []
    while True:
        talk.exit(job_id, 1)
        due_at = talk.view(job_id).next_run_at
        if due_at is None:
            return waits
        waits.append(due_at - talk.now)
        talk.advance(waits[-1] - 1)
        assert "failed" == talk.state(job_id)
        talk.advance(1)
        assert "processing" == talk.state(job_id)


def test_a_failing_job_waits_2_4_and_8_seconds_and_is_then_dead() -> None:
    """
    By default a job is tried again three times, after 2, 4 and 8 seconds; then it is a dead letter.
    """
    talk = Conversation()
    job = talk.enqueue()

    assert [2000, 4000, 8000] == waits_of(talk, job)
    view = talk.view(job)
    assert ("dead", 4, 1, "exit code 1") == (
        view.state,
        view.attempts,
        view.exit_code,
        view.last_error,
    )
    assert [1, 2, 3, 4] == [run.attempt for run in talk.runs(job)]


@pytest.mark.parametrize(
    ("base", "longest_ms", "expected"),
    [
        (3, 3_600_000, [3000, 9000, 27_000, 81_000]),
        (1, 3_600_000, [1000] * 4),
        (1.5, 3_600_000, [1500, 2250, 3375, 5062]),
        (2, 5000, [2000, 4000, 5000, 5000]),
        (1000, 1500, [1500] * 4),
        (2, 0, [1] * 4),
    ],
)
def test_backoff_follows_its_base_and_its_cap(
    base: float, longest_ms: int, expected: list[int]
) -> None:
    """
    The wait is base ** attempts seconds, at most backoff_max; never none at all.
    """
    talk = Conversation()
    talk.set("backoff_base", base)
    talk.set("backoff_max", longest_ms)

    assert expected == waits_of(talk, talk.enqueue(max_retries=4))


def test_jitter_makes_waits_longer_within_its_bounds() -> None:
    """
    Jitter adds at most its share, and differs between jobs; a replay does not roll again.
    """
    talk = Conversation(workers=50)
    talk.set("backoff_jitter", 0.5)
    ids = [talk.enqueue() for _ in range(50)]
    for job in ids:
        talk.exit(job, 1)

    waits = [(talk.view(job).next_run_at or 0) - talk.now for job in ids]
    assert all(2000 <= wait <= 3000 for wait in waits), waits
    assert len(set(waits)) > 25


def test_a_changed_max_retries_holds_for_the_next_failure() -> None:
    """
    A job that does not say follows the setting as it is when it fails.
    """
    talk = Conversation()
    own, following = talk.enqueue(max_retries=1), talk.enqueue()
    talk.set("max_retries", 0)

    talk.exit(own, 1)
    talk.exit(following, 1)

    assert ["failed", "dead"] == talk.states(own, following)


def test_a_job_without_retries_dies_of_its_first_failure() -> None:
    """
    max_retries 0 means one attempt.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=0)
    talk.exit(job, 3)
    assert ("dead", 1) == (talk.state(job), talk.view(job).attempts)


def test_a_dead_job_that_is_retried_gets_a_fresh_budget_and_keeps_its_history() -> None:
    """
    dlq retry starts at once, with all its retries and the first backoff; old attempts are shown.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=1)
    waits_of(talk, job)
    assert "dead" == talk.state(job)

    talk.act("retry", job)

    assert ("processing", 1, 3) == (
        talk.state(job),
        talk.view(job).attempts,
        talk.view(job).attempt,
    )
    assert [2000] == waits_of(talk, job)
    assert ["exited"] * 4 == [run.end for run in talk.runs(job)]
    assert ("dead", 2) == (talk.state(job), talk.view(job).attempts)


def test_a_failed_job_that_is_retried_starts_without_waiting() -> None:
    """
    Retrying a job that waits for its next attempt starts it now; its timer then finds nothing.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.exit(job, 1)

    talk.act("retry", job)
    assert "processing" == talk.state(job)
    talk.exit(job, 0)
    talk.advance(10_000)

    assert ("completed", 2) == (talk.state(job), talk.view(job).attempt)


def test_the_end_of_an_attempt_is_kept_with_its_usage() -> None:
    """
    Exit code and signal are two fields; cpu time and memory are kept per attempt.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=0)
    talk.handle(RunSpawned(1, 1, 4711))
    assert 4711 == talk.view(job).pid
    talk.now += 1500

    talk.handle(RunExited(1, 1, None, 9, user_ms=10, system_ms=20, memory_max_bytes=4096))

    assert [AckExit(1, 1)] == talk.effects
    (run,) = talk.runs(job)
    assert (START_AT, START_AT + 1500) == (run.started_at, run.ended_at)
    assert ("signalled", None, 9, 10, 20, 4096) == (
        run.end,
        run.exit_code,
        run.signal,
        run.user_ms,
        run.system_ms,
        run.memory_max_bytes,
    )
    assert "killed by signal 9 (SIGKILL)" == talk.view(job).last_error
    assert None is talk.view(job).pid


@pytest.mark.parametrize(
    ("code", "sig", "message"),
    [
        (1, None, "exit code 1"),
        (126, None, "exit code 126 (found but not executable)"),
        (127, None, "exit code 127 (command not found)"),
        (None, 15, "killed by signal 15 (SIGTERM)"),
        (None, 63, "killed by signal 63"),
        (None, None, "lost: nobody saw how it ended"),
    ],
)
def test_the_end_of_an_attempt_is_told_in_words(
    code: int | None, sig: int | None, message: str
) -> None:
    """
    last_error says how the last attempt ended.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.exit(job, code, sig)
    assert message == talk.view(job).last_error


# --- timeouts -----------------------------------------------------------------------------------


def test_a_timeout_is_term_then_kill_and_a_failed_attempt() -> None:
    """
    At the timeout the run gets SIGTERM, after the grace time SIGKILL; it ends as timeout and is
    tried again like any failure.
    """
    talk = Conversation()
    job = talk.enqueue(timeout_ms=5000, kill_after_ms=1000)
    assert [] == talk.advance(4999)
    talk.advance(1)
    assert [(1, signal.SIGTERM)] == talk.signals()
    assert "timeout" == talk.view(job).stopping
    talk.advance(999)
    assert [] == talk.signals()
    talk.advance(1)
    assert [(1, signal.SIGKILL)] == talk.signals()
    assert None is talk.queue.next_deadline()

    talk.exit(job, None, 9)

    (run,) = talk.runs(job)
    assert ("failed", "timeout", 9, "timed out after 6.0 s") == (
        talk.state(job),
        run.end,
        run.signal,
        run.error,
    )
    talk.advance(2000)
    assert "processing" == talk.state(job)


def test_an_exit_within_the_grace_time_is_still_a_timeout() -> None:
    """
    A job that ends at SIGTERM with exit code 0 has timed out all the same, and gets no SIGKILL.
    """
    talk = Conversation()
    job = talk.enqueue(timeout_ms=5000, max_retries=0)
    talk.advance(5000)

    talk.exit(job, 0)

    (run,) = talk.runs(job)
    assert ("dead", "timeout", 0) == (talk.state(job), run.end, run.exit_code)
    talk.advance(60_000)
    assert [] == talk.signals()


def test_jobs_without_a_timeout_follow_the_settings() -> None:
    """
    job_timeout and kill_after hold for jobs that do not say, from their next start on.
    """
    talk = Conversation()
    talk.set("job_timeout", 1000)
    talk.set("kill_after", 50)
    talk.enqueue()
    talk.enqueue(timeout_ms=3000)
    talk.advance(1000)
    assert [(1, signal.SIGTERM)] == talk.signals()
    talk.advance(50)
    assert [(1, signal.SIGKILL)] == talk.signals()
    talk.advance(1950)
    assert [(2, signal.SIGTERM)] == talk.signals()


def test_no_grace_time_means_sigkill_at_once() -> None:
    """
    kill_after 0 leaves out SIGTERM.
    """
    talk = Conversation()
    talk.enqueue(timeout_ms=1000, kill_after_ms=0)
    talk.advance(1000)
    assert {(1, int(signal.SIGKILL))} == set(talk.signals())


def test_a_timeout_holds_over_a_restart() -> None:
    """
    The deadline of a running attempt is absolute: a restart neither forgets nor extends it.
    """
    talk = Conversation()
    talk.enqueue(timeout_ms=5000, kill_after_ms=1000)
    talk.now += 3000
    talk.restart(snapshot=True)
    talk.advance(2000)
    assert [(1, signal.SIGTERM)] == talk.signals()
    talk.restart(snapshot=True)
    talk.advance(1000)
    assert [(1, signal.SIGKILL)] == talk.signals()


# --- starts that fail ---------------------------------------------------------------------------


def test_a_job_that_cannot_be_started_has_failed() -> None:
    """
    A refused start counts as an attempt, with the runner's reason.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=1)
    talk.refuse_start(job)
    assert ("failed", 1, "no luck") == (
        talk.state(job),
        talk.view(job).attempts,
        talk.view(job).last_error,
    )
    talk.advance(2000)
    talk.refuse_start(job)
    assert ("dead", "could_not_start") == (talk.state(job), talk.runs(job)[1].end)


def test_a_host_short_of_something_does_not_count_against_the_job() -> None:
    """
    A start that was refused for want of memory, processes or disk is made again after 5 seconds as
    often as it takes, and leaves the job all its retries.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=1)
    for _ in range(3):
        talk.refuse_start(job, passing=True)
        assert ("failed", 0) == (talk.state(job), talk.view(job).attempts)
        talk.advance(5000)
    assert ("processing", 4, 1) == (
        talk.state(job),
        talk.view(job).attempt,
        talk.view(job).attempts,
    )
    assert [2000] == waits_of(talk, job)
    assert "dead" == talk.state(job)


def test_a_job_that_may_not_run_is_dead_at_once() -> None:
    """
    A refusal that stays the same until somebody changes an account or the policy uses up no
    retries: the job is dead, says why, and a retry by hand makes the next attempt.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=3)
    talk.refuse_start(job, final=True)
    assert ("dead", 1, "no luck") == (
        talk.state(job),
        talk.view(job).attempts,
        talk.view(job).last_error,
    )
    assert ["could_not_start"] == [run.end for run in talk.runs(job)]
    talk.act("retry", job)
    assert ("processing", 2) == (talk.state(job), talk.view(job).attempt)


def test_a_cancelled_job_whose_start_is_refused_is_cancelled() -> None:
    """
    What the user asked for last is what the job becomes.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.act("cancel", job)
    talk.refuse_start(job, passing=True)
    assert "cancelled" == talk.state(job)
    job = talk.enqueue()
    talk.act("cancel", job)
    talk.refuse_start(job, final=True)
    assert "cancelled" == talk.state(job)


@pytest.mark.parametrize("passing", [False, True])
def test_attempts_end_before_their_number_outgrows_the_record(passing: bool) -> None:
    """
    The last attempt that a record can number is a job's last, whatever it may still retry.
    """
    talk = Conversation(replay_every=0)
    job = talk.enqueue(max_retries=1000)
    talk.job(job).runs[-1].attempt = ATTEMPTS_MAX
    talk.job(job).attempts_before = ATTEMPTS_MAX - 1

    talk.refuse_start(job, passing=passing)

    assert "dead" == talk.state(job)
    errors = talk.try_to("retry", job).errors
    assert [f"job 1 has made {ATTEMPTS_MAX} attempts, the most a job can; enqueue anew"] == [
        each.message for each in errors
    ]
