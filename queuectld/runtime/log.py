"""
The daemon's log: one event a line on stderr; key=value for a terminal, JSON for a machine.

A line that cannot be written is lost. The log may be on a full disk or its reader gone; neither is
a reason for the queue to stop, and what the log tells is in the journal too.
"""

import os
import sys
from typing import Any

import structlog
from msgspec import json

from queuectld.core.records import (
    DaemonStarted,
    JobForgotten,
    JobMoved,
    Record,
    RunEnded,
    RunStarted,
    StopRequested,
)


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


def configure() -> None:
    """
    Set up structlog for this process.
    """
    if sys.stderr.isatty():
        renderer: Any = structlog.processors.KeyValueRenderer(
            key_order=["timestamp", "level", "event", "job", "attempt"], drop_missing=True
        )
    else:
        renderer = structlog.processors.JSONRenderer(
            serializer=lambda event, **_: json.encode(event)
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=lambda *_: LineLogger(sys.stderr.fileno()),
        cache_logger_on_first_use=True,
    )


def log_record(log: Any, record: Record) -> None:
    """
    Tell people of a durable fact that concerns a job. Enqueues are not told one by one.
    """
    if isinstance(record, RunStarted):
        log.info("run_started", job=record.number, attempt=record.attempt, slot=record.slot)
    elif isinstance(record, RunEnded):
        level = log.info if record.error is None else log.warning
        level(
            "run_ended",
            job=record.number,
            attempt=record.attempt,
            end=record.end,
            exit_code=record.exit_code,
            signal=record.signal,
            state=record.state,
            span_ms=record.at - record.started_at,
        )
    elif isinstance(record, StopRequested):
        log.info("stop_requested", job=record.number, attempt=record.attempt, why=record.why)
    elif isinstance(record, JobMoved):
        log.info("job_moved", job=record.number, state=record.state)
    elif isinstance(record, JobForgotten):
        log.debug("job_forgotten", job=record.number)
    elif isinstance(record, DaemonStarted):
        log.info("daemon_started", epoch=record.epoch, version=record.version)
