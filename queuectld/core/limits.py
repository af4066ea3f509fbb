"""
Slots: permissions to have one run at a time. People call them workers.
"""

import heapq
from collections.abc import Iterable

from msgspec import Struct


class Slot(Struct):
    """
    One slot. `job` is the number of the job that runs in it, 0 if none.
    """

    number: int
    since_at: int
    job: int = 0
    draining: bool = False


class Slots:
    """
    All slots, by number. A slot that was taken away while busy drains: it goes with its job.
    """

    def __init__(self) -> None:
        self.by_number: dict[int, Slot] = {}
        #: Whether the slots were last changed by hand, not by the setting.
        self.by_hand = False
        #: Numbers of idle slots, lowest first; and stale ones.
        self._idle: list[int] = []

    def set(self, numbers: Iterable[int], at: int) -> None:
        """
        Make *numbers* the slots that take jobs.
        """
        wanted = set(numbers)
        for slot in list(self.by_number.values()):
            slot.draining = slot.number not in wanted
            if slot.draining and not slot.job:
                del self.by_number[slot.number]
        for number in sorted(wanted):
            slot = self.by_number.setdefault(number, Slot(number, at))
            if not slot.job:
                heapq.heappush(self._idle, number)

    def first_idle(self) -> int | None:
        """
        Return the lowest idle slot's number, if any slot is idle.
        """
        while self._idle:
            slot = self.by_number.get(self._idle[0])
            if slot is not None and not slot.job and not slot.draining:
                return slot.number
            heapq.heappop(self._idle)
        return None

    def occupy(self, number: int, job: int, at: int) -> None:
        """
        Put a job into a slot. One that is not there any more is there again, draining.
        """
        slot = self.by_number.get(number)
        if slot is None:
            slot = self.by_number[number] = Slot(number, at, draining=True)
        slot.job = job

    def free(self, number: int, job: int) -> None:
        """
        Take a job out of a slot, if it is in it.
        """
        slot = self.by_number.get(number)
        if slot is None or slot.job != job:
            return
        slot.job = 0
        if slot.draining:
            del self.by_number[number]
        else:
            heapq.heappush(self._idle, number)

    def numbers(self) -> list[int]:
        """
        Return the numbers of the slots that take jobs, ascending.
        """
        return sorted(slot.number for slot in self.by_number.values() if not slot.draining)

    def with_added(self, count: int) -> list[int]:
        """
        Return numbers() and the *count* lowest numbers that no slot has.
        """
        numbers = self.numbers()
        candidate = 1
        for _ in range(count):
            while candidate in self.by_number:
                candidate += 1
            numbers.append(candidate)
            candidate += 1
        return sorted(numbers)
