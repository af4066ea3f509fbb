"""
What the daemon counts, and how it is asked: totals and histograms for monitoring (GetMetrics), the
last day by the minute for charts (GetHistory).

Totals count from the daemon's start and only grow. Histograms have fixed bounds, which travel with
them: `counts[i]` are the values of at most `bounds[i]`, and above the bound before it; the last one
counts all that are larger. So histograms with the same bounds add up, over minutes, queues and
accounts, and quantile() reads any of these sums.

Both answers show what concerns the asker's own jobs; to an admin, what concerns everybody's.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct

from queuectl.protocol import Message

MINUTE_MS = 60_000
HISTORY_MINUTES_MAX = 24 * 60  # a day: what is older is for a monitoring system
# Pairs of queue and account with totals of their own. Each is some fifty series in a monitoring
# system, for as long as that keeps them; there may be a thousand queues, for each account.
SERIES_MAX = 100
# Accounts whose other queues are told one account at a time, to admins.
SERIES_USERS_MAX = 100
#: What stands for the queues, and the users, that have no totals of their own. No queue can be
#: called this: a name has no space.
OTHER_QUEUES = "other queues"
OTHER_USERS = "other users"


class GetMetrics(Message, frozen=True, tag="metrics_get"):
    """
    Answered by Metrics.
    """


class GetHistory(Message, frozen=True, tag="history_get"):
    """
    The minutes of the last day, and the one that is not over; with `since_at`, those of them that
    ended after it. Answered by History.

    `user` is the account whose jobs it is about; None: all that one may see.
    """

    since_at: int = 0
    user: str | None = None


class HistogramView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    Values by size: `counts` has one more entry than there are bounds.
    """

    bounds: list[float]
    counts: list[int]
    sum: float


class SeriesView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    What one account has in one queue, and what happened there since the daemon started.

    `wait_counts` and `run_counts` are histograms of how long jobs were pending before they were
    started, and attempts ran; their bounds are those of Metrics.
    """

    queue: str
    user: str | None  # None where there is one account only
    jobs: dict[str, int]  # by state
    enqueued: int = 0
    started: int = 0  # attempts
    retried: int = 0  # attempts that were not their job's first
    completed: int = 0
    failed: int = 0  # attempts after which the job is tried again
    dead: int = 0
    cancelled: int = 0
    lost: int = 0  # attempts whose end nobody saw, whatever became of their job
    wait_counts: list[int] = []
    wait_sum_ms: int = 0
    run_counts: list[int] = []
    run_sum_ms: int = 0


class JournalMeasures(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    The journal's size and health, and how long its batches took: milliseconds to write and sync
    one, and records in it.
    """

    size_bytes: int
    segment_count: int
    durability: str
    full: bool
    snapshot_at: int | None
    commits: HistogramView
    batches: HistogramView


class ConnectionMeasures(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    Connections to the control socket: now, and since the daemon started. `refused` is by the code
    of the refusal.
    """

    count: int
    accepted: int
    refused: dict[str, int] = {}


class Metrics(Message, frozen=True, tag="metrics"):
    """
    The daemon in numbers. `turns` are milliseconds in which the loop did not look for what is new.

    `oldest_pending_at` is since when the job waits that waits longest; of very many jobs, only the
    next of each line is looked at.
    """

    version: str
    mode: str
    epoch: int
    started_at: int
    uptime_ms: int
    runner_connected: bool
    series: list[SeriesView]
    span_bounds_ms: list[int]  # of wait_counts and run_counts
    workers: dict[str, int]  # by state
    journal: JournalMeasures
    connections: ConnectionMeasures
    turns: HistogramView
    oldest_pending_at: int | None = None


class MinuteView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    What happened in one minute; the words are those of SeriesView. `pending` and `processing` are
    jobs at its end. In minutes before `counted_since_at` they are 0.
    """

    at: int  # its begin, a whole minute
    enqueued: int = 0
    started: int = 0
    retried: int = 0
    completed: int = 0
    failed: int = 0
    dead: int = 0
    cancelled: int = 0
    lost: int = 0
    pending: int = 0
    processing: int = 0
    wait_counts: list[int] = []  # empty: no attempt started
    wait_sum_ms: int = 0
    run_counts: list[int] = []
    run_sum_ms: int = 0


class History(Message, frozen=True, tag="history"):
    """
    Minutes, oldest first and without a gap; the last one is not over.

    Those before `counted_since_at`, when the daemon started, were put together from the jobs that
    it still knew: of forgotten jobs, and of what happened before `known_since_at`, they lack what
    was.
    """

    minutes: list[MinuteView]
    span_bounds_ms: list[int]
    counted_since_at: int
    known_since_at: int


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """
    Return the value that *share* (above 0, to 1) of a histogram's values do not exceed, taken to
    lie evenly between two bounds; of those above the last bound, that bound. None without values.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    below = 0
    for index, count in enumerate(counts[: len(bounds)]):
        if count and below + count >= rank:
            lower = bounds[index - 1] if index else 0
            return lower + (bounds[index] - lower) * (rank - below) / count
        below += count
    return bounds[-1]


def merge(minutes: Iterable[MinuteView], count: int) -> list[MinuteView]:
    """
    Return spans of *count* minutes each, so that a chart of a day has as many points as it has room
    for. They begin at multiples of that since the epoch: the first and the last may be shorter, and
    those between stay what they are as time goes on.
    """
    spans = groupby(minutes, lambda minute: minute.at // (count * MINUTE_MS))
    return [_sum(list(span)) for _, span in spans]


def _sum(minutes: Sequence[MinuteView]) -> MinuteView:
    if len(minutes) == 1:
        return minutes[0]

    def total(name: str) -> int:
        return sum(getattr(each, name) for each in minutes)

    return MinuteView(
        at=minutes[0].at,
        enqueued=total("enqueued"),
        started=total("started"),
        retried=total("retried"),
        completed=total("completed"),
        failed=total("failed"),
        dead=total("dead"),
        cancelled=total("cancelled"),
        lost=total("lost"),
        pending=minutes[-1].pending,
        processing=minutes[-1].processing,
        wait_counts=add_counts([each.wait_counts for each in minutes]),
        wait_sum_ms=total("wait_sum_ms"),
        run_counts=add_counts([each.run_counts for each in minutes]),
        run_sum_ms=total("run_sum_ms"),
    )


def add_counts(histograms: Sequence[Sequence[int]]) -> list[int]:
    """
    Return the sum of histograms with the same bounds. An empty one has no values.
    """
    return [sum(column) for column in zip(*filter(None, histograms), strict=True)]
