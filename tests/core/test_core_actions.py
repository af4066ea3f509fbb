"""
What people do to jobs: cancel, retry, hold, release, purge, prune, one by one and many at once.
"""

import signal

import pytest
from conversation import Conversation

from queuectl.editing import Edit
from queuectl.environment import pack_variables
from queuectl.protocol import SELECT_JOBS_MAX, Act, Enqueue, JobSpec, Selection
from queuectl.views import JOB_STATES, JobState
from queuectld.core import selection
from queuectld.core.actions import ALLOWED
from queuectld.core.effects import DeleteOutput


def job_in(talk: Conversation, state: JobState) -> str:
    """
    Bring a new job into a state and return its id. There must be an idle worker.
    """
    if state in ("scheduled", "held"):
        return talk.enqueue(id=state, delay_ms=60_000, hold=state == "held")
    if state == "pending":
        talk.set_queue("paused", concurrency=0, paused=True)
        return talk.enqueue(id=state, queue="paused")
    job = talk.enqueue(id=state, max_retries=0 if state == "dead" else 3)
    if state in ("failed", "dead"):
        talk.exit(job, 1)
    elif state == "completed":
        talk.exit(job, 0)
    elif state == "cancelled":
        talk.act("cancel", job)
        talk.exit(job, None, 15)
    assert state == talk.state(job)
    return job


# Where each verb leads from each state in which it works. A job that may start starts at once.
OUTCOMES: dict[str, dict[JobState, str]] = {
    "cancel": {
        "scheduled": "cancelled",
        "held": "cancelled",
        "pending": "cancelled",
        "processing": "processing",
        "failed": "cancelled",
    },
    "retry": {"failed": "processing", "dead": "processing", "cancelled": "processing"},
    "hold": {"scheduled": "held", "pending": "held", "failed": "held"},
    "release": {"held": "scheduled"},
    "edit": {
        "scheduled": "scheduled",
        "held": "held",
        "pending": "pending",
        "failed": "failed",
    },
    "purge": {"dead": "gone"},
    "prune": {"completed": "gone", "dead": "gone", "cancelled": "gone"},
}


@pytest.mark.parametrize("verb", OUTCOMES)
@pytest.mark.parametrize("state", JOB_STATES)
def test_each_verb_works_from_its_states_and_says_so_in_the_others(
    verb: str, state: JobState
) -> None:
    """
    A verb on a named job does its work or is refused with the states in which it works.
    """
    talk = Conversation(workers=1)
    job = job_in(talk, state)

    select = Selection(ids=[job])
    ask = Edit(select=select, priority=5) if verb == "edit" else Act(action=verb, select=select)
    acted = talk.request(ask)

    after = OUTCOMES[verb].get(state)
    if after is None:
        (error,) = acted.errors
        allowed = ", ".join(each for each in JOB_STATES if each in OUTCOMES[verb])
        rule = f"job {job} is {state}; {verb} works on jobs that are {allowed}"
        assert ([], "conflict", job) == (acted.ids, error.code, error.id)
        assert error.message.startswith(rule)
        assert state == talk.state(job)
    else:
        assert ([job], []) == (acted.ids, acted.errors)
        assert after == (talk.state(job) if talk.queue.state.find(job) else "gone")


def test_the_table_of_verbs_is_the_one_that_is_tested() -> None:
    """
    No verb works from a state that the table above does not have.
    """
    assert {verb: frozenset(states) for verb, states in OUTCOMES.items()} == ALLOWED


# --- cancel -------------------------------------------------------------------------------------


def test_cancelling_a_running_job_is_term_grace_kill() -> None:
    """
    A running job gets SIGTERM, after its grace time SIGKILL, and ends as cancelled; no retry.
    """
    talk = Conversation()
    job = talk.enqueue(kill_after_ms=3000)
    talk.act("cancel", job)
    assert [(1, signal.SIGTERM)] == talk.signals()
    assert ("processing", "cancelled") == (talk.state(job), talk.view(job).stopping)
    talk.advance(3000)
    assert [(1, signal.SIGKILL)] == talk.signals()

    talk.exit(job, None, 9)

    assert ("cancelled", "cancelled") == (talk.state(job), talk.runs(job)[0].end)
    assert [] == talk.advance(100_000)


def test_cancelling_twice_is_a_conflict() -> None:
    """
    A second cancel neither sends a second SIGTERM nor extends the grace time.
    """
    talk = Conversation()
    job = talk.enqueue()
    talk.act("cancel", job)
    (error,) = talk.try_to("cancel", job).errors
    assert ("conflict", "job 1 is being cancelled already") == (error.code, error.message)
    assert ([], []) == (talk.signals(), talk.records)


def test_cancelling_a_job_that_is_timing_out_gives_it_no_more_time() -> None:
    """
    The earlier SIGKILL stands, and the job is cancelled, not tried again.
    """
    talk = Conversation()
    job = talk.enqueue(timeout_ms=1000, kill_after_ms=10_000)
    talk.advance(1000)
    talk.advance(9000)
    talk.act("cancel", job)
    assert [(1, signal.SIGTERM)] == talk.signals()
    talk.advance(1000)
    assert [(1, signal.SIGKILL)] == talk.signals()
    talk.exit(job, None, 9)
    assert "cancelled" == talk.state(job)


def test_a_cancelled_job_does_not_run_when_its_time_comes() -> None:
    """
    Timers and lines forget what was cancelled.
    """
    talk = Conversation(workers=1)
    running = talk.enqueue()
    waiting = [talk.enqueue(), talk.enqueue(delay_ms=1000), talk.enqueue(hold=True)]
    talk.act("cancel", *waiting)
    talk.exit(running)
    talk.advance(5000)
    assert [] == talk.processing()
    assert ["cancelled"] * 3 == talk.states(*waiting)


# --- hold and release ---------------------------------------------------------------------------


def test_a_held_job_does_not_run_until_it_is_released() -> None:
    """
    Hold keeps a job from starting for as long as it takes.
    """
    talk = Conversation()
    job = talk.enqueue(hold=True)
    talk.advance(10_000_000)
    assert ("held", "held (by hand)") == (talk.state(job), talk.detail(job).why)
    talk.act("release", job)
    assert "processing" == talk.state(job)


@pytest.mark.parametrize("at_enqueue", [False, True])
def test_a_held_job_keeps_its_time_but_does_not_start_at_it(at_enqueue: bool) -> None:
    """
    The time of a held job passes without effect. Released before it, the job waits for it again;
    released later, it starts.
    """
    talk = Conversation()
    early, late = (talk.enqueue(delay_ms=5000, hold=at_enqueue) for _ in range(2))
    if not at_enqueue:
        talk.act("hold", early, late)
    assert None is talk.queue.next_deadline()
    talk.advance(4000)
    talk.act("release", early)
    assert "scheduled" == talk.state(early)
    talk.advance(2000)
    assert ["processing", "held"] == talk.states(early, late)
    talk.act("release", late)
    assert "processing" == talk.state(late)


def test_holding_a_failed_job_keeps_its_attempts_and_its_backoff() -> None:
    """
    Released before its backoff is over, a failed job still waits for the rest of it.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=1, run_at=talk.now - 1000)
    talk.exit(job, 1)
    talk.act("hold", job)
    talk.advance(1000)
    talk.act("release", job)
    talk.restart(snapshot=True)
    assert ("scheduled", talk.now + 1000) == (talk.state(job), talk.view(job).next_run_at)
    talk.advance(1000)
    assert "processing" == talk.state(job)
    talk.exit(job, 1)
    assert "dead" == talk.state(job)


# --- forget -------------------------------------------------------------------------------------


def test_pruning_forgets_jobs_with_their_output_and_environment() -> None:
    """
    A pruned job is gone from every list; its output goes when that is on disk, and its environment
    goes with the last job that has it.
    """
    talk = Conversation()
    for name in ("a", "b"):
        talk.request(Enqueue(jobs=[JobSpec(command="x", id=name)], env=pack_variables({"A": "1"})))
        talk.exit(name)
    talk.act("prune", "a")
    assert [DeleteOutput(1, [1])] == [e for e in talk.effects if isinstance(e, DeleteOutput)]
    assert {"A": "1"} == talk.queue.state.env(1)
    talk.act("prune", "b")
    assert {} == talk.queue.state.environments
    assert [] == list(talk.queue.state.newest_first())


def test_pruning_without_a_state_leaves_the_dead() -> None:
    """
    Dead letters leave the history only when they are named, by id or by state.
    """
    talk = Conversation()
    dead, done = job_in(talk, "dead"), job_in(talk, "completed")
    assert [done] == talk.act("prune", all=True).ids
    assert [dead] == talk.act("prune", states=["dead"]).ids


def test_pruning_by_age_counts_from_the_end_of_a_job() -> None:
    """
    older_than spares what finished since.
    """
    talk = Conversation()
    old = job_in(talk, "completed")
    talk.advance(5000)
    young = job_in(talk, "cancelled")
    assert [old] == talk.act("prune", all=True, older_than_ms=5000).ids
    assert "cancelled" == talk.state(young)


def test_retrying_all_means_the_dead_letters() -> None:
    """
    retry --all starts dead jobs, not cancelled or waiting ones; those must be named by state.
    """
    talk = Conversation(workers=9)
    for state in ("dead", "cancelled", "failed"):
        job_in(talk, state)  # type: ignore[arg-type]
    assert ["dead"] == talk.act("retry", all=True).ids
    assert ["cancelled", "failed"] == talk.act("retry", states=["cancelled", "failed"]).ids


# --- selections ---------------------------------------------------------------------------------


def test_a_selection_is_ids_or_filters() -> None:
    """
    Neither, or both, means nothing and is refused.
    """
    talk = Conversation()
    talk.enqueue()
    for select in (Selection(), Selection(ids=["1"], all=True), Selection(ids=["1"], queue="q")):
        refused = talk.refused(Act(action="cancel", select=select))
        assert ("usage", "select") == (refused.code, refused.field)
        assert "cancel needs either job ids or --all, --state or --queue" == refused.message


def test_ids_may_be_ranges_and_last() -> None:
    """
    A range names those of its numbers that exist, `last` the newest; each job counts once, in the
    order named; what names nothing is an error of its own and the others are still done.
    """
    talk = Conversation(workers=0)
    for name in ("a", None, "c", None, None):
        talk.enqueue(id=name)
    talk.act("cancel", "4")
    talk.act("prune", "4")

    acted = talk.try_to("hold", "last", "2-4", "a", "2", "nobody", "7-9", "3-1", "4")

    assert ["5", "2", "c", "a"] == acted.ids
    assert [("not_found", f"no job {each!r}", each) for each in ("nobody", "7-9", "3-1", "4")] == [
        (error.code, error.message, error.id) for error in acted.errors
    ]


def test_filters_mean_only_the_jobs_that_can_take_it() -> None:
    """
    With filters, jobs in other states or queues are left alone without a word.
    """
    talk = Conversation(workers=1)
    talk.enqueue(id="run")
    talk.enqueue(id="a", queue="x")
    talk.enqueue(id="b", queue="y")
    talk.enqueue(id="c", queue="x", delay_ms=1000)
    assert ["a", "c"] == talk.act("hold", queue="x").ids
    assert ["b"] == talk.act("hold", all=True).ids
    assert ["c"] == talk.act("release", states=["held", "dead"], queue="x", after=2).ids
    assert [] == talk.act("release", states=["completed"]).ids
    assert ["run", "a", "b", "c"] == talk.act("cancel", all=True).ids


@pytest.mark.parametrize("state", ["pending", "held"])
def test_many_jobs_are_changed_in_bounded_pieces(
    monkeypatch: pytest.MonkeyPatch, state: JobState
) -> None:
    """
    One request looks at a bounded number of jobs and says `more` with the number to go on after;
    following it reaches every job once.
    """
    monkeypatch.setattr(selection, "SCAN_JOBS_MAX", 7)
    monkeypatch.setattr(selection, "INDEX_JOBS_MAX", 5)
    talk = Conversation(workers=0, replay_every=10)
    ids = [talk.enqueue(hold=state == "held", queue="q" if n % 3 else None) for n in range(30)]
    wanted = [job for n, job in enumerate(ids) if n % 3]

    found: list[str] = []
    requests, after = 0, 0
    while True:
        acted = talk.act("cancel", queue="q", states=[state], after=after)
        found += acted.ids
        requests += 1
        if acted.more is None:
            break
        assert acted.more > after
        after = acted.more

    assert wanted == found
    assert requests > 1


def test_a_request_names_a_bounded_number_of_jobs() -> None:
    """
    Ids and ranges beyond the limit are refused before anything is done.
    """
    talk = Conversation(workers=0, replay_every=0)
    specs = [JobSpec(command="x")] * 6000
    for _ in range(2):
        talk.request(Enqueue(jobs=specs))
    for ids in (["1-12000"], ["1-6000", "1-6000"], ["1"] * (SELECT_JOBS_MAX + 1)):
        refused = talk.refused(Act(action="cancel", select=Selection(ids=ids)))
        assert ("usage", "ids") == (refused.code, refused.field)
    assert SELECT_JOBS_MAX == len(talk.act("cancel", f"1-{SELECT_JOBS_MAX}").ids)
