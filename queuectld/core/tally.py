"""
Counts and histograms: what is added up, and how. The words are those of queuectl/measures.py.

A histogram is a list of counts beside a tuple of bounds, one more of them than bounds: a value is
counted under the first bound that it does not exceed, the largest ones at the end.
"""

from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct

#: Of waits and runs: from what nobody notices to a day. Series in a monitoring system are what
#: each bound costs.
SPAN_BOUNDS_MS = (
    *(10, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000),
    *(60_000, 300_000, 1_800_000, 7_200_000, 86_400_000),
)
_COUNTED = (
    *("started", "retried", "completed", "failed", "dead", "cancelled", "lost"),
    *("forgotten", "wait_sum_ms", "run_sum_ms"),
)


class Histogram:
    """
    Values by size, and their sum.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def add(self, value: float) -> None:
        """
        Count a value.
        """
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally(Struct):
    """
    What happened to the jobs of one account in one queue. Histograms are empty until there is a
    value.
    """

    started: int = 0
    retried: int = 0
    completed: int = 0
    failed: int = 0
    dead: int = 0
    cancelled: int = 0
    lost: int = 0
    forgotten: int = 0
    wait_counts: list[int] = []
    wait_sum_ms: int = 0
    run_counts: list[int] = []
    run_sum_ms: int = 0

    def add_wait(self, span_ms: int) -> None:
        """
        Count how long a job was pending before it was started.
        """
        self.wait_counts = self.wait_counts or _no_counts()
        self.wait_counts[bisect_left(SPAN_BOUNDS_MS, span_ms)] += 1
        self.wait_sum_ms += span_ms

    def add_run(self, span_ms: int) -> None:
        """
        Count how long an attempt ran.
        """
        self.run_counts = self.run_counts or _no_counts()
        self.run_counts[bisect_left(SPAN_BOUNDS_MS, span_ms)] += 1
        self.run_sum_ms += span_ms

    def add(self, other: "Tally") -> None:
        """
        Add all of another tally.
        """
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.wait_counts = _added(self.wait_counts, other.wait_counts)
        self.run_counts = _added(self.run_counts, other.run_counts)


def _no_counts() -> list[int]:
    return [0] * (len(SPAN_BOUNDS_MS) + 1)


def _added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    if one and other:
        return [a + b for a, b in zip(one, other, strict=True)]
    return list(one or other)
