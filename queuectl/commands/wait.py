"""
`wait`: until jobs have finished.
"""

import time

from queuectl.documents import job_document
from queuectl.durations import parse_duration
from queuectl.errors import (
    EXIT_DONE,
    EXIT_NOTHING,
    CallTimedOut,
    ConnectionLost,
    ProtocolError,
    RequestRefused,
    UsageError,
)
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import (
    LIST_JOBS_MAX,
    SELECT_JOBS_MAX,
    List,
    ListQueues,
    Queues,
    Selection,
    Wait,
    Waited,
)
from queuectl.selection import FILTER_OPTIONS, id_to_ask, jobs_by_page, selection
from queuectl.session import Session
from queuectl.views import FINISHED_STATES, JOB_STATES, JobView


def wait(session: Session, arguments: Arguments) -> int:
    """
    Wait for jobs, print how they ended, and return 0 only if they completed.
    """
    timeout_ms = _timeout_ms(arguments.value("timeout"))
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    finished: list[JobView] = []
    try:
        for request in _requests(session, selection(arguments), arguments.flag("any")):
            jobs = _wait(session, request, deadline)
            finished += [job for job in jobs if job.state in FINISHED_STATES]
    except CallTimedOut:
        raise CallTimedOut("not finished in time; the jobs go on") from None
    except KeyboardInterrupt:
        session.complain("the jobs go on")
        raise
    if session.structured:
        session.print_json_array(job_document(job) for job in finished)
    for job in finished if not session.structured else []:
        session.print(id_to_ask(job) if session.quiet else f"{job.id} {job.state}")
    return EXIT_DONE if all(job.state == "completed" for job in finished) else EXIT_NOTHING


def _requests(session: Session, select: Selection, any_one: bool) -> list[Wait]:
    """
    Return what to ask, one after the other: of those that filters match, as many as one answer
    lists at a time. Raises UsageError, RequestRefused.
    """
    if select.ids:
        return [Wait(ids=select.ids, any=any_one)]
    ids = _unfinished(session, select)
    if not ids:
        session.complain("no job matches that has not finished")
        return []
    if not any_one:
        return [Wait(ids=ids[at : at + LIST_JOBS_MAX]) for at in range(0, len(ids), LIST_JOBS_MAX)]
    if len(ids) > SELECT_JOBS_MAX:
        limit = f"--any: {len(ids)} jobs match, of at most {SELECT_JOBS_MAX}"
        raise UsageError(f"{limit}; choose fewer with --state, --queue or ids")
    return [Wait(ids=ids, any=True)]


def _unfinished(session: Session, select: Selection) -> list[str]:
    """
    Return the jobs that filters match now and that have not finished, oldest first. Raises
    RequestRefused where there is no such queue: a misspelt one would seem to be done.
    """
    states = [each for each in select.states or JOB_STATES if each not in FINISHED_STATES]
    with session.connect() as client:
        if (
            select.queue is not None
            and not client.call(ListQueues(name=select.queue), Queues).queues
        ):
            raise RequestRefused("not_found", f"no queue {select.queue!r}")
        if not states:
            return []
        request = List(states=states, queue=select.queue)
        return [id_to_ask(job) for job in jobs_by_page(client, request, None)][::-1]


def _wait(session: Session, request: Wait, deadline: float | None) -> list[JobView]:
    client = session.connect()
    while True:
        left_ms = None
        if deadline is not None:
            left_ms = max(round((deadline - time.monotonic()) * 1000), 1)
        try:
            with client:
                return client.call(request, Waited, timeout_ms=left_ms).jobs
        except ProtocolError:
            raise
        except ConnectionLost:
            client = session.reconnect()


def _timeout_ms(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}; got {text!r}") from error


COMMANDS = (
    Command(
        ("wait",),
        "wait until jobs have finished",
        wait,
        operands="ID... | --state STATE | --queue NAME | --all",
        operands_max=None,
        options=(
            *FILTER_OPTIONS,
            Option("timeout", "give up after this long", value="DURATION", short="t"),
            Option("any", "until one of them has finished"),
        ),
        details=(
            "Exit code 0 if all that finished are completed, 1 if one is not, 124 if the time is\n"
            "up. Waiting changes nothing for the jobs. With filters: for those that have not\n"
            "finished now, also held ones, and not for jobs made later; 0 if there are none."
        ),
        examples=(
            "queuectl wait 17 18 --timeout 10m",
            "queuectl wait --any 1-5",
            "queuectl wait --queue builds && queuectl run make install",
        ),
    ),
)
