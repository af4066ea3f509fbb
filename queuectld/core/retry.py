"""
When a failed job is tried again.
"""

import math
from collections.abc import Callable


def backoff_ms(
    attempts: int, base: float, longest_ms: int, jitter: float, random: Callable[[], float]
) -> int:
    """
    Return the wait before the next attempt, in ms: base ** attempts seconds, at most *longest_ms*.

    *attempts* are those made, at least 1. *jitter* is the largest random part that is added, as a
    fraction of the wait; it spreads jobs that failed together and may pass *longest_ms* by that.
    """
    if longest_ms == 0:
        return 0
    # Compared as logarithms: base ** attempts may be far beyond what a float holds.
    if base > 1 and attempts * math.log(base) >= math.log(longest_ms / 1000):
        wait = float(longest_ms)
    else:
        wait = min(base**attempts * 1000, longest_ms)
    if jitter:
        wait *= 1 + jitter * random()
    return round(wait)
