"""
Pictures of the state for answers: read-only, no side effects.
"""

import shlex
from typing import TYPE_CHECKING

from queuectl.protocol import DETAIL_RUNS_MAX, JobDetail
from queuectl.settings import SETTINGS
from queuectl.views import JobView, QueueView, RunView, SettingView, WorkerView
from queuectld.core.job import Job, NamedQueue, Run, no_jobs
from queuectld.core.peer import Peer
from queuectld.core.records import JobEnqueued

if TYPE_CHECKING:
    from queuectld.core.queue import Queue


#: Shown to admins instead of what others run.
HIDDEN = "(another account's)"


def command_text(spec: JobEnqueued) -> str:
    """
    Return what runs as one would type it in a shell.
    """
    if spec.command is not None:
        return spec.command
    if spec.script is not None:
        return shlex.join([spec.script_name or "script", *(spec.argv or [])])
    return shlex.join(spec.argv or [])


def job_view(queue: "Queue", job: Job, peer: Peer) -> JobView:
    """
    Return a job as *peer* sees it.
    """
    state = queue.state
    spec = state.spec(job)
    run = job.runs[-1] if job.runs else None
    processing = job.state == "processing"
    shown = peer.owns(job)
    timeout_ms, kill_after_ms = spec.timeout_ms, spec.kill_after_ms
    return JobView(
        id=spec.id,
        number=job.number,
        command=command_text(spec) if shown else HIDDEN,
        argv=spec.argv if shown else None,
        state=job.state,
        attempts=job.attempts,
        max_retries=queue.max_retries(job),
        priority=job.priority,
        queue=job.queue.name,
        created_at=spec.at,
        updated_at=job.updated_at,
        run_at=spec.run_at,
        next_run_at=(job.due_at or None) if job.state in ("scheduled", "failed", "held") else None,
        started_at=run.started_at if run else None,
        finished_at=(run.ended_at or None) if run else None,
        exit_code=run.exit_code if run else None,
        signal=run.signal if run else None,
        last_error=_last_error(job),
        worker=run.slot if run and processing else None,
        pid=state.pids.get(job.number),
        attempt=run.attempt if run else None,
        timeout_ms=state.setting("job_timeout") if timeout_ms is None else timeout_ms,
        kill_after_ms=state.setting("kill_after") if kill_after_ms is None else kill_after_ms,
        on_lost=spec.on_lost or state.setting("on_lost"),
        cwd=spec.cwd if shown else None,
        user=spec.user,
        enqueued_by=spec.by_user,
        output=spec.output or "file",
        stopping=job.stop.why if job.stop else None,
    )


def _last_error(job: Job) -> str | None:
    for run in reversed(job.runs or ()):
        if run.ended_at:
            return run.error
    return None


def run_view(queue: "Queue", job: Job, run: Run) -> RunView:
    """
    Return one attempt.
    """
    return RunView(
        attempt=run.attempt,
        worker=run.slot,
        pid=None if run.ended_at else queue.state.pids.get(job.number),
        started_at=run.started_at,
        ended_at=run.ended_at or None,
        end=run.end,
        exit_code=run.exit_code,
        signal=run.signal,
        error=run.error,
        user_ms=run.user_ms,
        system_ms=run.system_ms,
        memory_max_bytes=run.memory_max_bytes,
    )


def detail(queue: "Queue", job: Job, peer: Peer, call: int) -> JobDetail:
    """
    Return all about a job.
    """
    spec = queue.state.spec(job)
    why, next_step = explain(queue, job)
    return JobDetail(
        call=call,
        job=job_view(queue, job, peer),
        runs=[run_view(queue, job, run) for run in (job.runs or [])[-DETAIL_RUNS_MAX:]],
        env={**queue.state.env(spec.env_id), **(spec.env or {})} if peer.owns(job) else {},
        script=spec.script if peer.owns(job) else None,
        umask=spec.umask,
        why=why,
        next=next_step,
    )


def explain(queue: "Queue", job: Job) -> tuple[str, str]:
    """
    Return in words why a job is in its state, and what happens next.
    """
    error = _last_error(job) or "unknown"
    left = queue.max_retries(job) + 1 - job.attempts
    if job.state == "pending":
        return why_pending(queue, job), "starts as soon as nothing of this holds it back"
    if job.state == "scheduled":
        return "waits for its time", "becomes pending at its next run time"
    if job.state == "held":
        return f"held ({job.why or 'by hand'})", "waits for: queuectl release " + _id(queue, job)
    if job.state == "processing":
        if job.stop is not None:
            return f"being ended ({job.stop.why}): SIGTERM was sent", "SIGKILL after the grace time"
        return f"attempt {job.attempt} runs", "ends as completed with exit code 0"
    if job.state == "failed":
        return (
            f"the last attempt failed: {error}",
            f"tries again, {left} attempt{'' if left == 1 else 's'} left",
        )
    if job.state == "completed":
        return "ended with exit code 0", "nothing"
    if job.state == "dead":
        return (
            f"given up after {job.attempts} attempt{'' if job.attempts == 1 else 's'}: {error}",
            f"stays in the dead letter queue until: queuectl dlq retry {_id(queue, job)}",
        )
    return "cancelled", "nothing, unless: queuectl retry " + _id(queue, job)


def why_pending(queue: "Queue", job: Job) -> str:
    """
    Return in words what keeps a pending job from starting.
    """
    line = job.queue
    slots = queue.state.slots
    if queue.storage_full:
        return "the disk of the journal is full: nothing is started until there is room"
    if not queue.runner_ready:
        return "the runner is not connected"
    if line.paused:
        return f"queue {line.name} is paused"
    if line.concurrency and line.running >= line.concurrency:
        return f"queue {line.name} runs its limit of {line.concurrency} jobs"
    share = queue.state.shares.by_owner[job.owner]
    running_max = queue.state.setting("user_running_max")
    if not share.may_start(running_max):
        return f"user {share.user} has {share.running} running, of {running_max} (user_running_max)"
    if not slots.numbers():
        return "there are no workers; queuectl worker start adds some"
    busy = len(slots.numbers())
    others = len(queue.state.shares.waiting) - 1
    if others:
        return (
            f"all {busy} workers are busy, {share.running} with jobs of user {share.user}; "
            f"jobs of {others} other user{'' if others == 1 else 's'} wait too"
        )
    return f"all {busy} workers are busy with jobs that came first or have a higher priority"


def _id(queue: "Queue", job: Job) -> str:
    return queue.state.spec(job).id


def job_counts(queue: "Queue", peer: Peer) -> dict[str, int]:
    """
    Return how many of the jobs that *peer* sees are in each state.
    """
    if peer.admin:
        return dict(queue.state.counts.items())
    share = queue.state.shares.by_owner.get(peer.uid)
    return dict((no_jobs() if share is None else share.counts).items())


def worker_views(queue: "Queue", now: int, peer: Peer) -> list[WorkerView]:
    """
    Return every slot, by number.
    """
    views = []
    for number in sorted(queue.state.slots.by_number):
        slot = queue.state.slots.by_number[number]
        job = queue.state.jobs[slot.job] if slot.job else None
        spec = queue.state.spec(job) if job else None
        seen = spec if job and peer.sees(job) else None
        views.append(
            WorkerView(
                slot=number,
                state="draining" if slot.draining else "busy" if job else "idle",
                job=seen.id if seen else None,
                command=command_text(spec) if job and spec and peer.owns(job) else None,
                queue=spec.queue if spec else None,
                pid=queue.state.pids.get(slot.job) if seen and slot.job else None,
                started_at=slot.since_at,
                uptime_ms=max(now - slot.since_at, 0),
                job_started_at=job.runs[-1].started_at if job and job.runs else None,
                number=slot.job if seen else None,
                user=seen.user if seen else None,
            )
        )
    return views


def setting_views(queue: "Queue") -> list[SettingView]:
    """
    Return every setting, by key.
    """
    views = []
    for key in sorted(SETTINGS):
        default = queue.cpu_count if key == "workers" else SETTINGS[key].default
        value = queue.state.setting(key)
        source = queue.state.configured_by.get(key, "default")
        if key in queue.state.settings:
            source = "set"
        if key == "workers" and value is None:
            value = queue.cpu_count
        views.append(SettingView(key=key, value=value, default=default, source=source))
    return views


def queue_view(queue: NamedQueue) -> QueueView:
    """
    Return a named queue.
    """
    return QueueView(
        name=queue.name,
        concurrency=queue.concurrency or None,
        paused=queue.paused,
        running=queue.running,
        jobs={state: count for state, count in queue.counts.items() if count},
    )
