"""
Slots: permissions to have one run at a time. People call them workers.
"""

import heapq
import itertools
from collections.abc import Mapping

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

    def set(self, taking: Mapping[int, int], draining: Mapping[int, int]) -> None:
        """
        Make *taking* the slots that take jobs: number -> since_at. Of the others, also those in
        *draining*, only the busy ones stay, until their job ends.
        """
        busy = {slot.number: slot for slot in self.by_number.values() if slot.job}
        self.by_number.clear()
        for number, since_at in sorted(taking.items()):
            job = busy[number].job if number in busy else 0
            self.by_number[number] = Slot(number, since_at, job)
        for number in sorted(busy.keys() - taking.keys()):
            since_at = draining.get(number, busy[number].since_at)
            self.by_number[number] = Slot(number, since_at, busy[number].job, draining=True)
        self._idle = [number for number in sorted(taking) if number not in busy]

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

    def free_numbers(self, count: int) -> list[int]:
        """
        Return the *count* lowest numbers that no slot has.
        """
        candidates = (number for number in itertools.count(1) if number not in self.by_number)
        return list(itertools.islice(candidates, count))
