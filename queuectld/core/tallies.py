"""
What happened since the daemon started, by queue and account, and by the minute.

None of it is durable: totals begin anew with each daemon, as monitoring systems expect, and the
minutes before it are put together from the jobs that are still known (history.py).

Theory. Between two events the state does not change. So a minute is not closed when it is over but
by the first event after it, which finds the state as it was at the minute's end. And enqueued jobs,
which are most of what happens, are not counted at all: as many were enqueued as there are more jobs
than before, and as were forgotten meanwhile. What is left to count, starts and ends of attempts,
goes into the tally of the minute, and from there, when the minute is over, into the totals.

Only so many pairs of queue and account have totals of their own, those that came first; all other
queues of an account share one. Which of the two a pair has never changes, so no total ever shrinks.
"""

from collections.abc import Mapping

from queuectl.measures import HISTORY_MINUTES_MAX, MINUTE_MS, OTHER_QUEUES, SERIES_MAX
from queuectl.views import JobState, RunEnd
from queuectld.core.history import UNTIMED_ENDS, Bucket, History, Minute, Owner, Rebuilt, minute_of
from queuectld.core.job import Job
from queuectld.core.state import State
from queuectld.core.tally import Tally

#: A queue's name and an account.
Pair = tuple[str, Owner]


class Total(Tally):
    """
    A tally since the daemon started, when there were `jobs_before`.
    """

    jobs_before: int = 0


class Tallies:
    """
    All that is counted. Told by Queue what happens; begin() and end_minutes() before each event.
    """

    def __init__(self) -> None:
        #: When to call end_minutes().
        self.minute_ends_at = 0
        self.history = History()
        self.started_at = 0
        self.known_since_at = 0
        self.totals: dict[Pair, Total] = {}
        self._own_count = 0
        #: Of the minute that is not over.
        self._minute_at = 0
        self._recent: dict[Pair, Tally] = {}
        #: The same minute, before the daemon started.
        self._earlier: Mapping[Owner, Bucket] = {}
        #: How many jobs each account had when the minute began.
        self._jobs_before: dict[Owner, int] = {}

    # --- what happens -----------------------------------------------------------------------

    def started(self, job: Job, now: int) -> None:
        """
        An attempt of a pending job is about to start.
        """
        tally = self._tally(job)
        tally.started += 1
        if job.attempt:
            tally.retried += 1
        tally.add_wait(now - job.updated_at)

    def ended(self, job: Job, end: RunEnd, state: JobState, span_ms: int) -> None:
        """
        The running attempt of a job ended, which is *state* now.
        """
        tally = self._tally(job)
        if state == "completed":
            tally.completed += 1
        elif state == "dead":
            tally.dead += 1
        elif state == "cancelled":
            tally.cancelled += 1
        else:
            tally.failed += 1
        if end == "lost":
            tally.lost += 1
        if end not in UNTIMED_ENDS:
            tally.add_run(span_ms)

    def cancelled(self, job: Job) -> None:
        """
        A job that did not run was cancelled.
        """
        self._tally(job).cancelled += 1

    def forgotten(self, job: Job) -> None:
        """
        A job left the history.
        """
        self._tally(job).forgotten += 1

    def _tally(self, job: Job) -> Tally:
        pair = (job.queue.name, job.owner)
        tally = self._recent.get(pair)
        if tally is None:
            if not self.has_own(pair):
                pair = (OTHER_QUEUES, job.owner)
                tally = self._recent.get(pair)
            if tally is None:
                tally = self._recent[pair] = Tally()
        return tally

    # --- totals -----------------------------------------------------------------------------

    def has_own(self, pair: Pair) -> bool:
        """
        Whether a pair has totals of its own; it is given some if there is room.
        """
        if pair in self.totals:
            return True
        if self._own_count >= SERIES_MAX:
            return False
        self._own_count += 1
        self.totals[pair] = Total()
        return True

    @property
    def has_room(self) -> bool:
        """
        Whether one more pair can have totals of its own.
        """
        return self._own_count < SERIES_MAX

    def total(self, pair: Pair) -> Total:
        """
        Return what happened until now, and `jobs_before`.
        """
        total = Total()
        if pair in self.totals:
            total.add(self.totals[pair])
            total.jobs_before = self.totals[pair].jobs_before
        if pair in self._recent:
            total.add(self._recent[pair])
        return total

    @property
    def users_known_since_at(self) -> int:
        """
        Since when the minutes of single accounts are known, as `known_since_at` is of all.
        """
        return max(self.known_since_at, self.history.users_since_at)

    # --- minutes ----------------------------------------------------------------------------

    def end_minutes(self, state: State, now: int) -> None:
        """
        Close what is over at *now*, as *state* is: nothing happened since. The first time, begin.
        """
        at = now - now % MINUTE_MS
        if not self.started_at:
            self._begin(state, at, now)
        else:
            self._close(state, at)
        self._jobs_before = {
            owner: sum(share.counts.values()) for owner, share in state.shares.by_owner.items()
        }
        self._minute_at = at
        self.minute_ends_at = at + MINUTE_MS

    def current(self, state: State) -> Minute:
        """
        Return the minute that is not over, as it is so far.
        """
        buckets = _standing(state)
        for owner, bucket in self._earlier.items():
            buckets.setdefault(owner, Bucket()).merge(bucket)
        for (_, owner), tally in self._recent.items():
            bucket = buckets.setdefault(owner, Bucket())
            bucket.add(tally)
            bucket.enqueued += tally.forgotten
        for owner, share in state.shares.by_owner.items():
            more = sum(share.counts.values()) - self._jobs_before.get(owner, 0)
            if more:
                buckets.setdefault(owner, Bucket()).enqueued += more
        return minute_of(self._minute_at, buckets)

    def _close(self, state: State, at: int) -> None:
        history = self.history
        if at - self._minute_at > HISTORY_MINUTES_MAX * MINUTE_MS:
            history.clear()  # In the last day nothing happened.
            self._minute_at = at - HISTORY_MINUTES_MAX * MINUTE_MS
            history.append(minute_of(self._minute_at, _standing(state)))
        else:
            history.append(self.current(state))
        idle = minute_of(at, _standing(state))
        for idle_at in range(self._minute_at + MINUTE_MS, at, MINUTE_MS):
            history.append(Minute(idle_at, idle.whole, idle.by_owner))
        for pair, tally in self._recent.items():
            self.totals.setdefault(pair, Total()).add(tally)
        self._recent.clear()
        self._earlier = {}

    def _begin(self, state: State, at: int, now: int) -> None:
        self.started_at = now
        first_at = at - HISTORY_MINUTES_MAX * MINUTE_MS
        rebuilt = Rebuilt(state, first_at)
        self.known_since_at = rebuilt.known_since_at
        for minute_at in range(first_at, at, MINUTE_MS):
            self.history.append(minute_of(minute_at, rebuilt.take(minute_at)))
        self._earlier = rebuilt.take(at)
        for queue in state.queues.values():
            for owner, counts in queue.counts_of.items():
                count = sum(counts.values())
                pair = (queue.name, owner)
                if not self.has_own(pair):
                    pair = (OTHER_QUEUES, owner)
                self.totals.setdefault(pair, Total()).jobs_before += count


def _standing(state: State) -> dict[Owner, Bucket]:
    """
    Return the buckets of a minute in which nothing happens: the jobs that are there.
    """
    return {
        owner: Bucket(pending=share.counts["pending"], processing=share.counts["processing"])
        for owner, share in state.shares.by_owner.items()
        if share.counts["pending"] or share.counts["processing"]
    }
