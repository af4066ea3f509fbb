"""
Which jobs a command is about: ids as people write them, or filters.

An id is a job's id, a number, a range (`1-3`) or `last`; commas join several (`1-3,7`). What they
mean is decided by the daemon, which knows the jobs.
"""

from collections.abc import Iterator
from typing import cast

from queuectl.client import Client
from queuectl.errors import UsageError, suggestion
from queuectl.options import Arguments, Option
from queuectl.protocol import LIST_JOBS_MAX, Jobs, List, Selection
from queuectl.views import JOB_STATES, JobState, JobView, WorkerView

STATE_OPTION = Option(
    "state",
    f"only jobs in this state; may be repeated: {', '.join(JOB_STATES)}",
    value="STATE",
    short="s",
    repeat=True,
)
QUEUE_OPTION = Option("queue", "only jobs of this queue", value="NAME")
FILTER_OPTIONS = (STATE_OPTION, QUEUE_OPTION, Option("all", "every job"))


def split_ids(operands: list[str]) -> list[str]:
    """
    Return the ids of *operands*, which may hold several, separated by commas. Raises UsageError.
    """
    ids = [each.strip() for operand in operands for each in operand.split(",")]
    if not all(ids):
        raise UsageError("an id is empty: write ids such as 17, 1-3,7, job1 or last")
    return ids


def id_to_ask(job: JobView) -> str:
    """
    Return what whoever was shown *job* calls it when asking for it again.

    Ids are each account's own. Another's job, whose directory is shown to nobody else, goes by its
    number.
    """
    return str(job.number) if is_anothers(job) else job.id


def is_anothers(job: JobView) -> bool:
    """
    Whether it is another account's job, as admins are shown them.
    """
    return job.cwd is None


def job_to_ask(worker: WorkerView) -> str | None:
    """
    Return what whoever was shown *worker* calls the job in it; None where there is none to be seen.
    """
    others = worker.command is None and worker.number is not None
    return str(worker.number) if others else worker.job


def states_of(arguments: Arguments) -> list[JobState]:
    """
    Return the states asked for. Raises UsageError.
    """
    states = [each for value in arguments.values("state") for each in value.split(",")]
    for state in states:
        if state not in JOB_STATES:
            hint = suggestion(state, JOB_STATES)
            raise UsageError(
                f"--state: {state!r} is no state{hint}; one of {', '.join(JOB_STATES)}"
            )
    return cast(list[JobState], states)


def selection(arguments: Arguments) -> Selection:
    """
    Return the jobs that operands or filters name. Raises UsageError.
    """
    states, queue = states_of(arguments), arguments.value("queue")
    filtered = bool(states) or queue is not None or arguments.flag("all")
    if arguments.operands and filtered:
        raise UsageError("give ids or filters, not both")
    if arguments.operands:
        return Selection(ids=split_ids(arguments.operands))
    if not filtered:
        raise UsageError("which jobs? Give ids, or --state, --queue or --all")
    return Selection(states=states, queue=queue, all=arguments.flag("all"))


def jobs_by_page(client: Client, request: List, limit: int | None) -> Iterator[JobView]:
    """
    Yield the jobs of *request* page by page, at most *limit* of them. Raises as Client.call() does.
    """
    from msgspec.structs import replace

    left = limit
    while True:
        size = LIST_JOBS_MAX if left is None else min(left, LIST_JOBS_MAX)
        page = client.call(replace(request, limit=size), Jobs)
        yield from page.jobs
        left = None if left is None else left - len(page.jobs)
        if page.next_before is None or left == 0:
            return
        request = replace(request, after=None, before_number=page.next_before)
