"""
`cancel`, `retry`, `hold`, `release`, `prune`: one thing done to many jobs.

What could be done is done; each job for which it could not be is named on stderr. The exit code
says the worst: 3 if a job was missing, else 4 if one was in the wrong state, else 1 if there was
nothing to do it to.
"""

from collections.abc import Callable

from queuectl.documents import acted_document
from queuectl.editing import Edit
from queuectl.errors import EXIT_CODES, EXIT_DONE, EXIT_NOTHING, UsageError, exit_code
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import Act, Acted, Action, Selection
from queuectl.selection import FILTER_OPTIONS, QUEUE_OPTION, STATE_OPTION, selection, states_of
from queuectl.session import Session
from queuectl.views import JobError

_DONE_WORDS: dict[Action, str] = {
    "cancel": "cancelled",
    "retry": "retried",
    "hold": "held",
    "release": "released",
    "prune": "pruned",
    "purge": "purged",
}


def act(
    session: Session, action: Action, select: Selection, older_than_ms: int | None = None
) -> int:
    """
    Do *action* to the jobs of *select*, print what was done, and return the exit code.
    """
    request = Act(action=action, select=select, older_than_ms=older_than_ms)
    return ask_and_report(session, _DONE_WORDS[action], request)


def ask_and_report(session: Session, done: str, request: Act | Edit) -> int:
    """
    Ask until all selected jobs had their turn, print what was *done*, and return the exit code.
    """
    from msgspec.structs import replace

    answers: list[Acted] = []
    with session.connect() as client:
        while True:
            answers.append(client.call(request, Acted))
            if answers[-1].more is None:
                break
            request = replace(request, select=replace(request.select, after=answers[-1].more))
    return report(session, done, answers)


def report(session: Session, done: str, answers: list[Acted]) -> int:
    """
    Print to which jobs it was *done* as *answers* say, and return the exit code.
    """
    ids = [each for answer in answers for each in answer.ids]
    errors = [error for answer in answers for error in answer.errors]
    if session.structured:
        session.print_json(acted_document(answers))
    elif session.quiet:
        for each in ids:
            session.print(each)
    elif ids:
        shown = f"{len(ids)} jobs" if len(ids) > 20 else " ".join(ids)
        session.print(f"{done} {shown}")
    for error in errors:
        session.complain(error.message)
    if errors:
        return worst_code(errors)
    if not ids:
        session.complain("no job matches")
        return EXIT_NOTHING
    return EXIT_DONE


def worst_code(errors: list[JobError]) -> int:
    """
    Return the exit code for *errors*: a missing job first, then a wrong state, then the rest.
    """
    codes = {exit_code(error.code) for error in errors}
    for code in (EXIT_CODES["not_found"], EXIT_CODES["conflict"]):
        if code in codes:
            return code
    return min(codes)


def prune(session: Session, arguments: Arguments) -> int:
    """
    Forget finished jobs.
    """
    from queuectl.durations import parse_duration

    older_than_ms = None
    if text := arguments.value("older-than"):
        try:
            older_than_ms = parse_duration(text)
        except ValueError as error:
            raise UsageError(f"--older-than: {error}; got {text!r}") from error
    if arguments.operands:
        select = selection(arguments)
    else:
        states, queue = states_of(arguments), arguments.value("queue")
        select = Selection(states=states, queue=queue, all=not states and queue is None)
    return act(session, "prune", select, older_than_ms)


def _do(action: Action) -> Callable[[Session, Arguments], int]:
    return lambda session, arguments: act(session, action, selection(arguments))


def _command(action: Action, summary: str, details: str = "") -> Command:
    return Command(
        (action,),
        summary,
        _do(action),
        operands="ID... | --state STATE | --queue NAME | --all",
        operands_max=None,
        options=FILTER_OPTIONS,
        details=details,
        examples=(f"queuectl {action} 17", f"queuectl {action} 1-3,7 job1"),
    )


COMMANDS = (
    _command(
        "cancel",
        "cancel jobs",
        "A running job gets SIGTERM, with all its processes, and SIGKILL after its kill-after.",
    ),
    _command(
        "retry",
        "start dead, cancelled or failed jobs again, now, with all their attempts",
        "The history is kept. With --all: the dead ones.",
    ),
    _command("hold", "keep jobs that have not started from starting"),
    _command("release", "let held jobs go on"),
    Command(
        ("prune",),
        "forget finished jobs and their output",
        prune,
        operands="[ID...]",
        operands_max=None,
        options=(
            STATE_OPTION,
            QUEUE_OPTION,
            Option("older-than", "only what finished this long ago", value="DURATION"),
        ),
        examples=("queuectl prune --state completed --older-than 1d",),
    ),
)
