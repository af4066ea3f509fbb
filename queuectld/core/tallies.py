"""
What happened since the daemon started, by queue and account, and by the minute.

None of it is durable: totals begin anew with each daemon, as monitoring systems expect, and the
minutes before it are put together from the jobs that are still known (history.py).

Theory. Between two events the state does not change. So a minute is not closed when it is over but
by the first event after it, which finds the state as it was at the minute's end. And enqueued jobs,
which are most of what happens, are not counted at all: as many were enqueued as there are more jobs
than before, and as were forgotten meanwhile. What is left, starts and ends of attempts, is noted as
it comes, and sorted into histograms all at once when the minute is over or somebody asks, which
takes half the time.

Only so many pairs of queue and account have totals of their own, those that came first; all other
queues of an account share one. Which of the two a pair has never changes, so no total ever shrinks.
"""

from queuectl.measures import HISTORY_MINUTES_MAX, MINUTE_MS, OTHER_QUEUES, SERIES_MAX
from queuectl.views import JobState, RunEnd
from queuectld.core.history import Bucket, History, Minute, Owner, Rebuilt, minute_of
from queuectld.core.job import Job, NamedQueue
from queuectld.core.state import State
from queuectld.core.tally import Tally

#: A queue's name and an account.
Pair = tuple[str, Owner]


class Total(Tally):
    """
    A tally since the daemon started, when there were `jobs_before`.
    """

    __slots__ = ("jobs_before",)

    def __init__(self) -> None:
        super().__init__()
        self.jobs_before = 0


class Recent:
    """
    What is in no total yet of a queue and account: waits and runs, ms each, and counts.
    """

    __slots__ = (
        "cancelled",
        "completed",
        "dead",
        "failed",
        "forgotten",
        "lost",
        "retried",
        "runs",
        "waits",
    )

    def __init__(self) -> None:
        self.waits: list[int] = []
        self.runs: list[int] = []
        self.completed = self.failed = self.dead = self.cancelled = 0
        self.retried = self.lost = self.forgotten = 0

    def tally(self) -> Tally:
        """
        Return the same, counted.
        """
        tally = Tally()
        tally.started = len(self.waits)
        tally.retried = self.retried
        tally.completed = self.completed
        tally.failed = self.failed
        tally.dead = self.dead
        tally.cancelled = self.cancelled
        tally.lost = self.lost
        tally.forgotten = self.forgotten
        tally.add_waits(self.waits)
        tally.add_runs(self.runs)
        return tally


class Tallies:
    """
    All that is counted. Queue says what happens, and calls end_minutes() before each event for
    which `minute_ends_at` has come.
    """

    def __init__(self) -> None:
        self.minute_ends_at = 0
        self.history = History()
        self.started_at = 0
        self.known_since_at = 0
        self.totals: dict[Pair, Total] = {}
        #: How many of them are a pair's own.
        self._own_count = 0
        #: What is in no total and no minute yet.
        self._recent: dict[NamedQueue, dict[Owner, Recent]] = {}
        #: The minute that is not over: its begin, what happened in it, but for enqueued jobs since
        #: the daemon started, and how many jobs each account had when it began, or the daemon did.
        self._minute_at = 0
        self._minute: dict[Owner, Bucket] = {}
        self._jobs_before: dict[Owner, int] = {}

    # --- what happens -----------------------------------------------------------------------

    def started(self, job: Job, now: int) -> None:
        """
        An attempt of a pending job is about to start.
        """
        recent = self._recent_of(job)
        recent.waits.append(now - job.updated_at)
        if job.runs:
            recent.retried += 1

    def ended(self, job: Job, end: RunEnd, state: JobState, span_ms: int) -> None:
        """
        The running attempt of a job ended, which is to be *state*.
        """
        recent = self._recent_of(job)
        if state == "completed":
            recent.completed += 1
        elif state == "dead":
            recent.dead += 1
        elif state == "cancelled":
            recent.cancelled += 1
        else:
            recent.failed += 1
        if end == "lost":
            recent.lost += 1
        elif end != "could_not_start":
            recent.runs.append(span_ms)

    def cancelled(self, job: Job) -> None:
        """
        A job that does not run is about to be cancelled.
        """
        self._recent_of(job).cancelled += 1

    def forgotten(self, job: Job) -> None:
        """
        A job is about to leave the history.
        """
        self._recent_of(job).forgotten += 1

    def _recent_of(self, job: Job) -> Recent:
        try:
            return self._recent[job.queue][job.owner]
        except KeyError:
            recent = self._recent.setdefault(job.queue, {})[job.owner] = Recent()
            return recent

    # --- totals -----------------------------------------------------------------------------

    def settle(self, state: State) -> None:
        """
        Bring the totals up to date, with one for each pair that has jobs, as long as there is room.
        """
        for queue, by_owner in self._recent.items():
            for owner, recent in by_owner.items():
                tally = recent.tally()
                self._total(queue, owner).add(tally)
                bucket = self._minute.setdefault(owner, Bucket())
                bucket.add(tally)
                bucket.enqueued += tally.forgotten
        self._recent.clear()
        if self._own_count < SERIES_MAX:
            for queue in state.queues.values():
                for owner in queue.counts_of:
                    self._total(queue, owner)

    def _total(self, queue: NamedQueue, owner: Owner) -> Total:
        """
        Return the total of a pair: its own if there is room for one.
        """
        pair = (queue.name, owner)
        if pair not in self.totals:
            if self._own_count < SERIES_MAX:
                self._own_count += 1
            else:
                pair = (OTHER_QUEUES, owner)
        return self.totals.setdefault(pair, Total())

    # --- minutes ----------------------------------------------------------------------------

    @property
    def users_known_since_at(self) -> int:
        """
        Since when the minutes of single accounts are known, as `known_since_at` is of all.
        """
        return max(self.known_since_at, self.history.users_since_at)

    def current(self, state: State) -> Minute:
        """
        Return the minute that is not over, as it is so far.
        """
        self.settle(state)
        buckets = _standing(state)
        for owner, bucket in self._minute.items():
            buckets.setdefault(owner, Bucket()).merge(bucket)
        for owner, share in state.shares.by_owner.items():
            more = sum(share.counts.values()) - self._jobs_before.get(owner, 0)
            if more:
                buckets.setdefault(owner, Bucket()).enqueued += more
        return minute_of(self._minute_at, buckets)

    def end_minutes(self, state: State, now: int) -> None:
        """
        Close what is over at *now*, as *state* is: nothing happened since. The first time, begin.
        """
        at = now - now % MINUTE_MS
        if self.started_at:
            self._close(state, at)
            self._minute = {}
        else:
            self._begin(state, at, now)
        self._jobs_before = {
            owner: sum(share.counts.values()) for owner, share in state.shares.by_owner.items()
        }
        self._minute_at = at
        self.minute_ends_at = at + MINUTE_MS

    def _close(self, state: State, at: int) -> None:
        """
        Add the minute that is over to the history, and those after it in which nothing happened.
        """
        history, minute = self.history, self.current(state)
        idle = minute_of(at, _standing(state))
        if at - minute.at <= HISTORY_MINUTES_MAX * MINUTE_MS:
            history.append(minute)
            begin_at = minute.at + MINUTE_MS
        else:
            history.clear()
            begin_at = at - HISTORY_MINUTES_MAX * MINUTE_MS
        for idle_at in range(begin_at, at, MINUTE_MS):
            history.append(Minute(idle_at, idle.whole, idle.by_owner))

    def _begin(self, state: State, at: int, now: int) -> None:
        """
        Put the last day together, and begin to count.
        """
        self.started_at = now
        first_at = at - HISTORY_MINUTES_MAX * MINUTE_MS
        rebuilt = Rebuilt(state, first_at)
        self.known_since_at = rebuilt.known_since_at
        for minute_at in range(first_at, at, MINUTE_MS):
            self.history.append(minute_of(minute_at, rebuilt.take(minute_at)))
        self._minute = rebuilt.take(at)
        for queue in state.queues.values():
            for owner, counts in queue.counts_of.items():
                self._total(queue, owner).jobs_before += sum(counts.values())


def _standing(state: State) -> dict[Owner, Bucket]:
    """
    Return the buckets of a minute in which nothing happens: the jobs that are there.
    """
    return {
        owner: Bucket(share.counts["pending"], share.counts["processing"])
        for owner, share in state.shares.by_owner.items()
        if share.counts["pending"] or share.counts["processing"]
    }
