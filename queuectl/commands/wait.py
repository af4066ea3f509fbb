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
    UsageError,
)
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import Wait, Waited
from queuectl.selection import id_to_ask, split_ids
from queuectl.session import Session
from queuectl.views import FINISHED_STATES, JobView


def wait(session: Session, arguments: Arguments) -> int:
    """
    Wait for jobs, print how they ended, and return 0 only if they completed.
    """
    request = Wait(ids=split_ids(arguments.operands), any=arguments.flag("any"))
    timeout_ms = _timeout_ms(arguments.value("timeout"))
    try:
        jobs = _wait(session, request, timeout_ms)
    except CallTimedOut:
        raise CallTimedOut("not finished in time; the jobs go on") from None
    except KeyboardInterrupt:
        session.complain("the jobs go on")
        raise
    finished = [job for job in jobs if job.state in FINISHED_STATES]
    if session.structured:
        session.print_json_array(job_document(job) for job in finished)
    for job in finished if not session.structured else []:
        session.print(id_to_ask(job) if session.quiet else f"{job.id} {job.state}")
    return EXIT_DONE if all(job.state == "completed" for job in finished) else EXIT_NOTHING


def _wait(session: Session, request: Wait, timeout_ms: int | None) -> list[JobView]:
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
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
        operands="ID...",
        operands_min=1,
        operands_max=None,
        options=(
            Option("timeout", "give up after this long", value="DURATION", short="t"),
            Option("any", "until one of them has finished"),
        ),
        details=(
            "Exit code 0 if all that finished are completed, 1 if one is not, 124 if the time is\n"
            "up. Waiting changes nothing for the jobs."
        ),
        examples=("queuectl wait 17 18 --timeout 10m", "queuectl wait --any 1-5"),
    ),
)
