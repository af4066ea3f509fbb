"""
The only reader of time.

The queue's time is milliseconds since the epoch, taken from the wall clock once, at the start, and
then carried on by the boot clock, which counts suspended time and which nobody can set. So delays
and timeouts neither jump nor stall when the wall clock is set; what was asked for by wall clock
follows it through ClockStepped. The queue's time never runs backwards, not over a restart either:
it begins no earlier than the latest time in the journal.
"""

import time

# A wall clock that moved by more than this against the queue's time was set; less is drift.
STEP_MS = 1_000


def wall_ms() -> int:
    """
    Return the wall clock in ms since the epoch.
    """
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """
    Return the time since boot in ms, suspended time included.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Clock:
    """
    The queue's time.
    """

    def __init__(self) -> None:
        self._base_ms = wall_ms() - boot_ms()
        self._offset_ms = 0

    def start_no_earlier_than(self, at: int) -> None:
        """
        Move the queue's time forward to *at* if it is behind. Before anything was timed only.
        """
        self._base_ms = max(self._base_ms, at - boot_ms())

    def now(self) -> int:
        """
        Return the queue's time, ms since the epoch.
        """
        return self._base_ms + boot_ms()

    def stepped(self, now: int) -> int | None:
        """
        Return how far the wall clock is ahead of *now*, the queue's time as it was just read, if
        that changed since this was last asked.
        """
        offset_ms = wall_ms() - now
        if abs(offset_ms - self._offset_ms) < STEP_MS:
            return None
        self._offset_ms = offset_ms
        return offset_ms
