"""
Counts and histograms: what is added up, and how. The words are those of queuectl/measures.py.

A histogram is a list of counts beside a tuple of bounds, one more of them than bounds: a value is
counted under the first bound that it does not exceed, the largest ones at the end.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from functools import partial
from operator import add

#: Of waits and runs: from what nobody notices to a day. Series in a monitoring system are what
#: each bound costs.
SPAN_BOUNDS_MS = (
    *(10, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000),
    *(60_000, 300_000, 1_800_000, 7_200_000, 86_400_000),
)
_index_of = partial(bisect_left, SPAN_BOUNDS_MS)


class Histogram:
    """
    Values by size, and their sum.
    """

    __slots__ = ("_index_of", "bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0
        self._index_of = partial(bisect_left, bounds)

    def add(self, values: Sequence[float]) -> None:
        """
        Count values.
        """
        self.sum += sum(values)
        for index, count in Counter(map(self._index_of, values)).items():
            self.counts[index] += count


class Tally:
    """
    What happened to the jobs of one account in one queue.
    """

    __slots__ = (
        "cancelled",
        "completed",
        "dead",
        "failed",
        "forgotten",
        "lost",
        "retried",
        "run_counts",
        "run_sum_ms",
        "started",
        "wait_counts",
        "wait_sum_ms",
    )

    def __init__(self) -> None:
        self.completed = self.failed = self.dead = self.cancelled = 0
        self.started = self.retried = self.lost = self.forgotten = 0
        self.wait_counts = [0] * (len(SPAN_BOUNDS_MS) + 1)
        self.wait_sum_ms = 0
        self.run_counts = [0] * (len(SPAN_BOUNDS_MS) + 1)
        self.run_sum_ms = 0

    def add_waits(self, spans_ms: Sequence[int]) -> None:
        """
        Count how long jobs were pending before they were started.
        """
        self.wait_sum_ms += sum(spans_ms)
        for index, count in Counter(map(_index_of, spans_ms)).items():
            self.wait_counts[index] += count

    def add_runs(self, spans_ms: Sequence[int]) -> None:
        """
        Count how long attempts ran.
        """
        self.run_sum_ms += sum(spans_ms)
        for index, count in Counter(map(_index_of, spans_ms)).items():
            self.run_counts[index] += count

    def add(self, other: "Tally") -> None:
        """
        Add all of another tally.
        """
        self.completed += other.completed
        self.failed += other.failed
        self.dead += other.dead
        self.cancelled += other.cancelled
        self.started += other.started
        self.retried += other.retried
        self.lost += other.lost
        self.forgotten += other.forgotten
        self.wait_counts = list(map(add, self.wait_counts, other.wait_counts))
        self.wait_sum_ms += other.wait_sum_ms
        self.run_counts = list(map(add, self.run_counts, other.run_counts))
        self.run_sum_ms += other.run_sum_ms
