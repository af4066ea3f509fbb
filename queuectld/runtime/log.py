"""
The daemon's log: one event a line on stderr; key=value for a terminal, JSON for a machine. Where
stderr is the system's journal, each event is an entry with fields instead.

A line that cannot be written is lost. The log may be on a full disk or its reader gone; neither is
a reason for the queue to stop, and what the log tells is in the queue's journal too.
"""

import os
import sys
from typing import Any

from msgspec import json

from queuectld.runtime.system_journal import PRIORITIES, JournalLogger, Renderer, sender

# structlog shows tracebacks by rich where that is to be had. Ours are never shown so, and to import
# it is a good part of a start (python -X importtime): so for this moment it is not to be had.
_hides_rich = "rich" not in sys.modules
if _hides_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _hides_rich:
    del sys.modules["rich"]


class LineLogger:
    """
    Writes each event as one line to a descriptor, in one call.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def msg(self, line: str | bytes) -> None:
        """
        Write a line, if it can be written.
        """
        data = line.encode(errors="backslashreplace") if isinstance(line, str) else line
        try:
            os.write(self._fd, data + b"\n")
        except OSError:
            pass

    debug = info = warning = error = critical = msg


class Log:
    """
    The log of this process, which `configure()` sets up. Its level may change while it is used.
    """

    def __init__(self) -> None:
        self._priority_max = PRIORITIES["info"]

    def set_level(self, level: str) -> None:
        """
        Log *level* (debug, info, warning or error) and what is graver.
        """
        self._priority_max = PRIORITIES[level]

    def configure(self) -> Any:
        """
        Set up structlog; return the logger.
        """
        stderr = sys.stderr.fileno()
        send = sender(stderr, os.environ.get("JOURNAL_STREAM", ""))
        factory: Any = lambda *_: LineLogger(stderr)  # noqa: E731
        stamps: list[Any] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ]
        renderer: Any
        if send is not None:
            factory = lambda *_: JournalLogger(send)  # noqa: E731
            renderer, stamps = Renderer(), []
        elif sys.stderr.isatty():
            renderer = structlog.processors.KeyValueRenderer(
                key_order=["timestamp", "level", "event", "job", "attempt"], drop_missing=True
            )
        else:
            renderer = structlog.processors.JSONRenderer(
                serializer=lambda event, **_: json.encode(event)
            )
        structlog.configure(
            processors=[self._drop_lesser, *stamps, renderer],
            wrapper_class=structlog.make_filtering_bound_logger("debug"),
            logger_factory=factory,
            cache_logger_on_first_use=True,
        )
        return structlog.get_logger()

    def _drop_lesser(self, _log: Any, level: str, event: Any) -> Any:
        if PRIORITIES[level] > self._priority_max:
            raise structlog.DropEvent
        return event
