"""
A line of pending jobs: a heap, larger priority first, first in first out within a priority.

An entry packs (priority, number) into one integer, half the memory and time of a tuple. Entries of
jobs that left the line stay until they surface; the caller says which are stale.
"""

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from queuectl.protocol import PRIORITY_MAX

_NUMBER_BITS = 48
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1


def pack(priority: int, number: int) -> int:
    """
    Return the heap entry: smaller sorts first, so the priority counts down from its maximum.
    """
    return (PRIORITY_MAX - priority) << _NUMBER_BITS | number


def unpack(entry: int) -> tuple[int, int]:
    """
    Return (priority, number).
    """
    return PRIORITY_MAX - (entry >> _NUMBER_BITS), entry & _NUMBER_MASK


class Ready:
    """
    A heap of entries.
    """

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[int] = []

    def __len__(self) -> int:
        """
        Entries, the stale ones included.
        """
        return len(self._heap)

    def push(self, priority: int, number: int) -> int:
        """
        Add a job; return how many entries there are now, the stale ones included.
        """
        # pack(), spelled out: every job that is enqueued or replayed comes by here.
        heappush(self._heap, (PRIORITY_MAX - priority) << _NUMBER_BITS | number)
        return len(self._heap)

    def head(self, is_live: Callable[[int, int], bool]) -> int | None:
        """
        Return the first entry that is live, dropping the stale ones before it. None if empty.
        """
        heap = self._heap
        while heap:
            priority, number = unpack(heap[0])
            if is_live(priority, number):
                return heap[0]
            heappop(heap)
        return None

    def numbers(self) -> list[int]:
        """
        Return the jobs of all entries, in no order, those of stale ones included.
        """
        return [entry & _NUMBER_MASK for entry in self._heap]

    def rebuild(self, entries: Iterable[tuple[int, int]]) -> None:
        """
        Replace all entries by these (priority, number).
        """
        self._heap = [pack(priority, number) for priority, number in entries]
        heapify(self._heap)

    def entries(self) -> Iterable[tuple[int, int]]:
        """
        Yield every (priority, number), in no order, the stale ones included.
        """
        return map(unpack, self._heap)
