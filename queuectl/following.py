"""
Following a job's output to its end, through retries of the job and restarts of the daemon.

One attempt at a time: its end comes with a view of the job, which says what happens next. The view
may be of a job that has gone on meanwhile, even to its end: no attempt is left out. When the
connection is lost, the job is not: it is followed again over a new one, from the next byte on.
"""

import sys

from queuectl.client import Client
from queuectl.durations import describe_duration
from queuectl.endings import ending
from queuectl.errors import ConnectionLost, ProtocolError
from queuectl.protocol import JobDetail, LogEnd, Logs, Output, Show
from queuectl.selection import id_to_ask
from queuectl.session import Session
from queuectl.views import FINISHED_STATES, JobView, RunView


class Follower:
    """
    Writes the output of job *identifier*, from *attempt* on, raw to stdout.

    With *only* that attempt's. Whoever starts a follower closes the client.
    """

    def __init__(
        self,
        session: Session,
        client: Client,
        identifier: str,
        attempt: int,
        *,
        only: bool = False,
        tail_lines: int | None = None,
    ) -> None:
        self.client = client
        self._session = session
        self._id = identifier
        self._attempt = attempt
        self._only = only
        self._tail_lines = tail_lines
        self._offset = 0

    def follow(self) -> JobView:
        """
        Write output until the job, or the one attempt, has ended; return the job as it is then.

        Raises RequestRefused, DaemonUnreachable, KeyboardInterrupt, BrokenPipeError.
        """
        while True:
            try:
                job = self._follow_attempt()
                went_on = (job.attempt or 0) > self._attempt
                if self._only or (job.state in FINISHED_STATES and not went_on):
                    return job
                self._session.complain(self._past_end() if went_on else self._last_end(job))
            except ProtocolError:
                raise
            except ConnectionLost:
                self.client = self._session.reconnect()
                continue
            self._attempt += 1
            self._offset = 0
            self._tail_lines = None

    def _follow_attempt(self) -> JobView:
        request = Logs(
            id=self._id,
            attempt=self._attempt,
            tail_lines=self._tail_lines if self._offset == 0 else None,
            offset=self._offset,
            follow=True,
        )
        for answer in self.client.stream(request, Output, LogEnd):
            if isinstance(answer, LogEnd):
                return answer.job
            assert isinstance(answer, Output)
            write_output(self._session, answer)
            self._offset = answer.offset + len(answer.data)
        raise AssertionError("a stream ends with its end")

    def _past_end(self) -> str:
        """
        Return how the attempt ended, in words, when the job has made another since.
        """
        detail = self.client.call(Show(id=self._id), JobDetail)
        run = next((run for run in detail.runs if run.attempt == self._attempt), None)
        return self._failed(detail.job, run)

    def _last_end(self, job: JobView) -> str:
        """
        Return how the attempt ended, in words, and what happens next.
        """
        text = self._failed(job, job)
        if job.next_run_at is not None:
            wait_ms = max(job.next_run_at - job.updated_at, 0)
            text += f", next attempt in {describe_duration(wait_ms)}"
        elif job.state == "held":
            text += f", held: {self._session.again(f'release {id_to_ask(job)}')}"
        return text

    def _failed(self, job: JobView, run: RunView | JobView | None) -> str:
        how = "" if run is None else ending(run)
        return f"attempt {self._attempt} of job {job.id} failed" + (f" ({how})" if how else "")


def say_why_waiting(
    session: Session, client: Client, identifier: str, attempt: int | None = None
) -> JobView:
    """
    Say why the job does not run, if it does not: nothing else may be seen of it for a while. With
    *attempt* only if that one has not begun; what ended already is followed to its end.
    """
    detail = client.call(Show(id=identifier), JobDetail)
    job = detail.job
    waits = job.state != "processing" and job.state not in FINISHED_STATES
    if waits and (attempt is None or (job.attempt or 0) < attempt):
        session.complain(f"job {job.id} is {job.state}" + (f": {detail.why}" if detail.why else ""))
    return job


def write_output(session: Session, output: Output) -> None:
    """
    Write a piece of a job's output to stdout as it is, at once.
    """
    if output.dropped_bytes:
        session.complain(f"{output.dropped_bytes} bytes are gone here: over the output limit")
    sys.stdout.flush()
    sys.stdout.buffer.write(output.data)
    sys.stdout.buffer.flush()
