"""
Time and history: clocks that are set, many jobs due at once, retention, lists, logs and waits.
"""

import pytest
from conversation import START_AT, Conversation, replayed

from queuectl.protocol import (
    LIST_JOBS_MAX,
    Done,
    Enqueue,
    Jobs,
    JobSpec,
    List,
    LogEnd,
    Logs,
    Show,
    Shutdown,
    Wait,
    Waited,
)
from queuectl.views import JobState
from queuectld.core import queue as core_queue
from queuectld.core import selection
from queuectld.core.effects import AwaitJobs, StopDaemon, StreamLogs
from queuectld.core.events import TimerFired

HOUR_MS = 3_600_000

# --- the wall clock -----------------------------------------------------------------------------


def test_only_jobs_asked_for_by_wall_clock_follow_it() -> None:
    """
    A step of the wall clock moves run_at jobs, held ones too, and no delay, backoff or timeout.
    """
    talk = Conversation(workers=3)
    at_time = talk.enqueue(run_at=START_AT + 2 * HOUR_MS)
    held = talk.enqueue(run_at=START_AT + 2 * HOUR_MS, hold=True)
    delayed = talk.enqueue(delay_ms=2 * HOUR_MS)
    failed = talk.enqueue(run_at=START_AT - 1)
    talk.exit(failed, 1)
    talk.enqueue(timeout_ms=2 * HOUR_MS)

    talk.step_clock(HOUR_MS)

    assert [START_AT + HOUR_MS, START_AT + HOUR_MS, START_AT + 2 * HOUR_MS, START_AT + 2000] == [
        talk.view(job).next_run_at for job in (at_time, held, delayed, failed)
    ]
    assert [1, 2] == [record.number for record in talk.records]  # type: ignore[attr-defined]
    talk.advance(HOUR_MS)
    assert ["processing", "held", "scheduled"] == talk.states(at_time, held, delayed)
    assert [] == talk.signals()


def test_a_step_beyond_the_time_of_a_job_makes_it_due() -> None:
    """
    A wall clock set to after run_at starts the job at once; set back, it waits longer.
    """
    talk = Conversation()
    job = talk.enqueue(run_at=START_AT + HOUR_MS)
    talk.step_clock(-HOUR_MS)
    talk.advance(2 * HOUR_MS - 1)
    assert "scheduled" == talk.state(job)
    talk.step_clock(HOUR_MS)
    talk.advance(0)
    assert "processing" == talk.state(job)


def test_new_jobs_know_the_wall_clock() -> None:
    """
    A job that is enqueued after the step waits for the wall clock's time, not the queue's.
    """
    talk = Conversation()
    talk.step_clock(HOUR_MS)
    assert "processing" == talk.state(talk.enqueue(run_at=START_AT + HOUR_MS))
    assert START_AT + 5 == talk.view(talk.enqueue(run_at=START_AT + HOUR_MS + 5)).next_run_at


def test_a_hold_keeps_its_reason_through_a_step_of_the_clock() -> None:
    """
    Only the time of a held job changes.
    """
    talk = Conversation()
    job = talk.enqueue(run_at=START_AT + HOUR_MS)
    talk.act("hold", job)
    talk.step_clock(1000)
    assert ("held", "held (by hand)") == (talk.state(job), talk.detail(job).why)


def test_many_jobs_follow_the_clock_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A turn records a bounded number of moves; until all jobs followed no timer fires, so none fires
    by the old time.
    """
    monkeypatch.setattr(core_queue, "FOLLOW_JOBS_MAX", 10)
    talk = Conversation(workers=100)
    ids = [talk.enqueue(run_at=START_AT + 1000 + n) for n in range(35)]
    talk.now += 2000
    talk.step_clock(-HOUR_MS)
    assert 10 == len(talk.records)
    assert 0 == talk.queue.next_deadline()
    talk.advance(0)
    assert ["scheduled"] * 35 == talk.states(*ids)
    talk.step_clock(0)
    talk.advance(0)
    assert ["processing"] * 35 == talk.states(*ids)


# --- timers -------------------------------------------------------------------------------------


def test_many_jobs_due_at_once_are_handled_in_slices() -> None:
    """
    5,000 jobs due at once take several turns, each of bounded work and each at once after the
    other, and none is forgotten.
    """
    talk = Conversation(workers=0, replay_every=0)
    talk.request(Enqueue(jobs=[JobSpec(command="x", delay_ms=1000)] * 5000))
    talk.now += 1000
    turns = 0
    while (talk.queue.next_deadline() or talk.now + 1) <= talk.now:
        talk.handle(TimerFired())
        assert len(talk.records) == core_queue.DUE_JOBS_MAX
        turns += 1
    assert 5 == turns
    assert 5000 == talk.queue.state.counts["pending"]
    talk.check_replay()


def test_a_timer_that_fires_early_does_nothing() -> None:
    """
    The runtime may call too early, and nothing comes of it.
    """
    talk = Conversation()
    talk.enqueue(delay_ms=1000)
    talk.now += 999
    talk.handle(TimerFired())
    assert ([], []) == (talk.records, talk.effects)
    assert START_AT + 1000 == talk.queue.next_deadline()


def test_time_does_not_run_backwards_over_a_restart() -> None:
    """
    The latest time of any record is known after a replay, whatever kind of record it was.
    """
    talk = Conversation(workers=1)
    job = talk.enqueue(timeout_ms=1000)

    def time_out() -> None:
        talk.handle(TimerFired())

    for step in (
        lambda: talk.enqueue(hold=True),
        time_out,
        lambda: talk.exit(job, 1),
        lambda: talk.set("workers", 3),
        lambda: talk.act("hold", job),
        lambda: talk.restart(runner=False),
    ):
        talk.now += 1000
        step()
        assert talk.records
        assert talk.now == replayed(talk.stored).state.latest_at


# --- retention ----------------------------------------------------------------------------------


def finish(talk: Conversation, count: int, **fields: int) -> list[str]:
    """
    Run jobs to their end, one ms after the other.
    """
    ids = []
    for _ in range(count):
        ids.append(talk.enqueue(**fields))
        talk.exit(ids[-1])
        talk.advance(1)
    return ids


def left(talk: Conversation) -> list[str]:
    """
    Return the ids of all jobs.
    """
    state = talk.queue.state
    return [state.spec(job).id for job in state.oldest_first(0)]


def test_finished_jobs_are_forgotten_when_they_are_too_old() -> None:
    """
    retention counts from the end of each job, to the millisecond.
    """
    talk = Conversation()
    talk.set("retention", 10_000)
    finish(talk, 2)
    talk.advance(10_000 - 3)
    assert ["1", "2"] == left(talk)
    talk.advance(1)
    assert ["2"] == left(talk)
    talk.advance(1)
    assert [] == left(talk)
    assert None is talk.queue.next_deadline()


def test_finished_jobs_are_forgotten_when_they_are_too_many() -> None:
    """
    Of more than retention_count finished jobs the oldest go; a lower limit holds at once.
    """
    talk = Conversation()
    talk.set("retention_count", 3)
    ids = finish(talk, 5)
    assert ids[2:] == left(talk)
    talk.set("retention_count", 1)
    talk.advance(0)
    assert ids[4:] == left(talk)


def test_only_finished_jobs_are_forgotten_and_never_the_dead() -> None:
    """
    Dead letters stay for as long as nobody purges them, and so does what has not finished.
    """
    talk = Conversation()
    dead = talk.enqueue(max_retries=0)
    talk.exit(dead, 1)
    held = talk.enqueue(hold=True)
    cancelled = talk.enqueue(hold=True)
    talk.act("cancel", cancelled)
    talk.set("retention", 0)
    talk.set("retention_count", 0)
    talk.advance(1)
    assert [dead, held] == left(talk)


def test_a_job_that_was_cancelled_twice_in_a_moment_is_forgotten_once() -> None:
    """
    Cancelled, retried and cancelled within a millisecond is one finished job.
    """
    talk = Conversation(workers=0)
    ids = [talk.enqueue(), talk.enqueue()]
    for _ in range(2):
        talk.act("cancel", *ids)
        talk.act("retry", *ids)
    talk.act("cancel", *ids)
    talk.set("retention_count", 1)
    talk.advance(0)
    assert ids[1:] == left(talk)
    talk.set("retention", 0)
    talk.advance(0)
    assert [] == left(talk)


def test_a_cancelled_job_that_was_retried_is_not_forgotten() -> None:
    """
    The line of finished jobs may still have an entry of it.
    """
    talk = Conversation(workers=0)
    job = talk.enqueue()
    talk.act("cancel", job)
    talk.act("retry", job)
    talk.set("retention", 0)
    talk.advance(1000)
    assert [job] == left(talk)


def test_indices_stay_as_small_as_what_they_index() -> None:
    """
    Stale entries of lines, timers and finished jobs do not pile up, whatever is done to jobs.
    """
    talk = Conversation(workers=0, replay_every=0)
    ids = [talk.enqueue(delay_ms=1000 + n) for n in range(10)]
    for _ in range(400):
        talk.act("hold", *ids)
        talk.act("release", *ids)
        talk.now += 1
    pending = [talk.enqueue() for _ in range(10)]
    for _ in range(400):
        talk.act("hold", *pending)
        talk.act("release", *pending)
    for _ in range(400):
        talk.act("cancel", *pending)
        talk.act("retry", *pending)
        talk.now += 1
    state = talk.queue.state
    (line,) = state.shares.by_owner[None].lines.values()
    sizes = [len(state.timers), len(state.finished), len(line.ready)]
    assert max(sizes) < 1200, sizes
    talk.act("cancel", all=True)
    for _ in range(50):
        talk.set("workers", 100)
    assert {} == state.shares.waiting
    assert 100 == len(state.slots._idle)


# --- lists --------------------------------------------------------------------------------------


def all_pages(talk: Conversation, **request: object) -> tuple[list[str], int]:
    """
    Follow `next_before` to the end; return all ids and how many pages it took.
    """
    ids: list[str] = []
    pages, before = 0, None
    while True:
        jobs = talk.request(List(before_number=before, **request))  # type: ignore[arg-type]
        assert isinstance(jobs, Jobs)
        ids += [view.id for view in jobs.jobs]
        pages += 1
        if jobs.next_before is None:
            return ids, pages
        assert before is None or jobs.next_before < before
        before = jobs.next_before


@pytest.mark.parametrize("by_index", [True, False])
@pytest.mark.parametrize("states", [[], ["held"], ["pending"], ["held", "pending"], ["dead"]])
@pytest.mark.parametrize("queue", [None, "q"])
def test_lists_are_newest_first_and_whole_over_any_pages(
    monkeypatch: pytest.MonkeyPatch, states: list[JobState], queue: str | None, by_index: bool
) -> None:
    """
    Pages join without gaps or repeats, also when the state asked for is sparse and a page is cut
    short by how much one request may look at.
    """
    monkeypatch.setattr(selection, "SCAN_JOBS_MAX", 7)
    monkeypatch.setattr(selection, "INDEX_JOBS_MAX", 100 if by_index else 0)
    talk = Conversation(workers=0, replay_every=0)
    expected = []
    for n in range(40):
        hold, place = n % 9 < 2, "q" if n % 4 else "default"
        job = talk.enqueue(hold=hold, queue=place)
        state = "held" if hold else "pending"
        if (not states or state in states) and queue in (None, place):
            expected.append(job)
    for limit in (1, 3, 7, 1000):
        ids, pages = all_pages(talk, states=states, queue=queue, limit=limit)
        assert expected[::-1] == ids
        assert pages >= len(expected) // limit


def test_a_page_is_bounded_in_bytes() -> None:
    """
    Jobs with long commands make short pages, of at least one job.
    """
    talk = Conversation(workers=0, replay_every=0)
    for n in range(20):
        talk.enqueue("x" * 100_000, hold=n % 2 == 0)
    ids, pages = all_pages(talk)
    assert (20, 4) == (len(ids), pages)
    ids, pages = all_pages(talk, states=["held"])
    assert (10, 2) == (len(ids), pages)


def test_a_list_goes_on_after_a_job() -> None:
    """
    `after` is the id of the last job of the page before; one that is not there is refused.
    """
    talk = Conversation()
    for name in ("a", "b", "c"):
        talk.enqueue(id=name)
    assert ["b", "a"] == [view.id for view in talk.request(List(after="c")).jobs]
    assert ["b"] == [view.id for view in talk.request(List(after="c", limit=1)).jobs]
    refused = talk.refused(List(after="nobody"))
    assert ("not_found", "no job 'nobody'") == (refused.code, refused.message)


def test_a_list_of_ids_is_in_their_order_and_bounded() -> None:
    """
    Named jobs come as named; one that is not there, or too many, is refused.
    """
    talk = Conversation(workers=0, replay_every=0)
    talk.request(Enqueue(jobs=[JobSpec(command="x")] * (LIST_JOBS_MAX + 1)))
    assert ["7", "2"] == [view.id for view in talk.request(List(ids=["7", "2"])).jobs]
    assert "not_found" == talk.refused(List(ids=["7", "nobody"])).code
    refused = talk.refused(List(ids=[f"1-{LIST_JOBS_MAX + 1}"]))
    assert ("usage", "ids") == (refused.code, refused.field)
    assert "not_found" == talk.refused(Show(id="nobody")).code


# --- logs, waits, the end -----------------------------------------------------------------------


def test_logs_are_of_the_last_attempt_or_the_one_asked_for() -> None:
    """
    An attempt that was never made is refused, with the number of those that were.
    """
    talk = Conversation()
    job = talk.enqueue(max_retries=1)
    talk.exit(job, 1)
    talk.advance(2000)
    for request, attempt, only in (
        (Logs(id=job), 2, False),
        (Logs(id=job, attempt=1), 1, True),
        (Logs(id=job, attempt=3, follow=True), 3, True),
    ):
        answer = talk.request(request)
        assert isinstance(answer, StreamLogs)
        assert (1, attempt, only) == (answer.number, answer.attempt, answer.only)
    talk.exit(job, 1)
    for follow in (False, True):
        refused = talk.refused(Logs(id=job, attempt=3, follow=follow))
        assert ("not_found", "attempt") == (refused.code, refused.field)
        assert "job 1 has no attempt 3; it has made 2" == refused.message


def test_logs_of_a_job_without_attempts_end_at_once_or_wait_for_the_first() -> None:
    """
    Following waits for a job that has not started; one that never will has no output.
    """
    talk = Conversation(workers=0)
    job = talk.enqueue()
    assert isinstance(talk.request(Logs(id=job)), LogEnd)
    answer = talk.request(Logs(id=job, follow=True))
    assert isinstance(answer, StreamLogs)
    assert (1, False) == (answer.attempt, answer.only)
    talk.act("cancel", job)
    assert isinstance(talk.request(Logs(id=job, follow=True)), LogEnd)


def test_waiting_is_answered_when_it_is_over_already() -> None:
    """
    For all jobs, or with `any` for one; otherwise the runtime is told what it waits for.
    """
    talk = Conversation()
    done, running = talk.enqueue(), talk.enqueue()
    talk.exit(done)
    waited = talk.request(Wait(ids=[done]))
    assert isinstance(waited, Waited)
    assert ["completed"] == [view.state for view in waited.jobs]
    waited = talk.request(Wait(ids=[running, done], any=True))
    assert ["completed"] == [view.state for view in waited.jobs]
    answer = talk.request(Wait(ids=[running, done]))
    assert isinstance(answer, AwaitJobs)
    assert ([2, 1], [2], False) == (answer.numbers, answer.waiting, answer.any)
    assert "not_found" == talk.refused(Wait(ids=["nobody"])).code
    answer = talk.request(Wait(ids=["nobody", running], skip_missing=True))
    assert ([2], [2]) == (answer.numbers, answer.waiting)
    assert [] == talk.request(Wait(ids=["nobody"], skip_missing=True)).jobs


def test_shutting_down_is_answered_first() -> None:
    """
    The reply leaves, then the daemon ends; running jobs get no signal.
    """
    talk = Conversation()
    talk.enqueue()
    assert isinstance(talk.request(Shutdown()), Done)
    assert StopDaemon() == talk.effects[-1]
    assert [] == talk.signals()
