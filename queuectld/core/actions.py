"""
The verbs on existing jobs: cancel, retry, hold, release, edit, purge, prune.

A table says from which states each verb works. With explicit ids, a job in another state is an
error of its own and the others are still done; with filters, only jobs in those states are meant.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from queuectl.editing import Edit
from queuectl.protocol import Act, Acted, Selection
from queuectl.views import FINISHED_STATES, JOB_STATES, JobError, JobState
from queuectld.core import named_queues, selection
from queuectld.core.admission import check_priority, check_queued, excerpt
from queuectld.core.effects import Reply
from queuectld.core.job import Job
from queuectld.core.records import ATTEMPTS_MAX
from queuectld.core.refusal import Refusal

if TYPE_CHECKING:
    from queuectld.core.queue import Queue

UNFINISHED: frozenset[JobState] = frozenset(JOB_STATES) - FINISHED_STATES

#: From which states a verb works.
ALLOWED: dict[str, frozenset[JobState]] = {
    "cancel": UNFINISHED,
    "retry": frozenset({"failed", "dead", "cancelled"}),
    "hold": frozenset({"scheduled", "pending", "failed"}),
    "release": frozenset({"held"}),
    "edit": UNFINISHED - {"processing"},
    "purge": frozenset({"dead"}),
    "prune": FINISHED_STATES,
}
#: What a verb means without a state: dead jobs leave the history only when they are named.
MEANT: dict[str, frozenset[JobState]] = {
    **ALLOWED,
    "retry": frozenset({"dead"}),
    "prune": FINISHED_STATES - {"dead"},
}


def act(queue: "Queue", client: int, request: Act, now: int) -> None:
    """
    Do one thing to each selected job. Raises Refusal if the selection means nothing, or there is no
    room for the jobs that would wait again.
    """
    verb = request.action
    span_ms = request.older_than_ms
    changed_before = None if span_ms is None else now - span_ms
    jobs, errors, more = _choose(queue, request.select, verb, changed_before)
    ids = [queue.state.spec(job).id for job in jobs]
    _VERBS[verb](queue, jobs, now)
    response = Acted(call=request.call, ids=ids, errors=errors, more=more, durable=queue.durable)
    queue.do(Reply(client, response))


def edit(queue: "Queue", client: int, request: Edit, now: int) -> None:
    """
    Give each selected job another place in the line. Raises Refusal if the selection means nothing,
    or the priority is not the peer's to give.
    """
    check_priority(queue.peer, request.priority)
    jobs, errors, more = _choose(queue, request.select, "edit")
    for job in jobs:
        if job.priority != request.priority:
            due_at, why = job.due_at, job.why
            queue.move(job, job.state, now, due_at=due_at, priority=request.priority, why=why)
    ids = [queue.state.spec(job).id for job in jobs]
    response = Acted(call=request.call, ids=ids, errors=errors, more=more, durable=queue.durable)
    queue.do(Reply(client, response))


def _choose(
    queue: "Queue", select: Selection, verb: str, changed_before: int | None = None
) -> tuple[list[Job], list[JobError], int | None]:
    """
    Return the selected jobs on which a verb works, why it does not on others that were named, and
    the number to go on after if that was not all.
    """
    by_filter = bool(select.all or select.states or select.queue is not None)
    if by_filter == bool(select.ids):
        raise Refusal(
            "usage", f"{verb} needs either job ids or --all, --state or --queue", "select"
        )
    more = None
    if by_filter:
        meant = ALLOWED[verb] & frozenset(select.states) if select.states else MEANT[verb]
        jobs, more = selection.matching(queue.state, queue.peer, select, meant)
        errors: list[JobError] = []
    else:
        jobs, errors = selection.pick(queue.state, queue.peer, select.ids)
    if changed_before is not None:
        jobs = [job for job in jobs if job.updated_at <= changed_before]
    chosen = []
    for job in jobs:
        refusal = _refusal(queue, job, verb)
        if refusal is None:
            chosen.append(job)
        elif not by_filter:
            errors.append(refusal)
    return chosen, errors, more


def _refusal(queue: "Queue", job: Job, verb: str) -> JobError | None:
    job_id = excerpt(queue.state.spec(job).id)
    if job.state not in ALLOWED[verb]:
        states = ", ".join(state for state in JOB_STATES if state in ALLOWED[verb])
        message = f"job {job_id} is {job.state}; {verb} works on jobs that are {states}"
        if job.state == "processing" and verb == "hold":
            message += "; cancel stops a running one"
        return JobError(code="conflict", message=message, id=job_id)
    if verb == "cancel" and job.stop is not None and job.stop.why == "cancelled":
        message = f"job {job_id} is being cancelled already"
        return JobError(code="conflict", message=message, id=job_id)
    if verb == "retry" and job.attempt >= ATTEMPTS_MAX:
        message = f"job {job_id} has made {job.attempt} attempts, the most a job can; enqueue anew"
        return JobError(code="conflict", message=message, id=job_id)
    return None


def _cancel(queue: "Queue", jobs: list[Job], now: int) -> None:
    for job in jobs:
        if job.state == "processing":
            queue.stop(job, "cancelled", now)
        else:
            queue.move(job, "cancelled", now)


def _retry(queue: "Queue", jobs: list[Job], now: int) -> None:
    """
    Start again, now, with a fresh budget of attempts. The old attempts stay in the history.
    """
    again = sum(job.state == "cancelled" for job in jobs)
    if again and not queue.peer.admin:
        check_queued(queue.state, queue.peer, again)
    # A queue may have been deleted while its jobs were finished.
    named_queues.make(queue, {job.queue.name for job in jobs})
    for job in jobs:
        queue.move(job, "pending", now, attempts_before=job.attempt)


def _hold(queue: "Queue", jobs: list[Job], now: int) -> None:
    for job in jobs:
        due_at = 0 if job.state == "pending" else job.due_at
        queue.move(job, "held", now, due_at=due_at, why="by hand")


def _release(queue: "Queue", jobs: list[Job], now: int) -> None:
    for job in jobs:
        if job.due_at > now:
            queue.move(job, "scheduled", now, due_at=job.due_at)
        else:
            queue.move(job, "pending", now)


def _forget(queue: "Queue", jobs: list[Job], now: int) -> None:
    queue.forget(jobs)


_VERBS: dict[str, Callable[["Queue", list[Job], int], None]] = {
    "cancel": _cancel,
    "retry": _retry,
    "hold": _hold,
    "release": _release,
    "purge": _forget,
    "prune": _forget,
}
