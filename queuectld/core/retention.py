"""
Which finished jobs leave the history by themselves: completed and cancelled ones that are too old
or too many, those that finished first before the others. Dead ones stay.
"""

from queuectld.core.job import Job
from queuectld.core.state import State


def next_expiry(state: State) -> int | None:
    """
    Return when the next job leaves, ms since the epoch; 0 for at once.
    """
    head = state.finished.head(state.is_finished)
    if head is None:
        return None
    if state.expiring_count > state.setting("retention_count"):
        return 0
    return head[0] + int(state.setting("retention"))


def take_expired(state: State, now: int, count_max: int) -> list[Job]:
    """
    Take the jobs that are to leave now out of the line of finished ones.
    """
    expired: list[Job] = []
    excess = state.expiring_count - state.setting("retention_count")
    oldest_at = now - state.setting("retention")
    while len(expired) < count_max:
        head = state.finished.head(state.is_finished)
        if head is None or (head[0] > oldest_at and len(expired) >= excess):
            break
        state.finished.pop()
        expired.append(state.jobs[head[1]])
    return expired
