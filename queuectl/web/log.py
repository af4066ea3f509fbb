"""
The gateway's log, and its audit: one event a line on stderr, key=value for a terminal, JSON for a
machine. Where stderr is the system's journal, each event is an entry with fields instead.

Who did what, from where, and what was refused and why. Tokens, cookies and one-time links are never
logged; a token is named by its id, which is no secret. A line that cannot be written is lost: it
must not stop the gateway.
"""

import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any

from msgspec import json

# structlog shows tracebacks by rich where that is to be had. Ours are never shown so, and to import
# it costs some MiB: so for this moment it is not to be had.
_hides_rich = "rich" not in sys.modules
if _hides_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

from queuectl.web.throttle import Allowance  # noqa: E402

if _hides_rich:
    del sys.modules["rich"]

#: syslog's numbers for the levels.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
JOURNAL_SOCKET = "/run/systemd/journal/socket"
#: What a stranger sent, such as a path, is cut to this.
VALUE_CHARS_MAX = 500
#: uvicorn's lines in a row, and then one in so many seconds.
SERVER_LINES_MAX = 50
SERVER_LINE_SECONDS = 1.0

#: A fault to uvicorn, but none: a WebSocket that was answered with a refusal instead.
_REFUSED = "ASGI callable returned without completing handshake."

_LENGTH = struct.Struct("<Q")

log: Any = structlog.get_logger()


def configure() -> None:
    """
    Set up the log of this process, uvicorn's warnings included.
    """
    stderr = sys.stderr.fileno()
    found = os.fstat(stderr)
    stamps: list[Any] = [_cut_values]
    write = _line_writer(stderr)
    renderer: Any
    if os.environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}":
        write, renderer = _journal_writer(), _entry
    else:
        stamps += [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ]
        if sys.stderr.isatty():
            order = ["timestamp", "level", "event"]
            renderer = structlog.processors.KeyValueRenderer(key_order=order, drop_missing=True)
        else:
            renderer = structlog.processors.JSONRenderer(
                serializer=lambda event, **_: json.encode(event).decode()
            )
    structlog.configure(
        processors=[*stamps, renderer],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: _Writer(write),
        cache_logger_on_first_use=True,
    )
    logger = logging.getLogger("uvicorn")
    logger.handlers, logger.propagate = [_ToStructlog()], False
    logger.setLevel(logging.WARNING)


class _Writer:
    """
    What structlog hands a rendered event to.
    """

    def __init__(self, write: Any) -> None:
        self._write = write

    def msg(self, event: Any) -> None:
        try:
            self._write(event)
        except OSError:
            pass

    debug = info = warning = error = critical = msg


class _ToStructlog(logging.Handler):
    """
    What uvicorn has to say becomes events of ours. Strangers can make it say something (that a
    request is none), so its lines are bounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = Allowance(SERVER_LINES_MAX, SERVER_LINE_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if text == _REFUSED or not self._lines.take(time.monotonic()):
            return
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            trace, where = error.__traceback__, "?"
            while trace is not None:
                where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
                trace = trace.tb_next
            text = f"{text}: {type(error).__name__}: {error} ({where})"
        level = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(log, level)("web_server", message=text)


def _line_writer(fd: int) -> Any:
    return lambda line: os.write(fd, line.encode(errors="backslashreplace") + b"\n")


def _journal_writer() -> Any:
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    return lambda entry: journal.sendto(entry, JOURNAL_SOCKET)


def _cut_values(_log: Any, _level: str, event: Any) -> Any:
    """
    Leave out what is not known, and cut what is too long.
    """
    return {
        key: value[:VALUE_CHARS_MAX] if isinstance(value, str) else value
        for key, value in event.items()
        if value is not None
    }


def _entry(_log: Any, level: str, event: Mapping[str, Any]) -> bytes:
    """
    Return an entry as the journal's socket takes it: of each field the name, a newline, the length,
    the value, so that nothing in a value can begin another field.
    """
    name = event["event"]
    fields = {f"QUEUECTL_{key.upper()}": value for key, value in event.items() if key != "event"}
    said = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
    entry = {
        "MESSAGE": f"{name} {said}".strip(),
        "PRIORITY": PRIORITIES[level],
        "SYSLOG_IDENTIFIER": "queuectl-web",
        "QUEUECTL_EVENT": name,
        **fields,
    }
    packed = bytearray()
    for key, value in entry.items():
        data = str(value).encode(errors="backslashreplace")
        packed += key.encode() + b"\n" + _LENGTH.pack(len(data)) + data + b"\n"
    return bytes(packed)
