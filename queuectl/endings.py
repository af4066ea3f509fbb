"""
How an attempt ended, in words.
"""

from queuectl.views import JobView, RunView


def ending(run: RunView | JobView) -> str:
    """
    Return how an attempt ended: `exit code 1`, `SIGKILL`, or nothing if it has no such end.
    """
    if run.signal is not None:
        return signal_name(run.signal)
    return "" if run.exit_code is None else f"exit code {run.exit_code}"


def signal_name(number: int) -> str:
    """
    Return a signal's name, for one without a name its number.
    """
    from signal import Signals  # Builds its table when imported.

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
