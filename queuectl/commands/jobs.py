"""
`list` and `show`: jobs one per line, and all about one.
"""

import re
from collections.abc import Iterator

from queuectl.client import Client
from queuectl.documents import detail_document, encode_json, job_document
from queuectl.durations import describe_duration, format_duration
from queuectl.endings import ending
from queuectl.errors import EXIT_DONE, RequestRefused, UsageError
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import JobDetail, List, Show
from queuectl.selection import (
    QUEUE_OPTION,
    STATE_OPTION,
    id_to_ask,
    jobs_by_page,
    split_ids,
    states_of,
)
from queuectl.session import Session
from queuectl.sizes import describe_size
from queuectl.tables import job_rows, moment, print_pairs, print_table, state_of, text_or_dash
from queuectl.views import JobState, RunView

#: What fits on a screen or two. Scripts get everything, so that none counts a part for the whole.
_TERMINAL_LIMIT = 50

_RANGE = re.compile("[0-9]+-[0-9]+")


def list_jobs(session: Session, arguments: Arguments) -> int:
    """
    Print the jobs that match, newest first.
    """
    if not arguments.operands:
        return print_jobs(session, arguments, filtered(arguments, states_of(arguments)))
    if any(map(arguments.flag, ("state", "queue", "user", "search", "after"))):
        raise UsageError("list: give ids or filters, not both")
    return print_jobs(session, arguments, List(ids=split_ids(arguments.operands)))


def filtered(arguments: Arguments, states: list[JobState]) -> List:
    """
    Return the request for the jobs in *states* that pass the other list options.
    """
    return List(
        states=states,
        queue=arguments.value("queue"),
        user=arguments.value("user"),
        search=arguments.value("search"),
        after=arguments.value("after"),
    )


def print_jobs(session: Session, arguments: Arguments, request: List) -> int:
    """
    Print the jobs of *request*, as many as the options allow.
    """
    limit = arguments.count("limit")
    if limit is None and session.on_terminal and not session.structured:
        limit = _TERMINAL_LIMIT
    with session.connect() as client:
        found = jobs_by_page(client, request, limit or None)
        if session.structured:
            session.print_json_array(job_document(job) for job in found)
        elif session.quiet:
            for job in found:
                session.print(id_to_ask(job))
        else:
            jobs = list(found)
            if jobs:
                print_table(session, *job_rows(jobs, session.now))
            else:
                session.complain("no job matches")
            if limit and len(jobs) == limit and arguments.count("limit") is None:
                session.complain(f"the newest {limit}; --limit 0 shows all")
    return EXIT_DONE


def show(session: Session, arguments: Arguments) -> int:
    """
    Print all about the jobs named.
    """
    return show_each(session, arguments, None)


def show_each(session: Session, arguments: Arguments, state: JobState | None) -> int:
    """
    Print all about the jobs named, which must be in *state* if that is given.
    """
    with session.connect() as client:
        details = [
            client.call(Show(id=each), JobDetail)
            for each in expand(client, split_ids(arguments.operands))
        ]
    for detail in details:
        if state is not None and detail.job.state != state:
            raise RequestRefused("conflict", f"job {detail.job.id} is {detail.job.state}")
    if session.jsonl:
        for detail in details:
            session.print(encode_json(detail_document(detail)))
    elif session.json:
        documents = [detail_document(detail) for detail in details]
        session.print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for index, detail in enumerate(details):
            if index:
                session.print("")
            _print_detail(session, detail)
    return EXIT_DONE


def expand(client: Client, ids: list[str]) -> Iterator[str]:
    """
    Yield *ids*, ranges among them as the jobs that they hold, the oldest first.
    """
    for each in ids:
        if _RANGE.fullmatch(each):
            found = [id_to_ask(job) for job in jobs_by_page(client, List(ids=[each]), None)]
            yield from reversed(found) if found else [each]
        else:
            yield each


def _print_detail(session: Session, detail: JobDetail) -> None:
    if session.quiet:
        session.print(id_to_ask(detail.job))
        return
    print_pairs(session, _detail_pairs(session, detail))
    if detail.runs:
        session.print("")
        header = ("ATTEMPT", "STARTED", "TOOK", "SLOT", "CPU", "MEMORY", "END")
        print_table(session, header, [_run_row(run, session.now) for run in detail.runs])


def _detail_pairs(session: Session, detail: JobDetail) -> list[tuple[str, str]]:
    job, now = detail.job, session.now
    number = "" if job.id == str(job.number) else f" (number {job.number})"
    pairs = [
        ("job", f"{job.id}{number}"),
        ("state", state_of(job)),
        ("why", detail.why),
        ("next", detail.next),
        ("command", job.command),
        ("argv", "" if job.argv is None else repr(job.argv)),
        ("user", job.user or ""),
        ("by", f"{job.enqueued_by}, who enqueued it" if job.enqueued_by else ""),
        ("queue", f"{job.queue}, priority {job.priority}"),
        ("attempts", f"{job.attempts} of {job.max_retries + 1}"),
        ("timeout", text_or_dash(job.timeout_ms, format_duration)),
        ("kill after", "" if job.kill_after_ms is None else format_duration(job.kill_after_ms)),
        ("if lost", job.on_lost),
        ("directory", text_or_dash(job.cwd)),
        ("umask", f"{detail.umask:04o}"),
        ("output", "file and the system's journal" if job.output == "journal" else ""),
        ("created", moment(job.created_at, now)),
        ("run at", "" if job.run_at is None else moment(job.run_at, now)),
        ("next run", "" if job.next_run_at is None else moment(job.next_run_at, now)),
        ("started", moment(job.started_at, now)),
        ("finished", moment(job.finished_at, now)),
        ("updated", moment(job.updated_at, now)),
        ("running", "" if job.pid is None else f"pid {job.pid} in slot {text_or_dash(job.worker)}"),
        ("last end", ending(job)),
        ("last error", job.last_error or ""),
        ("environment", "\n".join(f"{name}={value}" for name, value in sorted(detail.env.items()))),
        ("script", detail.script.rstrip("\n") if detail.script else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _run_row(run: RunView, now: int) -> tuple[str, ...]:
    cpu_ms = None if run.user_ms is None else run.user_ms + (run.system_ms or 0)
    end = "running" if run.ended_at is None else run.error or ending(run) or str(run.end)
    return (
        str(run.attempt),
        moment(run.started_at, now).partition(" (")[0],
        describe_duration((run.ended_at or now) - run.started_at),
        str(run.worker),
        text_or_dash(cpu_ms, describe_duration),
        text_or_dash(run.memory_max_bytes, describe_size),
        end,
    )


LIST_OPTIONS = (
    QUEUE_OPTION,
    Option("user", "only jobs of this account: for admins", value="NAME"),
    Option(
        "search",
        "only jobs with this text in their id, command or script name, in any case",
        value="TEXT",
    ),
    Option(
        "limit",
        f"at most so many, 0 for all (default: {_TERMINAL_LIMIT} on a terminal, else all)",
        value="N",
        short="n",
    ),
    Option("after", "go on after this job, the last one of a list before", value="ID"),
)

COMMANDS = (
    Command(
        ("list",),
        "list jobs, newest first",
        list_jobs,
        operands="[ID...]",
        operands_max=None,
        options=(STATE_OPTION, *LIST_OPTIONS),
        examples=("queuectl list --state pending", "queuectl list --state dead --json"),
    ),
    Command(
        ("show",),
        "show all about a job: its attempts, why it is in its state, what happens next",
        show,
        operands="ID...",
        operands_min=1,
        operands_max=None,
        examples=("queuectl show last", "queuectl show job1 --json"),
    ),
)
