"""
Answers as JSON documents: what scripts read.

Names and shapes here are public. Times are RFC 3339 in UTC, spans are numbers of seconds, what
there is not is null.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec.json

from queuectl.protocol import Acted, JobDetail, StatusReport
from queuectl.settings import SETTINGS
from queuectl.times import format_time
from queuectl.views import (
    JobError,
    JobView,
    ProcessView,
    QueueView,
    RunView,
    SettingValue,
    SettingView,
    WorkerView,
)

#: Control characters that JSON lets stand as they are, and a terminal may obey.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def encode_json(document: object, indent: int = 0) -> str:
    """
    Return *document* as JSON text. With *indent* 0 it is one line.
    """
    data = msgspec.json.encode(document)
    if indent:
        data = msgspec.json.format(data, indent=indent)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", data.decode())


def job_document(job: JobView) -> dict[str, Any]:
    """
    Return what is known of a job, without its history.
    """
    return {
        "id": job.id,
        "number": job.number,
        "command": job.command,
        "argv": job.argv,
        "state": job.state,
        "stopping": job.stopping,
        "attempts": job.attempts,
        "max_retries": job.max_retries,
        "priority": job.priority,
        "queue": job.queue,
        "created_at": _time(job.created_at),
        "updated_at": _time(job.updated_at),
        "run_at": _time(job.run_at),
        "next_run_at": _time(job.next_run_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "exit_code": job.exit_code,
        "signal": job.signal,
        "last_error": job.last_error,
        "worker": job.worker,
        "pid": job.pid,
        "attempt": job.attempt,
        "timeout": _seconds(job.timeout_ms),
        "kill_after": _seconds(job.kill_after_ms),
        "on_lost": job.on_lost,
        "cwd": job.cwd,
        "user": job.user,
        "enqueued_by": job.enqueued_by,
        "output": job.output,
    }


def detail_document(detail: JobDetail) -> dict[str, Any]:
    """
    Return all that is known of a job; `runs` are its attempts, the first one first.
    """
    return {
        **job_document(detail.job),
        "why": detail.why,
        "next": detail.next,
        "env": detail.env,
        "umask": f"{detail.umask:04o}",
        "script": detail.script,
        "runs": [run_document(run) for run in detail.runs],
    }


def run_document(run: RunView) -> dict[str, Any]:
    """
    Return one attempt. `duration` is null while it runs.
    """
    return {
        "attempt": run.attempt,
        "worker": run.worker,
        "pid": run.pid,
        "started_at": _time(run.started_at),
        "ended_at": _time(run.ended_at),
        "duration": None if run.ended_at is None else _seconds(run.ended_at - run.started_at),
        "end": run.end,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "error": run.error,
        "cpu_user": _seconds(run.user_ms),
        "cpu_system": _seconds(run.system_ms),
        "memory_max_bytes": run.memory_max_bytes,
    }


def error_document(error: JobError) -> dict[str, Any]:
    """
    Return why one job of a request could not be made or changed.
    """
    return {
        "id": error.id,
        "index": error.index,
        "field": error.field,
        "code": error.code,
        "message": error.message,
    }


def acted_document(answers: Iterable[Acted]) -> dict[str, Any]:
    """
    Return what a command did to many jobs, over all the answers that it took.
    """
    pages = list(answers)
    return {
        "ids": [each for page in pages for each in page.ids],
        "errors": [error_document(error) for page in pages for error in page.errors],
    }


def worker_document(worker: WorkerView) -> dict[str, Any]:
    """
    Return one slot.
    """
    return {
        "slot": worker.slot,
        "state": worker.state,
        "job": worker.job,
        "command": worker.command,
        "queue": worker.queue,
        "pid": worker.pid,
        "started_at": _time(worker.started_at),
        "uptime": _seconds(worker.uptime_ms),
        "job_started_at": _time(worker.job_started_at),
        "number": worker.number,
        "user": worker.user,
    }


def queue_document(queue: QueueView) -> dict[str, Any]:
    """
    Return a named queue; `concurrency` is null without a limit.
    """
    return {
        "name": queue.name,
        "concurrency": queue.concurrency,
        "paused": queue.paused,
        "running": queue.running,
        "jobs": queue.jobs,
    }


def setting_document(setting: SettingView) -> dict[str, Any]:
    """
    Return a setting; spans are seconds, sizes bytes.
    """
    return {
        "key": setting.key,
        "value": setting_value(setting.key, setting.value),
        "default": setting_value(setting.key, setting.default),
        "source": setting.source,
    }


def setting_value(key: str, value: SettingValue) -> SettingValue:
    """
    Return a setting's value as JSON has it.
    """
    known = SETTINGS.get(key)
    if known is not None and known.kind == "span" and isinstance(value, int):
        return _seconds(value)
    return value


def status_document(status: StatusReport, socket: str) -> dict[str, Any]:
    """
    Return the whole in numbers.
    """
    return {
        "daemon": _process(status.daemon),
        "runner": None if status.runner is None else _process(status.runner),
        "mode": status.mode,
        "socket": socket,
        "state_dir": status.state_dir,
        "jobs": status.jobs,
        "dlq": status.dlq,
        "workers": [worker_document(worker) for worker in status.workers],
        "queues": {"count": status.queue_count, "paused": status.paused_queues},
        "journal": {
            "size_bytes": status.journal.size_bytes,
            "segments": status.journal.segment_count,
            "durability": status.journal.durability,
            "state": status.journal.state,
            "snapshot_at": _time(status.journal.snapshot_at),
        },
        "notes": status.notes,
        "seen_jobs": status.seen_jobs,
    }


def _process(process: ProcessView) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "version": process.version,
        "started_at": _time(process.started_at),
        "uptime": _seconds(process.uptime_ms),
    }


def _time(at: int | None) -> str | None:
    return None if at is None else format_time(at)


def _seconds(span_ms: int | None) -> int | float | None:
    if span_ms is None:
        return None
    return span_ms // 1000 if span_ms % 1000 == 0 else span_ms / 1000
