"""
Who is told what happens: clients that wait for output or for an end, clients that watch the queue,
the system's journal and the log. Of each durable fact, once it is on disk, in the order of facts.
"""

from collections.abc import Callable, Sequence
from typing import Any

from queuectld.core.effects import AwaitJobs, Effect, StreamLogs, TellForgotten, WatchJobs
from queuectld.core.queue import Queue
from queuectld.core.records import JobEnqueued, Record
from queuectld.core.timers import earliest
from queuectld.runtime.housekeeping import Housekeeping
from queuectld.runtime.job_log import JobLog
from queuectld.runtime.output import OutputStore
from queuectld.runtime.streams import Streams
from queuectld.runtime.watchers import Watchers

#: The effects that are performed here.
TELLING = (StreamLogs, AwaitJobs, WatchJobs, TellForgotten)


class Telling:
    """
    Everybody who is told. For *reply*, *send* and *may_stream* see streams.py.
    """

    def __init__(
        self,
        queue: Queue,
        output: OutputStore,
        housekeeping: Housekeeping,
        job_log: JobLog,
        now: Callable[[], int],
        reply: Callable[[int, Any], None],
        send: Callable[[int, Any], None],
        may_stream: Callable[[int], bool | None],
    ) -> None:
        self._state = queue.state
        self._housekeeping = housekeeping
        self._job_log = job_log
        self._streams = Streams(queue, output, now, reply, send, may_stream)
        self._watchers = Watchers(queue.state, now, reply, send, may_stream)
        #: When output is to be looked at again.
        self._poll_at: int | None = None

    def perform(self, effect: Effect) -> None:
        """
        Do one of the effects in TELLING.
        """
        if isinstance(effect, StreamLogs):
            self._streams.open(effect)
        elif isinstance(effect, AwaitJobs):
            self._streams.wait(effect)
        elif isinstance(effect, WatchJobs):
            self._watchers.open(effect)
        else:
            assert isinstance(effect, TellForgotten), effect
            self._watchers.forgotten(effect)

    def tell(self, records: Sequence[Record], now: int) -> None:
        """
        Tell of a batch that is on disk.
        """
        self._watchers.tell(records)
        for record in records:
            if type(record) is JobEnqueued and record.by_uid is None:
                continue  # Most of them, and nobody can wait for a job that was not there.
            number = getattr(record, "number", None)
            if number is not None:
                self._streams.changed(number)
            self._housekeeping.told(record, now)  # The last output, then the end, in the journal.
            self._job_log.tell(record, self._state, now)

    def client_gone(self, client: int) -> None:
        """
        A connection ended: nobody there is told anything any more.
        """
        self._streams.client_gone(client)
        self._watchers.client_gone(client)

    def next_deadline(self, now: int) -> int | None:
        """
        When to call attend().
        """
        if self._poll_at is None:
            self._poll_at = self._streams.next_deadline(now)
        return earliest(
            self._poll_at, self._watchers.next_deadline(), self._job_log.next_deadline()
        )

    def attend(self, now: int) -> None:
        """
        Tell what waited for its time. Near the end of a turn: what is sent here leaves with it.
        """
        if self._poll_at is not None and now >= self._poll_at:
            self._poll_at = None
            self._streams.poll()
        self._watchers.attend(now)
        self._job_log.attend(now)
