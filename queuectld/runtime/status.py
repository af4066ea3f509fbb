"""
The picture of the whole: what `queuectl status` shows.
"""

import os
from typing import TYPE_CHECKING

from queuectl.protocol import StatusReport
from queuectl.views import FINISHED_STATES, JOB_STATES, JournalView, ProcessView
from queuectld.core.peer import Peer
from queuectld.core.views import job_counts, worker_views

if TYPE_CHECKING:
    from queuectld.runtime.daemon import Daemon


WAITING_STATES = [
    each for each in JOB_STATES if each not in FINISHED_STATES and each != "processing"
]


def status_report(daemon: "Daemon", call: int, now: int, peer: Peer) -> StatusReport:
    """
    Return the state of the daemon, its runner, its journal and its queues.
    """
    state, journal = daemon.queue.state, daemon.journal
    runner = None
    welcome = daemon.runner.welcome if daemon.runner is not None else None
    if welcome is not None:
        runner = ProcessView(
            pid=welcome.pid,
            version=welcome.program_version,
            started_at=welcome.started_at,
            uptime_ms=max(now - welcome.started_at, 0),
        )
    listed = [queue for queue in state.queues.values() if queue.listed]
    return StatusReport(
        call=call,
        daemon=ProcessView(
            pid=os.getpid(),
            version=daemon.version,
            started_at=daemon.started_at,
            uptime_ms=now - daemon.started_at,
        ),
        runner=runner,
        jobs=dict(state.counts.items()),
        workers=worker_views(daemon.queue, now, peer),
        dlq=state.counts["dead"],
        journal=JournalView(
            size_bytes=journal.size_bytes,
            segment_count=journal.segment_count,
            durability=journal.durability,
            state="full" if journal.full else "ok",
            snapshot_at=daemon.housekeeping.snapshot_at,
        ),
        mode=daemon.mode,
        state_dir=daemon.state_dir,
        queue_count=len(listed),
        paused_queues=sorted(queue.name for queue in listed if queue.paused),
        notes=notes(daemon),
        seen_jobs=job_counts(daemon.queue, peer),
    )


def status_line(daemon: "Daemon") -> str:
    """
    Return the whole in one line, for those who look at the service.
    """
    state = daemon.queue.state
    counts = state.counts
    waiting = sum(counts[each] for each in WAITING_STATES)
    parts = [
        f"{counts['processing']} running",
        f"{waiting} waiting",
        f"{counts['dead']} dead",
        f"{len(state.slots.by_number)} workers",
    ]
    if daemon.journal.full:
        parts.append("the disk is full")
    if daemon.runner is None or not daemon.runner.ready:
        parts.append("no runner")
    return ", ".join(parts)


def notes(daemon: "Daemon") -> list[str]:
    """
    Return what deserves attention, one line each.
    """
    lines = []
    state = daemon.queue.state
    if daemon.journal.full:
        lines.append(
            "the disk of the journal is full: jobs are refused and none is started; "
            f"make room on the disk of {daemon.state_dir}"
        )
    if daemon.journal.durability != "always":
        lines.append(
            f"durability is {daemon.journal.durability}: a power cut can lose jobs that were "
            "accepted"
        )
    if daemon.runner is None or not daemon.runner.ready:
        lines.append("the runner is not connected: nothing is started until it is")
    welcome = daemon.runner.welcome if daemon.runner is not None else None
    if welcome is not None and welcome.program_version != daemon.version:
        reload = f"kill -HUP {welcome.pid}"
        if daemon.mode == "system":
            reload = "systemctl reload queuectl-runner"
        lines.append(
            f"the runner is {welcome.program_version}, the daemon {daemon.version}: {reload}, "
            "with which running jobs go on"
        )
    if not state.slots.numbers() and state.counts["pending"]:
        lines.append("there are no workers: queuectl worker start adds some")
    return lines
