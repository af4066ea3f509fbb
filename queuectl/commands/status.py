"""
`status`: the whole on one page.
"""

from queuectl.commands.workers import worker_rows
from queuectl.documents import status_document
from queuectl.durations import describe_duration
from queuectl.errors import EXIT_DONE
from queuectl.options import Arguments, Command
from queuectl.protocol import Status, StatusReport
from queuectl.selection import job_to_ask
from queuectl.session import Session
from queuectl.sizes import describe_size
from queuectl.tables import print_pairs, print_table
from queuectl.views import JOB_STATES

#: Idle workers are listed up to so many; of more only the busy ones.
_IDLE_ROWS_MAX = 16


def status(session: Session, _arguments: Arguments) -> int:
    """
    Print the state of everything.
    """
    with session.connect() as client:
        report = client.call(Status(), StatusReport)
    if session.structured:
        session.print_json(status_document(report, client.path))
        return EXIT_DONE
    if session.quiet:
        for worker in report.workers:
            job = job_to_ask(worker)
            if job is not None:
                session.print(job)
        return EXIT_DONE
    print_pairs(session, _pairs(report))
    workers = report.workers
    if len(workers) > _IDLE_ROWS_MAX:
        workers = [worker for worker in workers if worker.state != "idle"]
    if workers:
        session.print("")
        print_table(session, *worker_rows(workers, session.now))
    return EXIT_DONE


def _pairs(report: StatusReport) -> list[tuple[str, str]]:
    daemon, journal = report.daemon, report.journal
    uptime = describe_duration(daemon.uptime_ms)
    size = describe_size(journal.size_bytes)
    active_count = sum(worker.state != "idle" for worker in report.workers)
    segments = "segment" if journal.segment_count == 1 else "segments"
    pairs = [
        (
            "daemon",
            f"queuectld {daemon.version}, pid {daemon.pid}, up {uptime}, {report.mode} mode",
        ),
        ("runner", "not connected" if report.runner is None else f"pid {report.runner.pid}"),
        (
            "journal",
            f"{size} in {journal.segment_count} {segments}, durability {journal.durability}"
            + ("" if journal.state == "ok" else f", {journal.state}"),
        ),
        ("jobs", _by_state(report.jobs)),
        ("workers", f"{active_count} active, {len(report.workers) - active_count} idle"),
        ("dlq", f"{report.dlq} dead"),
    ]
    if report.seen_jobs is not None and report.seen_jobs != report.jobs:
        pairs.append(("yours", _by_state(report.seen_jobs)))
    if report.paused_queues:
        pairs.append(("paused", ", ".join(report.paused_queues)))
    if report.notes:
        pairs.append(("note", "\n".join(report.notes)))
    return pairs


def _by_state(jobs: dict[str, int]) -> str:
    counts = [f"{jobs[each]} {each}" for each in JOB_STATES if jobs.get(each)]
    # States of a newer daemon, which this program has no place for.
    counts += [f"{n} {each}" for each, n in jobs.items() if n and each not in JOB_STATES]
    return ", ".join(counts) or "none"


COMMANDS = (
    Command(
        ("status",),
        "show jobs by state, workers, the daemon and its journal",
        status,
        details="This is what `queuectl` without a command does.",
    ),
)
