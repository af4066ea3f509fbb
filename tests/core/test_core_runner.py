"""
The core and the runner: what a reconnection finds, and what becomes of runs nobody saw the end of.
"""

import signal

import pytest
from conversation import Conversation

from queuectl.views import JobState, OnLost
from queuectld.core.effects import AckExit, StartRun
from queuectld.core.events import RunExited, RunSpawned


def starts(talk: Conversation) -> list[tuple[int, int]]:
    """
    Return the attempts that the last step started.
    """
    return [(e.number, e.attempt) for e in talk.effects if isinstance(e, StartRun)]


def test_nothing_starts_before_the_runner_said_what_it_knows() -> None:
    """
    Until the runner is ready jobs stay pending, and say why.
    """
    talk = Conversation(runner=False)
    job = talk.enqueue()
    assert ("pending", "the runner is not connected") == (talk.state(job), talk.detail(job).why)
    talk.runner_ready()
    assert [(1, 1)] == starts(talk)


def test_nothing_starts_while_the_runner_is_gone() -> None:
    """
    A lost connection stops starts; what runs goes on, without a known process id.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.handle(RunSpawned(1, 1, 4711))
    talk.runner_gone()
    other = talk.enqueue()
    assert ["processing", "pending"] == talk.states(job, other)
    assert None is talk.view(job).pid
    talk.runner_ready()
    assert ["processing", "processing"] == talk.states(job, other)


def test_a_run_that_the_runner_knows_goes_on() -> None:
    """
    A restart of the daemon does not touch it: no second start, no end.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.restart()
    assert ([], "processing") == (starts(talk), talk.state(job))
    talk.exit(job, 0)
    assert ("completed", 1) == (talk.state(job), talk.view(job).attempt)


def test_a_start_that_never_reached_the_runner_is_made_with_the_same_attempt() -> None:
    """
    When the runner remembers every start since before this one and does not know it, it never
    happened: the same attempt is started, once.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.restart(runner=False)

    talk.runner_ready(known=[], ledger_epoch=1)

    assert [(1, 1)] == starts(talk)
    assert [] == talk.records
    talk.exit(job, 0)
    assert [1] == [run.attempt for run in talk.runs(job)]


def test_a_start_that_never_left_is_made_whatever_the_runner_remembers() -> None:
    """
    No runner can know what was not sent to one: it is started, and what was sent is lost.
    """
    talk = Conversation(workers=2)
    jobs = [talk.enqueue(), talk.enqueue()]
    talk.runner_gone()

    talk.runner_ready(known=[], ledger_epoch=0, unsent=frozenset({(2, 1)}))

    assert [(2, 1)] == starts(talk)
    assert ["failed", "processing"] == [talk.state(job) for job in jobs]


@pytest.mark.parametrize("stop", ["cancel", "timeout"])
def test_a_start_that_never_happened_and_is_not_wanted_any_more_just_ends(stop: str) -> None:
    """
    A run that was to be stopped and never started is not started to be stopped.
    """
    talk = Conversation()
    job = talk.enqueue(timeout_ms=1000, max_retries=0)
    talk.restart(runner=False)
    if stop == "cancel":
        talk.act("cancel", job)
    else:
        talk.advance(1000)

    talk.runner_ready(known=[], ledger_epoch=1)

    assert [] == starts(talk)
    assert ("cancelled" if stop == "cancel" else "dead") == talk.state(job)


@pytest.mark.parametrize("ledger_epoch", [0, 2, 3])
def test_a_run_that_the_runner_forgot_is_lost(ledger_epoch: int) -> None:
    """
    A runner that promises nothing, or only starts since a later epoch, cannot tell: the run is
    lost, never success, and the attempt counts.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=1)
    talk.restart(runner=False)

    talk.runner_ready(known=[], ledger_epoch=ledger_epoch)

    (run,) = talk.runs(job)
    assert ("failed", 1, "lost", None, None) == (
        talk.state(job),
        talk.view(job).attempts,
        run.end,
        run.exit_code,
        run.signal,
    )


@pytest.mark.parametrize(
    ("policy", "retries", "state", "error"),
    [
        ("retry", 1, "failed", "the last attempt failed: lost: nobody saw how it ended"),
        ("retry", 0, "dead", "given up after 1 attempt: lost: nobody saw how it ended"),
        ("dead", 3, "dead", "given up after 1 attempt: lost: nobody saw how it ended"),
        ("hold", 0, "held", "held (lost: nobody saw how it ended)"),
    ],
)
@pytest.mark.parametrize("by_setting", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_lost_jobs_follow_their_policy(
    policy: OnLost, retries: int, state: JobState, error: str, by_setting: bool, told: bool
) -> None:
    """
    on_lost of the job, else the setting, says what becomes of a lost run, whether the runner forgot
    it or reports an end that nobody saw.
    """
    talk = Conversation()
    if by_setting:
        talk.set("on_lost", policy)
    job = talk.enqueue(max_retries=retries, on_lost=None if by_setting else policy)
    if told:
        talk.exit(job, None)
    else:
        talk.runner_ready(known=[])
    assert (state, error) == (talk.state(job), talk.detail(job).why)
    assert policy == talk.view(job).on_lost


def test_a_job_that_kills_its_host_ends_in_the_dead_letters() -> None:
    """
    Lost attempts count: after max_retries + 1 of them the job is dead.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=2)
    for _ in range(3):
        assert "processing" == talk.state(job)
        talk.restart(known=[])
        talk.advance(10_000)
    assert ("dead", 3) == (talk.state(job), talk.view(job).attempts)


def test_a_lost_run_that_was_timing_out_is_lost() -> None:
    """
    Nobody knows that it stopped, so the policy for lost runs decides.
    """
    talk = Conversation()
    job = talk.enqueue(timeout_ms=1000, on_lost="hold")
    talk.advance(1000)
    talk.restart(known=[])
    assert ("held", "lost") == (talk.state(job), talk.runs(job)[0].end)


def test_a_lost_run_that_was_cancelled_is_cancelled() -> None:
    """
    The job is not to run again, whatever became of this run.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.act("cancel", job)
    talk.restart(known=[])
    assert ("cancelled", "cancelled") == (talk.state(job), talk.runs(job)[0].end)


def test_a_stop_request_is_sent_again_to_a_runner_that_came_back() -> None:
    """
    SIGTERM within the grace time, SIGKILL after it: the first may have got lost on the way.
    """
    talk = Conversation()
    talk.enqueue(kill_after_ms=5000)
    talk.act("cancel", "1")
    talk.restart()
    assert [(1, signal.SIGTERM)] == talk.signals()
    talk.runner_gone()
    talk.advance(5000)
    talk.runner_ready()
    assert [(1, signal.SIGKILL)] == talk.signals()


def test_an_exit_that_comes_after_its_run_was_lost_changes_nothing() -> None:
    """
    The end that was recorded first stands.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=0)
    talk.restart(known=[])
    talk.handle(RunExited(1, 1, exit_code=0))
    assert ("dead", []) == (talk.state(job), talk.records)


def test_a_slot_is_free_again_after_any_end() -> None:
    """
    Exits, refusals, losses and cancellations all give the worker back.
    """
    talk = Conversation(workers=1)
    for _ in range(5):
        talk.enqueue(max_retries=0)
    talk.exit("1", 0)
    talk.refuse_start("2")
    talk.restart(known=[])
    talk.act("cancel", "4")
    talk.exit("4", None, 15)
    assert ["5"] == talk.processing()
    assert [(1, "busy")] == talk.slots()


# --- news that come twice, late, or never -------------------------------------------------------


def test_an_exit_that_is_told_again_changes_nothing_and_is_acknowledged() -> None:
    """
    The runner repeats an exit until it is acknowledged: the second is answered, not recorded.
    """
    talk = Conversation()
    talk.enqueue()
    talk.exit("1", 1)
    for attempt in (1, 2):
        talk.handle(RunExited(1, attempt, exit_code=0))
        assert ([], [AckExit(1, attempt)]) == (talk.records, talk.effects)
    talk.handle(RunExited(99, 1, exit_code=0))
    assert ([], [AckExit(99, 1)]) == (talk.records, talk.effects)
    assert "failed" == talk.state("1")


def test_news_of_an_earlier_attempt_do_not_touch_the_running_one() -> None:
    """
    An exit, a process id or a refusal of attempt 1 says nothing about attempt 2.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.exit(job, 1)
    talk.advance(2000)
    talk.handle(RunExited(1, 1, exit_code=0))
    talk.handle(RunSpawned(1, 1, 4711))
    assert ("processing", None) == (talk.state(job), talk.view(job).pid)
