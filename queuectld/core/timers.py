"""
The jobs that wait for a time: a heap of (time, number), packed into one integer.

Entries whose job was moved meanwhile stay until they surface; the caller says which are stale.
"""

import heapq
from collections.abc import Callable, Iterable

_NUMBER_BITS = 48
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1


def earliest(*times: int | None) -> int | None:
    """
    Return the earliest of these times; None stands for none.

    The loop asks this each time before it sleeps; min() over a generator takes three times as long.
    """
    found = None
    for at in times:
        if at is not None and (found is None or at < found):
            found = at
    return found


class Timers:
    """
    A heap of times in ms since the epoch.
    """

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[int] = []

    def __len__(self) -> int:
        """
        Entries, the stale ones included.
        """
        return len(self._heap)

    def push(self, at: int, number: int) -> None:
        """
        Add a job with its time.
        """
        heapq.heappush(self._heap, at << _NUMBER_BITS | number)

    def head(self, is_live: Callable[[int, int], bool]) -> tuple[int, int] | None:
        """
        Return the earliest live (at, number), dropping the stale ones before it. None if empty.
        """
        heap = self._heap
        while heap:
            at, number = heap[0] >> _NUMBER_BITS, heap[0] & _NUMBER_MASK
            if is_live(at, number):
                return at, number
            heapq.heappop(heap)
        return None

    def pop(self) -> None:
        """
        Remove the earliest entry, the one that head() returned, and its repeats: a job that left
        and came back at the same time has an entry for each, and all of them are live.
        """
        entry = heapq.heappop(self._heap)
        while self._heap and self._heap[0] == entry:
            heapq.heappop(self._heap)

    def rebuild(self, is_live: Callable[[int, int], bool]) -> None:
        """
        Drop every stale entry, and the repeats of live ones.
        """
        entries = set(self._heap)
        self._heap = [
            entry for entry in entries if is_live(entry >> _NUMBER_BITS, entry & _NUMBER_MASK)
        ]
        heapq.heapify(self._heap)

    def entries(self) -> Iterable[tuple[int, int]]:
        """
        Yield every (at, number), in no order, the stale ones included.
        """
        return ((entry >> _NUMBER_BITS, entry & _NUMBER_MASK) for entry in self._heap)
