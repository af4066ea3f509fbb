"""
The daemon's log: one event a line on stderr; key=value for a terminal, JSON for a machine.
"""

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


def configure() -> None:
    """
    Set up structlog for this process.
    """
    if sys.stderr.isatty():
        renderer: Any = structlog.processors.KeyValueRenderer(
            key_order=["timestamp", "level", "event", "job", "attempt"], drop_missing=True
        )
        factory: Any = structlog.WriteLoggerFactory(file=sys.stderr)
    else:
        renderer = structlog.processors.JSONRenderer(
            serializer=lambda event, **_: json.encode(event)
        )
        factory = structlog.BytesLoggerFactory(file=sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=factory,
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
