"""
`wait`: until jobs have finished.
"""

import time
from contextlib import closing
from typing import TypeVar

from msgspec.structs import replace

from queuectl.documents import job_document
from queuectl.durations import parse_duration
from queuectl.errors import (
    EXIT_DONE,
    EXIT_NOTHING,
    CallTimedOut,
    ConnectionLost,
    ProtocolError,
    UsageError,
)
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import (
    LIST_JOBS_MAX,
    SELECT_JOBS_MAX,
    Jobs,
    List,
    ListQueues,
    Message,
    Queues,
    Selection,
    Wait,
    Waited,
)
from queuectl.selection import FILTER_OPTIONS, id_to_ask, selection
from queuectl.session import Session
from queuectl.views import FINISHED_STATES, JOB_STATES, JobView

R = TypeVar("R", bound=Message)

#: However short the time, a daemon that is well can answer: with 0 one asks how things stand.
ANSWER_MS_MIN = 100


class _Asking:
    """
    Asks what may be asked twice, over one connection after the other: a restart of the daemon ends
    nothing. `deadline`, of the monotonic clock, is for all of it after the first connection.
    """

    def __init__(self, session: Session, deadline: float | None) -> None:
        self._session = session
        self._deadline = deadline
        self._client = session.connect()

    def call(self, request: Message, response: type[R]) -> R:
        """
        Return the response to *request*. Raises as Client.call() does.
        """
        while True:
            left_ms = None
            if self._deadline is not None:
                left_ms = max(round((self._deadline - time.monotonic()) * 1000), ANSWER_MS_MIN)
            try:
                return self._client.call(request, response, timeout_ms=left_ms)
            except ProtocolError:
                raise
            except ConnectionLost:
                self._client.close()
                self._client = self._session.reconnect(self._deadline)

    def close(self) -> None:
        """
        Hang up.
        """
        self._client.close()


def wait(session: Session, arguments: Arguments) -> int:
    """
    Wait for jobs, print how they ended, and return 0 only if they completed.
    """
    select, any_one = selection(arguments), arguments.flag("any")
    timeout_ms = _timeout_ms(arguments.value("timeout"))
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    finished: list[JobView] = []
    try:
        with closing(_Asking(session, deadline)) as asking:
            requests = _requests(asking, select, any_one)
            if not requests:
                session.complain("no job matches that has not finished")
            for request in requests:
                finished += asking.call(request, Waited).jobs
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


def _requests(asking: _Asking, select: Selection, any_one: bool) -> list[Wait]:
    """
    Return what to ask, one after the other: of the jobs that filters match now, oldest first, as
    many at a time as a page lists: so many fit into an answer. For any, one request names all, and
    few of them will have ended by the answer. Those that are forgotten before their turn are left
    out. Raises UsageError.
    """
    if select.ids:
        return [Wait(ids=select.ids, any=any_one)]
    pages = _unfinished(asking, select, SELECT_JOBS_MAX if any_one else None)
    if any_one and pages:
        pages = [[each for page in pages for each in page]]
    return [Wait(ids=page, any=any_one, skip_missing=True) for page in pages]


def _unfinished(asking: _Asking, select: Selection, limit: int | None) -> list[list[str]]:
    """
    Return the jobs that filters match and that have not finished, page by page, oldest first.
    Raises UsageError if there are more than *limit*.
    """
    if select.queue is not None:
        # Refused if there is none of this name: a misspelt one would seem to be done.
        asking.call(ListQueues(name=select.queue), Queues)
    states = [each for each in select.states or JOB_STATES if each not in FINISHED_STATES]
    request = List(states=states, queue=select.queue, limit=LIST_JOBS_MAX)
    pages: list[list[str]] = []
    count = 0
    while states:
        page = asking.call(request, Jobs)
        if page.jobs:
            pages.insert(0, [id_to_ask(job) for job in reversed(page.jobs)])
        count += len(page.jobs)
        if limit is not None and count > limit:
            rule = f"--any: waits for at most {limit} jobs, and more match"
            raise UsageError(f"{rule}; choose fewer with --state, --queue or ids")
        if page.next_before is None:
            break
        request = replace(request, before_number=page.next_before)
    return pages


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
            "finished now, also held ones, not for jobs made later; 0 if there are none."
        ),
        examples=(
            "queuectl wait 17 18 --timeout 10m",
            "queuectl wait --any 1-5",
            "queuectl wait --queue builds && queuectl run make install",
        ),
    ),
)
