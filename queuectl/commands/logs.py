"""
`logs`: what jobs wrote, byte for byte.
"""

from queuectl.client import Client
from queuectl.commands.jobs import expand
from queuectl.errors import EXIT_DONE, ConnectionLost, UsageError
from queuectl.following import Follower, say_why_waiting, write_output
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import LogEnd, Logs, Output
from queuectl.selection import id_to_ask, split_ids
from queuectl.session import Session
from queuectl.views import FINISHED_STATES


def logs(session: Session, arguments: Arguments) -> int:
    """
    Write the output of jobs to stdout. It judges nothing: the exit code is 0 if it could be shown.
    """
    attempt, tail_lines = arguments.count("attempt"), arguments.count("tail")
    if session.quiet:
        raise UsageError("logs: there are no ids in output; leave --quiet out")
    follow = arguments.flag("follow")
    if follow and session.structured:
        raise UsageError("logs: --follow prints raw output, not JSON")
    client = session.connect()
    try:
        ids = list(expand(client, split_ids(arguments.operands)))
        if follow and len(ids) > 1:
            raise UsageError("logs: --follow takes one job")
        documents = []
        for each in ids:
            if follow:
                _follow(session, client, each, attempt, tail_lines)
                continue
            request = Logs(id=each, attempt=attempt, tail_lines=tail_lines)
            if session.structured:
                documents.append(_document(client, request))
                continue
            if len(ids) > 1:
                session.complain(f"job {each}:")
            client = _copy(session, client, request)
    finally:
        client.close()
    if documents:
        session.print_json(documents[0] if len(documents) == 1 else documents)
    return EXIT_DONE


def _copy(session: Session, client: Client, request: Logs) -> Client:
    """
    Write the output that there is; return the client that is connected then.

    Whoever reads stdout may do so for hours, as in a pager, and the other end waits for nobody that
    long. A connection that is lost after something came is made again, and goes on with the next
    byte.
    """
    while True:
        came = False
        try:
            for answer in client.stream(request, Output, LogEnd):
                if isinstance(answer, Output):
                    came = True
                    write_output(session, answer)
                    request = Logs(
                        id=request.id,
                        attempt=answer.attempt,
                        offset=answer.offset + len(answer.data),
                    )
            return client
        except ConnectionLost:
            if not came:
                raise
        client = session.reconnect()


def _follow(
    session: Session, client: Client, identifier: str, attempt: int | None, tail_lines: int | None
) -> None:
    job = say_why_waiting(session, client, identifier)
    if not job.attempt and job.state in FINISHED_STATES:
        return
    follower = Follower(
        session,
        client,
        id_to_ask(job),
        attempt or max(job.attempt or 0, 1),
        only=attempt is not None,
        tail_lines=tail_lines,
    )
    try:
        follower.follow()
    finally:
        follower.client.close()


def _document(client: Client, request: Logs) -> dict[str, object]:
    data, dropped_bytes = b"", 0
    document: dict[str, object] = {}
    for answer in client.stream(request, Output, LogEnd):
        if isinstance(answer, Output):
            data += answer.data
            dropped_bytes += answer.dropped_bytes
        elif isinstance(answer, LogEnd):
            document = {"id": answer.job.id, "attempt": answer.attempt}
    return {
        **document,
        "dropped_bytes": dropped_bytes,
        "output": data.decode("utf-8", "replace"),
    }


_LOGS = Command(
    ("logs",),
    "print what jobs wrote to stdout and stderr",
    logs,
    operands="ID...",
    operands_min=1,
    operands_max=None,
    options=(
        Option("follow", "go on until the job ends, through its retries", short="f"),
        Option("attempt", "of this attempt (default: the last)", value="N"),
        Option("tail", "only the last N lines", value="N"),
    ),
    details=(
        "The output is printed as it is, byte for byte. A job that has not started has none; with\n"
        "--follow it is waited for. Ctrl-C leaves the job alone."
    ),
    examples=("queuectl logs last", "queuectl logs -f job1", "queuectl logs job1 --attempt 1"),
)

COMMANDS = (
    _LOGS,
    Command(
        ("logs", "show"),
        "the same as logs",
        logs,
        operands="ID...",
        operands_min=1,
        operands_max=None,
        options=_LOGS.options,
    ),
)
