"""
Clients that wait: for output (logs) and for jobs to finish (wait).

A log stream reads the file of one attempt to its end, then, as long as it follows, waits for more
of it, or for the job's next attempt. The files grow without telling anybody, so streams that wait
for more are looked at every POLL_MS; a record that concerns a job wakes its streams at once.

Output is sent as it is read, past everything that waits for the disk: the run's start is on disk,
or there would be no output, and a crash takes none of it back. The end of a stream tells how the
job is, so it waits.
"""

import os
from collections.abc import Callable
from typing import Any

from queuectl.protocol import LogEnd, Output, Refused, Waited
from queuectl.views import FINISHED_STATES, JobView
from queuectld.core.effects import AwaitJobs, StreamLogs
from queuectld.core.job import Job
from queuectld.core.peer import Peer
from queuectld.core.queue import Queue
from queuectld.core.views import job_view
from queuectld.runtime.output import OutputStore, read_chunk, tail_offset

# How often the output that somebody follows is looked at.
POLL_MS = 20
# Chunks sent to one stream before others have their turn.
CHUNKS_PER_STEP_MAX = 8
# Log streams at once: each holds a descriptor, and reads its file up to 50 times a second.
STREAMS_MAX = 256
# The same of one account where there are several: a quarter of all, admins excepted.
USER_STREAMS_MAX = 64
# Jobs that the waits of one account name together: so many may be shown at once, when they end.
WAITED_JOBS_MAX = 50_000


class LogStream:
    """
    One Logs request under way.
    """

    def __init__(self, effect: StreamLogs, view: JobView) -> None:
        self.client = effect.client
        self.peer = effect.peer
        self.call = effect.request.call
        self.number = effect.number
        self.attempt = effect.attempt
        self.only = effect.only
        self.follow = effect.request.follow
        self.tail_lines = effect.request.tail_lines
        self.tail_bytes = effect.request.tail_bytes
        self.offset = max(effect.request.offset, 0)
        self.fd: int | None = None
        #: There is more to send now.
        self.hungry = False
        #: All there was had been sent when it was last looked: what comes now was written since.
        self.up_to_date = False
        #: Nothing more comes before a record tells so.
        self.waits_for_record = False
        #: The job as it was last seen: it may be forgotten while somebody reads its output.
        self.view = view

    def close(self) -> None:
        """
        Let the file go.
        """
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class JobWait:
    """
    One Wait request under way, and its jobs that have not finished.
    """

    __slots__ = ("effect", "remaining")

    def __init__(self, effect: AwaitJobs) -> None:
        self.effect = effect
        self.remaining = set(effect.waiting)


class Streams:
    """
    Every log stream and every wait. `send(client, response)` and `may_stream(client)` are the
    server's; `reply(client, response)` holds back what a crash could undo.
    """

    def __init__(
        self,
        queue: Queue,
        output: OutputStore,
        now: Callable[[], int],
        reply: Callable[[int, Any], None],
        send: Callable[[int, Any], None],
        may_stream: Callable[[int], bool | None],
    ) -> None:
        self._queue = queue
        self._output = output
        self._now = now
        self._reply = reply
        self._send = send
        self._may_stream = may_stream
        self._streams: list[LogStream] = []
        #: The waits that each unfinished job keeps waiting, in order, and those of each client.
        self._waits: dict[int, dict[JobWait, None]] = {}
        self._waits_of: dict[int, dict[JobWait, None]] = {}
        #: How many jobs the waits of each account name.
        self._waited: dict[int | None, int] = {}

    # --- logs -------------------------------------------------------------------------------

    def open(self, effect: StreamLogs) -> None:
        """
        Begin a log stream.
        """
        job = self._queue.state.jobs.get(effect.number)
        call = effect.request.call
        if job is None:
            refused = Refused(call=call, code="not_found", message="the job was forgotten just now")
            self._reply(effect.client, refused)
            return
        message = self._too_many(effect.peer)
        if message is not None:
            self._reply(effect.client, Refused(call=call, code="try_later", message=message))
            return
        stream = LogStream(effect, job_view(self._queue, job, effect.peer))
        self._streams.append(stream)
        try:
            if stream.tail_bytes is not None:
                self._tell_beginning(stream)
        except OSError as error:
            self._cannot_read(stream, error)
            return
        self._step(stream)

    def _too_many(self, peer: Peer) -> str | None:
        if len(self._streams) >= STREAMS_MAX:
            return f"the output of {STREAMS_MAX} jobs is being read, the most there may be"
        if (
            peer.admin
            or sum(each.peer.uid == peer.uid for each in self._streams) < USER_STREAMS_MAX
        ):
            return None
        return f"your account reads the output of {USER_STREAMS_MAX} jobs, the most it may"

    def next_deadline(self, now: int) -> int | None:
        """
        When to call poll(), if anybody waits for output.
        """
        if not self._streams:
            return None
        if any(stream.hungry for stream in self._streams):
            return now
        if all(stream.waits_for_record for stream in self._streams):
            return None
        return now + POLL_MS

    def poll(self) -> None:
        """
        Go on with every log stream.
        """
        for stream in list(self._streams):
            if not stream.waits_for_record:
                self._step(stream)

    def _end(self, stream: LogStream, *, told: bool) -> None:
        stream.close()
        self._streams.remove(stream)
        if told:
            self._look_at_job(stream)
            response = LogEnd(call=stream.call, job=stream.view, attempt=stream.attempt)
            self._reply(stream.client, response)

    def _look_at_job(self, stream: LogStream) -> None:
        job = self._queue.state.jobs.get(stream.number)
        if job is not None:
            stream.view = job_view(self._queue, job, stream.peer)

    def _step(self, stream: LogStream) -> None:
        """
        Send what there is; end the stream if nothing more will come.
        """
        stream.hungry = stream.waits_for_record = False
        at = self._now() if stream.up_to_date else None
        stream.up_to_date = False
        for _ in range(CHUNKS_PER_STEP_MAX):
            may_stream = self._may_stream(stream.client)
            if may_stream is None:
                self._end(stream, told=False)
                return
            if not may_stream:
                return
            job = self._queue.state.jobs.get(stream.number)
            # Looked at before the file is read: what a run wrote before its end is then all read.
            over = job is None or self._attempt_is_over(job, stream.attempt)
            try:
                sent = self._send_chunk(stream, at)
            except OSError as error:
                self._cannot_read(stream, error)
                return
            if sent:
                continue
            if not over and stream.follow:
                stream.up_to_date = True
                stream.waits_for_record = job is not None and job.state != "processing"
                return
            finished = job is None or job.state in FINISHED_STATES
            if stream.only or finished or not stream.follow:
                self._end(stream, told=True)
                return
            assert job is not None
            if job.attempt == stream.attempt:
                stream.waits_for_record = True
                stream.up_to_date = True
                return
            stream.close()
            stream.attempt, stream.offset, stream.tail_lines = stream.attempt + 1, 0, None
        stream.hungry = True

    def _cannot_read(self, stream: LogStream, error: OSError) -> None:
        self._end(stream, told=False)
        message = f"the output could not be read: {error.strerror}"
        self._reply(stream.client, Refused(call=stream.call, code="try_later", message=message))

    def _attempt_is_over(self, job: Job, attempt: int) -> bool:
        for run in reversed(job.runs or ()):
            if run.attempt == attempt:
                return bool(run.ended_at)
        # Not made yet, unless the job finished without it.
        return attempt <= job.attempt or job.state in FINISHED_STATES

    def _tell_beginning(self, stream: LogStream) -> None:
        """
        Begin near the end of what there is, and say where that is.
        """
        stream.fd = self._output.open(stream.number, stream.attempt)
        if stream.fd is not None:
            size = os.fstat(stream.fd).st_size
            stream.offset = max(size - max(stream.tail_bytes or 0, 0), 0)
        beginning = Output(call=stream.call, attempt=stream.attempt, offset=stream.offset, data=b"")
        self._send(stream.client, beginning)

    def _send_chunk(self, stream: LogStream, at: int | None) -> bool:
        """
        Send the next piece of output, if there is one. *at* is when it was written, if known.
        """
        if stream.fd is None:
            stream.fd = self._output.open(stream.number, stream.attempt)
            if stream.fd is None:
                return False
            if stream.tail_lines is not None:
                stream.offset = tail_offset(stream.fd, stream.tail_lines)
        chunk = read_chunk(stream.fd, stream.offset)
        if not chunk.data and not chunk.dropped_bytes:
            return False
        stream.offset = chunk.offset + len(chunk.data)
        response = Output(
            call=stream.call,
            attempt=stream.attempt,
            offset=chunk.offset,
            data=chunk.data,
            dropped_bytes=chunk.dropped_bytes,
            at=at,
        )
        self._send(stream.client, response)
        return True

    # --- waits ------------------------------------------------------------------------------

    def wait(self, effect: AwaitJobs) -> None:
        """
        Begin a wait. Some of the jobs may have finished since it was decided.
        """
        uid = effect.peer.uid
        waited = self._waited.get(uid, 0) + len(effect.numbers)
        if waited > WAITED_JOBS_MAX:
            message = f"the requests to wait name {waited} jobs, of at most {WAITED_JOBS_MAX}"
            self._reply(effect.client, Refused(call=effect.call, code="try_later", message=message))
            return
        wait = JobWait(effect)
        self._waited[uid] = waited
        self._waits_of.setdefault(effect.client, {})[wait] = None
        for number in effect.waiting:
            self._waits.setdefault(number, {})[wait] = None
        for number in effect.waiting:
            self._wake_waits(number)

    def changed(self, number: int) -> None:
        """
        A record about this job is on disk: wake whoever waits for it.
        """
        if self._streams:
            for stream in [each for each in self._streams if each.number == number]:
                self._look_at_job(stream)
                self._step(stream)
        if number in self._waits:
            self._wake_waits(number)

    def client_gone(self, client: int) -> None:
        """
        A connection ended: nobody waits there any more.
        """
        for stream in [each for each in self._streams if each.client == client]:
            self._end(stream, told=False)
        for wait in list(self._waits_of.get(client, ())):
            self._forget_wait(wait)

    def _wake_waits(self, number: int) -> None:
        job = self._queue.state.jobs.get(number)
        if job is not None and job.state not in FINISHED_STATES:
            return
        for wait in self._waits.pop(number, {}):
            wait.remaining.discard(number)
            if wait.effect.any or not wait.remaining:
                self._forget_wait(wait)
                self._answer(wait.effect)

    def _forget_wait(self, wait: JobWait) -> None:
        for number in wait.remaining:
            _take_out(self._waits, number, wait)
        _take_out(self._waits_of, wait.effect.client, wait)
        uid = wait.effect.peer.uid
        self._waited[uid] -= len(wait.effect.numbers)
        if not self._waited[uid]:
            del self._waited[uid]

    def _answer(self, effect: AwaitJobs) -> None:
        jobs = [self._queue.state.jobs.get(number) for number in effect.numbers]
        views = [
            job_view(self._queue, job, effect.peer)
            for job in jobs
            if job is not None and job.state in FINISHED_STATES
        ]
        self._reply(effect.client, Waited(call=effect.call, jobs=views))


def _take_out(table: dict[int, dict[JobWait, None]], key: int, wait: JobWait) -> None:
    waits = table[key]
    del waits[wait]
    if not waits:
        del table[key]
