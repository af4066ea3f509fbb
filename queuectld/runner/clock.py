"""
Three clocks: one to tell people and records, one to wait by, and the one that stamps processes.
"""

import time


def now_ms() -> int:
    """
    The time, in ms since the epoch. It can be set, and jump.
    """
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """
    A time that only goes forward, in ms since some moment.
    """
    return time.monotonic_ns() // 1_000_000


def boottime_ns() -> int:
    """
    The time since the host was booted, suspend included: what /proc says a process started at.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
