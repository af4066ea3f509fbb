"""
What a watcher is told: the part of a Watch that the queue decides, and each record as a change.

A change shows what its record states, never the state of now: that may be ahead of the disk. Of
the job itself it shows only what never changes.
"""

from typing import TYPE_CHECKING

from queuectl.views import JobState
from queuectl.watching import JobChange, Watch
from queuectld.core import selection
from queuectld.core.effects import WatchJobs
from queuectld.core.job import Job
from queuectld.core.records import (
    JobEnqueued,
    JobMoved,
    QueuesChanged,
    Record,
    RunEnded,
    RunStarted,
    SettingsChanged,
    SlotsChanged,
    StopRequested,
)
from queuectld.core.refusal import Refusal

if TYPE_CHECKING:
    from queuectld.core.queue import Queue

#: What a watcher is told to look at again as a whole.
TABLES: dict[type[Record], str] = {
    QueuesChanged: "queues",
    SettingsChanged: "settings",
    SlotsChanged: "workers",
}


def watch(queue: "Queue", client: int, request: Watch, now: int) -> None:
    """
    Begin to tell a client what happens. Jobs named by id must exist for it.
    """
    numbers = None
    if request.ids:
        jobs, errors = selection.pick(queue.state, queue.peer, request.ids)
        if errors:
            raise Refusal("not_found", errors[0].message, "ids")
        numbers = frozenset(job.number for job in jobs)
    queue.do(WatchJobs(client, numbers, request, queue.peer))


def state_after(record: Record) -> JobState:
    """
    Return the state of the job that a record is about, as the record leaves it.
    """
    if isinstance(record, RunStarted | StopRequested):
        return "processing"
    assert isinstance(record, JobEnqueued | JobMoved | RunEnded), record
    return record.state


def change_of(record: Record, job: Job, spec: JobEnqueued) -> JobChange:
    """
    Return what a record about *job*, which was asked for as *spec*, says to people.
    """
    number, job_id, queue, user = job.number, spec.id, spec.queue, spec.user
    if isinstance(record, RunStarted):
        return JobChange(
            number=number,
            id=job_id,
            what="started",
            state="processing",
            queue=queue,
            at=record.at,
            user=user,
            attempt=record.attempt,
            worker=record.slot,
        )
    if isinstance(record, RunEnded):
        return JobChange(
            number=number,
            id=job_id,
            what="ended",
            state=record.state,
            queue=queue,
            at=record.at,
            user=user,
            next_run_at=record.due_at or None,
            attempt=record.attempt,
            worker=record.slot,
            end=record.end,
            exit_code=record.exit_code,
            signal=record.signal,
        )
    if isinstance(record, StopRequested):
        return JobChange(
            number=number,
            id=job_id,
            what="stopping",
            state="processing",
            queue=queue,
            at=record.at,
            user=user,
            attempt=record.attempt,
            end=record.why,
        )
    assert isinstance(record, JobEnqueued | JobMoved), record
    return JobChange(
        number=number,
        id=job_id,
        what="moved" if isinstance(record, JobMoved) else "enqueued",
        state=record.state,
        queue=queue,
        at=record.at,
        user=user,
        priority=record.priority,
        next_run_at=record.due_at or None,
    )


def forgotten(job: Job, spec: JobEnqueued, now: int) -> JobChange:
    """
    Return what is said of a job that left the history in `state`.
    """
    return JobChange(
        number=job.number,
        id=spec.id,
        what="forgotten",
        state=job.state,
        queue=spec.queue,
        at=now,
        user=spec.user,
    )
