"""
What an attempt is started with.
"""

from queuectld.core.effects import StartRun
from queuectld.core.job import Job
from queuectld.core.records import JobEnqueued
from queuectld.core.state import State


def start_run(state: State, job: Job, spec: JobEnqueued) -> StartRun:
    """
    Return what the runner is to do for the attempt of *job*, which was asked for as *spec*, that
    was just recorded.
    """
    assert job.runs
    run = job.runs[-1]
    env = state.env(spec.env_id)
    env.update(spec.env or {})
    env["QUEUECTL_JOB_ID"] = spec.id
    env["QUEUECTL_ATTEMPT"] = str(run.attempt)
    env["QUEUECTL_QUEUE"] = spec.queue
    env["QUEUECTL_SLOT"] = str(run.slot)
    argv = spec.argv or []
    if spec.command is not None:
        argv = ["/bin/sh", "-c", spec.command]
    return StartRun(
        job.number,
        run.attempt,
        argv,
        env,
        spec.cwd,
        spec.umask,
        spec.script,
        spec.uid,
        spec.user or "",
    )
