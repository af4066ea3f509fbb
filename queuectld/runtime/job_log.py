"""
What the log tells of jobs and tokens: each durable fact about one, or a sum of them when there are
too many.

A line for every run is worth reading until there are thousands a second: then it fills the disk,
costs as much as starting the job, and the system's journal drops what comes, warnings and all (by
default 10,000 entries of a service in 30 s). So of each second only the first events are told one
by one, and the rest as one line of counts; what went wrong has an allowance of its own. What a job
went through is in the queue, for `queuectl show`.
"""

from collections import Counter
from typing import Any

from queuectld.core.records import (
    DaemonStarted,
    JobEnqueued,
    JobForgotten,
    JobMoved,
    Record,
    RunEnded,
    RunStarted,
    StopRequested,
    TokenForgotten,
    TokenMade,
)
from queuectld.core.state import State
from queuectld.core.tokens import id_text

WINDOW_MS = 1_000
#: Of each second; together under the journal's 10,000 in 30 s.
EVENTS_MAX = 100
WARNINGS_MAX = 200


class JobLog:
    """
    Tells of records, of jobs and of the daemon's start. An enqueue is told when somebody else than
    the job's owner did it.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._window_ends_at = 0
        self._told_count = 0
        self._warned_count = 0
        self._untold: Counter[str] = Counter()
        self._unwarned: Counter[str] = Counter()

    def next_deadline(self) -> int | None:
        """
        When to call attend(); None while everything is told.
        """
        return self._window_ends_at if self._untold or self._unwarned else None

    def attend(self, now: int) -> None:
        """
        Tell the sums of a second that is over.
        """
        if now < self._window_ends_at:
            return
        self._told_count = self._warned_count = 0
        self._window_ends_at = now + WINDOW_MS
        if self._untold:
            self._log.info("runs_summed", **self._untold)
            self._untold.clear()
        if self._unwarned:
            dead, lost = self._unwarned["dead"], self._unwarned["lost"]
            self._log.warning("failures_summed", dead=dead, lost=lost)
            self._unwarned.clear()

    def tell(self, record: Record, state: State, now: int) -> None:
        """
        Tell people of a durable fact.
        """
        if now >= self._window_ends_at:
            self.attend(now)
        if type(record) is JobEnqueued:
            if record.by_user is not None and self._may_tell("enqueued"):
                fields = job_fields(state, record.number)
                self._log.info("job_enqueued_for", **fields, by=record.by_user)
        elif type(record) is RunStarted:
            if self._may_tell("started"):
                fields = job_fields(state, record.number)
                self._log.info("run_started", **fields, attempt=record.attempt, slot=record.slot)
        elif type(record) is RunEnded:
            self._run_ended(record, state)
        elif type(record) is StopRequested:
            if self._may_tell("stopped"):
                fields = job_fields(state, record.number)
                self._log.info("stop_requested", **fields, attempt=record.attempt, why=record.why)
        elif type(record) is JobMoved:
            if self._may_tell("moved"):
                self._log.info("job_moved", **job_fields(state, record.number), state=record.state)
        elif type(record) is JobForgotten:
            self._log.debug("job_forgotten", **job_fields(state, record.number))
        elif isinstance(record, TokenMade | TokenForgotten):
            if self._may_tell("tokens"):
                self._token(record)
        elif type(record) is DaemonStarted:
            self._log.info("daemon_started", epoch=record.epoch, version=record.version)

    def _run_ended(self, record: RunEnded, state: State) -> None:
        """
        A job that died and a run whose end nobody saw want somebody to look; a failure that is
        retried does not.
        """
        if record.state == "dead" or record.end == "lost":
            told = self._may_warn("dead" if record.state == "dead" else "lost")
            level = self._log.warning
        else:
            told = self._may_tell("ended" if record.error is None else "failed")
            level = self._log.info
        if told:
            level(
                "run_ended",
                **job_fields(state, record.number),
                attempt=record.attempt,
                end=record.end,
                exit_code=record.exit_code,
                signal=record.signal,
                error=record.error,
                state=record.state,
                span_ms=record.at - record.started_at,
            )

    def _token(self, record: TokenMade | TokenForgotten) -> None:
        token, user, by = id_text(record.token), record.user, record.by_user
        if isinstance(record, TokenMade):
            self._log.info(
                "token_made",
                token=token,
                user=user,
                by=by,
                scopes=",".join(record.scopes),
                expires_at=record.expires_at or None,
            )
        else:
            self._log.info("token_forgotten", token=token, user=user, by=by, why=record.why)

    def _may_tell(self, word: str) -> bool:
        self._told_count += 1
        if self._told_count <= EVENTS_MAX:
            return True
        self._untold[word] += 1
        return False

    def _may_warn(self, word: str) -> bool:
        self._warned_count += 1
        if self._warned_count <= WARNINGS_MAX:
            return True
        self._unwarned[word] += 1
        return False


def job_fields(state: State, number: int) -> dict[str, Any]:
    """
    Return what every event of a job says of it: its number, its id, its queue, and whose it is. In
    user mode that goes without saying.
    """
    job = state.jobs.get(number)
    if job is None:  # Forgotten by a later record of the same batch.
        return {"job": number, "user": None}
    spec = state.spec(job)
    fields = {"job": number, "id": spec.id, "queue": job.queue.name}
    return fields if spec.user is None else {**fields, "user": spec.user}
