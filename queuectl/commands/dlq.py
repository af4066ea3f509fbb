"""
`dlq`: the dead letter queue, which holds the jobs whose attempts are used up.
"""

from queuectl.client import Client
from queuectl.commands.act import act, report
from queuectl.commands.jobs import LIST_OPTIONS, filtered, print_jobs, show_each
from queuectl.errors import RequestRefused, UsageError
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import Act, Acted, Action, Jobs, List, Selection
from queuectl.selection import id_to_ask, split_ids
from queuectl.session import Session
from queuectl.views import JobError


def list_dead(session: Session, arguments: Arguments) -> int:
    """
    Print the dead jobs, newest first.
    """
    return print_jobs(session, arguments, filtered(arguments, ["dead"]))


def show_dead(session: Session, arguments: Arguments) -> int:
    """
    Print all about dead jobs.
    """
    return show_each(session, arguments, "dead")


def retry_dead(session: Session, arguments: Arguments) -> int:
    """
    Start dead jobs again.
    """
    return _act(session, "retry", arguments)


def purge_dead(session: Session, arguments: Arguments) -> int:
    """
    Forget dead jobs.
    """
    return _act(session, "purge", arguments)


def _act(session: Session, action: Action, arguments: Arguments) -> int:
    if arguments.flag("all") == bool(arguments.operands):
        raise UsageError(f"dlq {action}: give ids or --all")
    if arguments.flag("all"):
        return act(session, action, Selection(states=["dead"]))
    with session.connect() as client:
        dead, errors = _pick_dead(client, split_ids(arguments.operands))
        answers = [Acted(ids=[], errors=errors)]
        if dead:
            request = Act(action=action, select=Selection(ids=dead))
            answers.append(client.call(request, Acted))
    return report(session, {"retry": "retried", "purge": "purged"}[action], answers)


def _pick_dead(client: Client, ids: list[str]) -> tuple[list[str], list[JobError]]:
    # `retry` works on other jobs too; who says dlq means dead ones.
    dead: list[str] = []
    errors: list[JobError] = []
    for each in ids:
        try:
            found = client.call(List(ids=[each]), Jobs).jobs
        except RequestRefused as error:
            errors.append(JobError(code="not_found", message=str(error), id=each))
            continue
        for job in found:
            if job.state == "dead":
                dead.append(id_to_ask(job))
            else:
                message = f"job {job.id} is {job.state}, not in the dead letter queue"
                errors.append(JobError(code="conflict", message=message, id=job.id))
    return dead, errors


_ALL = Option("all", "every dead job")
_WHICH = "ID... | --all"

COMMANDS = (
    Command(("dlq", "list"), "list dead jobs, newest first", list_dead, options=LIST_OPTIONS),
    Command(
        ("dlq", "show"),
        "show all about a dead job",
        show_dead,
        operands="ID...",
        operands_min=1,
        operands_max=None,
    ),
    Command(
        ("dlq", "retry"),
        "start dead jobs again with all their attempts; their history is kept",
        retry_dead,
        operands=_WHICH,
        operands_max=None,
        options=(_ALL,),
        examples=("queuectl dlq retry job1", "queuectl dlq retry --all"),
    ),
    Command(
        ("dlq", "purge"),
        "forget dead jobs and their output",
        purge_dead,
        operands=_WHICH,
        operands_max=None,
        options=(_ALL,),
    ),
)
