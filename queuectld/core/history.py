"""
The last day by the minute, for charts.

Minutes follow each other without a gap. Each has a bucket for all jobs, and one for each account
that had something to tell in it. Together there are only so many of the latter: when there are
more, the earliest minutes keep what is of all jobs, and lose what is of accounts.

What was before the daemon started is put together from the jobs that it still knows, the latest of
them: a start must not take longer for the charts' sake. What their attempts waited for is known of
the first ones only, and whether a job was held meanwhile is not.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from heapq import merge

from msgspec import Struct
from msgspec.msgpack import Decoder

from queuectl.measures import HISTORY_MINUTES_MAX, MINUTE_MS
from queuectl.views import JobState
from queuectld.core.job import Job, Run
from queuectld.core.state import State
from queuectld.core.tally import Tally

# Buckets of accounts in all: a day of 14 that always have jobs, an hour of 300. 10 MB at most.
USER_BUCKETS_MAX = 20_000
# Jobs that are looked at for what was before the start, twice: those enqueued last, and those that
# ended last. It takes about 0.05 s of a start for the former, 0.2 s for the latter.
REBUILD_JOBS_MAX = 50_000
# The states of jobs that have made an attempt lately, or were cancelled.
_LATELY: tuple[JobState, ...] = (
    *("processing", "failed", "held"),
    *("completed", "dead", "cancelled"),
)

Owner = int | None


class Bucket(Tally):
    """
    One minute: what happened, and the jobs that were pending and processing at its end.
    """

    __slots__ = ("enqueued", "pending", "processing")

    def __init__(self, pending: int = 0, processing: int = 0) -> None:
        super().__init__()
        self.enqueued = 0
        self.pending = pending
        self.processing = processing

    def merge(self, other: "Bucket") -> None:
        """
        Add all of another bucket.
        """
        self.add(other)
        self.enqueued += other.enqueued
        self.pending += other.pending
        self.processing += other.processing


#: A minute without jobs.
NOTHING = Bucket()


class Minute(Struct):
    """
    Begins at *at*, a whole minute.
    """

    at: int
    whole: Bucket
    by_owner: Mapping[Owner, Bucket]


def minute_of(at: int, by_owner: Mapping[Owner, Bucket]) -> Minute:
    """
    Return a minute with the sum over its accounts.
    """
    if len(by_owner) <= 1:
        whole = next(iter(by_owner.values()), NOTHING)
    else:
        whole = Bucket()
        for bucket in by_owner.values():
            whole.merge(bucket)
    return Minute(at, whole, by_owner)


class History:
    """
    The minutes that are over.
    """

    def __init__(self) -> None:
        self.minutes: deque[Minute] = deque()
        #: How many at the front have lost their accounts' buckets.
        self._stripped_count = 0
        self._user_bucket_count = 0

    @property
    def users_since_at(self) -> int:
        """
        Begin of the first minute that has its accounts' buckets; 0 if all have.
        """
        return self.minutes[self._stripped_count].at if self._stripped_count else 0

    def append(self, minute: Minute) -> None:
        """
        Add the next minute; what is older than a day goes.
        """
        assert not self.minutes or minute.at == self.minutes[-1].at + MINUTE_MS
        self.minutes.append(minute)
        self._user_bucket_count += len(minute.by_owner)
        while self._user_bucket_count > USER_BUCKETS_MAX:
            stripped = self.minutes[self._stripped_count]
            self._user_bucket_count -= len(stripped.by_owner)
            stripped.by_owner = {}
            self._stripped_count += 1
        if len(self.minutes) > HISTORY_MINUTES_MAX:
            self._user_bucket_count -= len(self.minutes.popleft().by_owner)
            self._stripped_count = max(self._stripped_count - 1, 0)

    def clear(self) -> None:
        """
        Forget all minutes.
        """
        self.minutes.clear()
        self._stripped_count = self._user_bucket_count = 0


# --- what was before the start ------------------------------------------------------------------


class _Begin(Struct, array_like=True):
    """
    The first fields of a JobEnqueued: all of a job that is needed here, much cheaper to decode.
    """

    number: int
    at: int
    state: str
    due_at: int


_begin = Decoder(_Begin).decode


def latest_changed(state: State) -> Iterator[Job]:
    """
    Yield the jobs that are in those states, those that came into theirs last first.
    """
    lines = [map(state.jobs.__getitem__, reversed(state.members[each])) for each in _LATELY]
    return merge(*lines, key=lambda job: job.updated_at, reverse=True)


class Gathered(Bucket):
    """
    A minute whose waits and runs, ms each, are not in its histograms yet.
    """

    __slots__ = ("runs", "waits")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[int] = []
        self.runs: list[int] = []

    def sort(self) -> None:
        """
        Put them there.
        """
        self.add_waits(self.waits)
        self.add_runs(self.runs)
        self.waits, self.runs = [], []


class Rebuilt:
    """
    What is still known of the minutes from *first_at* on.

    `known_since_at` is where the jobs that were looked at end.
    """

    def __init__(self, state: State, first_at: int) -> None:
        self._first_at = first_at
        self._minutes: dict[int, dict[Owner, Gathered]] = {}
        self.known_since_at = first_at
        self._look_at_enqueued(state)
        self._look_at_runs(state)

    def take(self, at: int) -> dict[Owner, Bucket]:
        """
        Return the buckets of the minute that begins at *at*.
        """
        buckets = self._minutes.pop(at, {})
        for bucket in buckets.values():
            bucket.sort()
        return dict(buckets)

    def _bucket(self, at: int, owner: Owner) -> Gathered:
        buckets = self._minutes.setdefault(at - at % MINUTE_MS, {})
        bucket = buckets.get(owner)
        if bucket is None:
            bucket = buckets[owner] = Gathered()
        return bucket

    def _look_at_enqueued(self, state: State) -> None:
        """
        Numbers are given in the order of time.
        """
        counts: Counter[tuple[int, Owner]] = Counter()
        for count, job in enumerate(state.newest_first()):
            at = _begin(job.spec).at
            if at < self._first_at:
                break
            if count == REBUILD_JOBS_MAX:
                self.known_since_at = max(self.known_since_at, at)
                break
            counts[at // MINUTE_MS, job.owner] += 1
        for (minute, owner), count in counts.items():
            self._bucket(minute * MINUTE_MS, owner).enqueued = count

    def _look_at_runs(self, state: State) -> None:
        for count, job in enumerate(latest_changed(state)):
            if job.updated_at < self._first_at:
                return
            if count == REBUILD_JOBS_MAX:
                self.known_since_at = max(self.known_since_at, job.updated_at)
                return
            ends = [run.end for run in job.runs or ()]
            if job.state == "cancelled" and ends[-1:] != ["cancelled"]:
                self._bucket(job.updated_at, job.owner).cancelled += 1
            for run in job.runs or ():
                if run.started_at >= self._first_at:
                    self._started(job, run)
                if run.ended_at >= self._first_at:
                    self._ended(job, run)

    def _started(self, job: Job, run: Run) -> None:
        bucket = self._bucket(run.started_at, job.owner)
        bucket.started += 1
        if run.attempt > 1:
            bucket.retried += 1
        else:
            begin = _begin(job.spec)
            bucket.waits.append(max(run.started_at - max(begin.at, begin.due_at), 0))

    def _ended(self, job: Job, run: Run) -> None:
        bucket = self._bucket(run.ended_at, job.owner)
        last = job.runs is not None and run is job.runs[-1]
        if run.end == "cancelled":
            bucket.cancelled += 1
        elif last and job.state == "completed":
            bucket.completed += 1
        elif last and job.state == "dead":
            bucket.dead += 1
        else:
            bucket.failed += 1
        if run.end == "lost":
            bucket.lost += 1
        elif run.end != "could_not_start":
            bucket.runs.append(max(run.ended_at - run.started_at, 0))
