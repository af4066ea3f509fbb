"""
Clients that watch the queue: each durable fact about a job is told to those for whom it exists.

A watcher costs what it is sent and no more. It is sent a message at once and then at most every
WINDOW_MS; of one window CHANGES_MAX changes are kept and the others counted. So a queue that takes
30,000 jobs a second does no more for a watcher than one that takes 2,000, and the watcher, who
could not show them anyway, looks at the whole again; what is only counted is not held to its
filters, which would cost as much as to tell it. To a connection that does not take what it is
sent nothing is kept at all, only counted. When nobody watches, a batch costs one comparison.
"""

from collections.abc import Callable, Iterable
from typing import Any

from queuectl.protocol import Refused
from queuectl.views import JobState
from queuectl.watching import Changed, JobChange
from queuectld.core.effects import TellForgotten, WatchJobs
from queuectld.core.job import Job
from queuectld.core.records import JobForgotten, Record
from queuectld.core.state import State
from queuectld.core.timers import earliest
from queuectld.core.watching import TABLES, change_of, forgotten, state_after

# How often a watcher is sent something at most.
WINDOW_MS = 50
# Changes kept for a watcher in that time; more are counted. About 15 kB.
CHANGES_MAX = 100
# How long a connection that is slow is left alone before it is looked at again.
SLOW_MS = 500
# Watchers at once: each looks at every record.
WATCHERS_MAX = 128
# The same of one account where there are several, admins excepted.
USER_WATCHERS_MAX = 32


class Watcher:
    """
    One Watch under way.
    """

    def __init__(self, effect: WatchJobs) -> None:
        request = effect.request
        self.client = effect.client
        self.call: int = request.call
        self.peer = effect.peer
        self._queue: str | None = request.queue
        self._states = frozenset(request.states)
        self._user: str | None = request.user
        self._numbers = effect.numbers
        #: What is to be sent next, and not before `sends_at`.
        self.changes: list[JobChange] = []
        self.missed_count = 0
        self.tables: set[str] = set()
        self.sends_at = 0

    @property
    def has_news(self) -> bool:
        """
        Whether there is something to be sent.
        """
        return bool(self.changes or self.missed_count or self.tables)

    def wants(self, job: Job, record: Record | None, state: State) -> bool:
        """
        Whether what a record says of *job*, or without one that it was forgotten, passes the
        filters. That the job exists for the watcher is seen to before.
        """
        return (
            (self._numbers is None or job.number in self._numbers)
            and (not self._states or _state_after(job, record) in self._states)
            and self._queue in (None, job.queue.name)
            and (self._user is None or state.spec(job).user == self._user)
        )


class Watchers:
    """
    All of them. `reply(client, response)` holds back what a crash could undo, `send` does not;
    `may_stream(client)` is the server's.
    """

    def __init__(
        self,
        state: State,
        now: Callable[[], int],
        reply: Callable[[int, Any], None],
        send: Callable[[int, Any], None],
        may_stream: Callable[[int], bool | None],
    ) -> None:
        self._state = state
        self._now = now
        self._reply = reply
        self._send = send
        self._may_stream = may_stream
        self._watchers: list[Watcher] = []
        #: Those for whom every job exists, and for each account those for whom only its own do: who
        #: watches costs nothing when others' jobs change.
        self._admins: list[Watcher] = []
        self._of_account: dict[int | None, list[Watcher]] = {}

    def open(self, effect: WatchJobs) -> None:
        """
        Begin a watch, and say so.
        """
        watcher = Watcher(effect)
        message = self._too_many(watcher)
        if message is not None:
            refused = Refused(call=watcher.call, code="try_later", message=message)
            self._reply(watcher.client, refused)
            return
        self._watchers.append(watcher)
        self._sort()
        self._send(watcher.client, Changed(call=watcher.call))

    def _too_many(self, watcher: Watcher) -> str | None:
        if len(self._watchers) >= WATCHERS_MAX:
            return f"the queue is watched {WATCHERS_MAX} times, the most there may be"
        uid = watcher.peer.uid
        own_count = sum(each.peer.uid == uid for each in self._watchers)
        if watcher.peer.admin or own_count < USER_WATCHERS_MAX:
            return None
        return f"your account watches the queue {USER_WATCHERS_MAX} times, the most it may"

    def client_gone(self, client: int) -> None:
        """
        A connection ended: nobody watches there any more.
        """
        remaining = [each for each in self._watchers if each.client != client]
        if len(remaining) < len(self._watchers):
            self._watchers = remaining
            self._sort()

    def _sort(self) -> None:
        self._admins = [each for each in self._watchers if each.peer.admin]
        self._of_account = {}
        for watcher in self._watchers:
            if not watcher.peer.admin:
                self._of_account.setdefault(watcher.peer.uid, []).append(watcher)

    def tell(self, records: Iterable[Record]) -> None:
        """
        Take note of facts that are on disk now, in the order in which they were written.
        """
        if not self._watchers:
            return
        jobs = self._state.jobs
        for record in records:
            table = TABLES.get(type(record))
            if table is not None:
                for watcher in self._watchers:
                    watcher.tables.add(table)
                continue
            number = getattr(record, "number", None)
            # What led to a job's being forgotten in the same batch is not told: that it is, is.
            job = None if number is None or type(record) is JobForgotten else jobs.get(number)
            if job is not None:
                self._note(job, record)

    def forgotten(self, effect: TellForgotten) -> None:
        """
        Take note of jobs that the queue does not know any more.
        """
        for job in effect.jobs if self._watchers else ():
            self._note(job, None)

    def _note(self, job: Job, record: Record | None) -> None:
        """
        Keep or count for everybody who wants it what a record says of a job, or, without one, that
        it was forgotten. What is kept is made once.
        """
        change = None
        for watcher in (*self._admins, *self._of_account.get(job.owner, ())):
            if len(watcher.changes) >= CHANGES_MAX:
                watcher.missed_count += 1
                continue
            if not watcher.wants(job, record, self._state):
                continue
            if change is None:
                spec = self._state.spec(job)
                if record is None:
                    change = forgotten(job, spec, self._now())
                else:
                    change = change_of(record, job, spec)
            watcher.changes.append(change)

    def next_deadline(self) -> int | None:
        """
        When to call attend(), if anybody is to be sent something.
        """
        if not self._watchers:
            return None
        return earliest(*[each.sends_at for each in self._watchers if each.has_news])

    def attend(self, now: int) -> None:
        """
        Send what is due.
        """
        for watcher in list(self._watchers):
            if watcher.has_news and now >= watcher.sends_at:
                self._send_news(watcher, now)

    def _send_news(self, watcher: Watcher, now: int) -> None:
        may_stream = self._may_stream(watcher.client)
        if may_stream is None:
            self._watchers.remove(watcher)
            self._sort()
            return
        if not may_stream:
            watcher.missed_count += len(watcher.changes)
            watcher.changes = []
            watcher.sends_at = now + SLOW_MS
            return
        changed = Changed(
            call=watcher.call,
            changes=watcher.changes,
            missed_count=watcher.missed_count,
            tables=sorted(watcher.tables),
        )
        watcher.changes, watcher.missed_count, watcher.tables = [], 0, set()
        watcher.sends_at = now + WINDOW_MS
        self._send(watcher.client, changed)


def _state_after(job: Job, record: Record | None) -> JobState:
    return job.state if record is None else state_after(record)
