"""
`worker`: the slots in which jobs run.
"""

from queuectl.documents import worker_document
from queuectl.durations import describe_duration
from queuectl.errors import EXIT_DONE
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import ListWorkers, StartWorkers, StopWorkers, Workers
from queuectl.selection import job_to_ask
from queuectl.session import Session
from queuectl.tables import print_table, text_or_dash
from queuectl.views import WorkerView


def start(session: Session, arguments: Arguments) -> int:
    """
    Add slots.
    """
    with session.connect() as client:
        answer = client.call(StartWorkers(count=arguments.count("count")), Workers)
    if session.structured or session.quiet:
        return _print(session, [each for each in answer.workers if each.slot in answer.added])
    added = ", ".join(map(str, answer.added))
    session.print(f"started {_count(len(answer.added))} (slot {added}), now {len(answer.workers)}")
    return EXIT_DONE


def stop(session: Session, arguments: Arguments) -> int:
    """
    Drain all slots.
    """
    now = arguments.flag("now")
    with session.connect() as client:
        answer = client.call(StopWorkers(cancel_running=now), Workers)
    if session.structured or session.quiet:
        return _print(session, answer.workers)
    left = answer.draining_count
    if not left:
        session.print("stopped all workers")
    else:
        jobs = "its job" if left == 1 else "their jobs"
        how = f"cancelling {jobs}" if now else f"until the end of {jobs}"
        session.print(f"stopping: {_count(left)} still busy, {how}")
    return EXIT_DONE


def list_workers(session: Session, _arguments: Arguments) -> int:
    """
    Print every slot.
    """
    with session.connect() as client:
        workers = client.call(ListWorkers(), Workers).workers
    return _print(session, workers)


def worker_rows(
    workers: list[WorkerView], now: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """
    Return the header and rows of a table of slots.
    """
    header = ("SLOT", "STATE", "UPTIME", "JOB", "PID", "RUNS FOR", "COMMAND")
    return header, [
        (
            str(each.slot),
            each.state,
            describe_duration(each.uptime_ms),
            text_or_dash(job_to_ask(each)),
            text_or_dash(each.pid),
            "-" if each.job_started_at is None else describe_duration(now - each.job_started_at),
            text_or_dash(each.command if each.command is not None else _whose(each)),
        )
        for each in workers
    ]


def _whose(worker: WorkerView) -> str | None:
    return None if worker.user is None else f"({worker.user}'s)"


def _print(session: Session, workers: list[WorkerView]) -> int:
    if session.structured:
        session.print_json_array(worker_document(worker) for worker in workers)
    elif session.quiet:
        for worker in workers:
            session.print(str(worker.slot))
    elif workers:
        print_table(session, *worker_rows(workers, session.now))
    else:
        session.complain("no workers: queuectl worker start")
    return EXIT_DONE


def _count(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


COMMANDS = (
    Command(
        ("worker", "start"),
        "add workers: so many more jobs run at once",
        start,
        options=(
            Option(
                "count",
                "how many (default: 1, or the setting `workers` if there are none)",
                value="N",
                short="n",
            ),
        ),
        examples=("queuectl worker start --count 3",),
    ),
    Command(
        ("worker", "stop"),
        "stop all workers; running jobs finish first",
        stop,
        options=(Option("now", "cancel the running jobs"),),
    ),
    Command(("worker", "list"), "list the workers and what they run", list_workers),
)
