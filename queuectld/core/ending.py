"""
What the end of an attempt is called, and what is said about it.
"""

import signal

from queuectl.views import JobState, RunEnd
from queuectld.core.events import RunExited
from queuectld.core.job import Run, Stop
from queuectld.core.records import RunEnded


def end_of(stop: Stop | None, event: RunExited) -> RunEnd:
    """
    Return how an attempt ended that may have been asked to stop.

    One that was to stop for its timeout, and whose end nobody saw, is lost like any other: nobody
    knows that it stopped. A cancelled job runs no more in either case, so it is what was asked for.
    """
    seen = event.exit_code is not None or event.signal is not None
    if stop is not None and (seen or stop.why == "cancelled"):
        return stop.why
    if not seen:
        return "lost"
    return "exited" if event.signal is None else "signalled"


def describe_end(end: RunEnd, event: RunExited, span_ms: int) -> str | None:
    """
    Return in words what went wrong with an attempt; None if nothing did.
    """
    if end == "lost":
        return "lost: nobody saw how it ended"
    if end == "timeout":
        return f"timed out after {span_ms / 1000:.1f} s"
    if end == "cancelled":
        return "cancelled"
    if event.signal is not None:
        try:
            name = f" ({signal.Signals(event.signal).name})"
        except ValueError:
            name = ""
        return f"killed by signal {event.signal}{name}"
    if event.exit_code == 127:
        return "exit code 127 (command not found)"
    if event.exit_code == 126:
        return "exit code 126 (found but not executable)"
    return f"exit code {event.exit_code}" if event.exit_code else None


def ended(
    number: int,
    run: Run,
    now: int,
    end: RunEnd,
    outcome: tuple[JobState, int, int],
    event: RunExited,
    error: str | None,
) -> RunEnded:
    """
    Return the record of how a job's running attempt ended. *outcome* is what becomes of the job:
    its state, when it is due again, and the attempts that no longer count.
    """
    state, due_at, attempts_before = outcome
    # In the order of the fields: by name, so many cost more than to encode them.
    return RunEnded(
        number,
        now,
        run.attempt,
        run.slot,
        run.started_at,
        end,
        state,
        due_at,
        attempts_before,
        event.exit_code,
        event.signal,
        error,
        event.user_ms,
        event.system_ms,
        event.memory_max_bytes,
    )
