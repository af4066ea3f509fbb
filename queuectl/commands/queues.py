"""
`queue`: named queues, each with a limit of its own.
"""

from queuectl.documents import queue_document
from queuectl.errors import EXIT_DONE, RequestRefused, UsageError
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import DeleteQueue, Done, ListQueues, Queues, SetQueue
from queuectl.session import Session
from queuectl.tables import print_pairs, print_table, text_or_dash
from queuectl.views import JOB_STATES, QueueView


def list_queues(session: Session, _arguments: Arguments) -> int:
    """
    Print every queue.
    """
    with session.connect() as client:
        queues = client.call(ListQueues(), Queues).queues
    if session.structured:
        session.print_json_array(queue_document(queue) for queue in queues)
    elif session.quiet:
        for queue in queues:
            session.print(queue.name)
    else:
        header = ("NAME", "STATE", "RUNNING", "LIMIT", "PENDING", "DEAD", "JOBS")
        print_table(session, header, [_row(queue) for queue in queues])
    return EXIT_DONE


def show(session: Session, arguments: Arguments) -> int:
    """
    Print all about one queue.
    """
    name = arguments.operands[0]
    with session.connect() as client:
        queues = client.call(ListQueues(name=name), Queues).queues
    if not queues:
        raise RequestRefused("not_found", f"no queue {name!r}")
    return _print_one(session, queues[0])


def change(session: Session, arguments: Arguments) -> int:
    """
    Change a queue's limit, making the queue if it is not there.
    """
    text = arguments.value("concurrency")
    if text is None:
        raise UsageError("queue set: nothing to set; give --concurrency N")
    concurrency = 0 if text == "none" else arguments.count("concurrency")
    return _set(session, SetQueue(name=arguments.operands[0], concurrency=concurrency))


def pause(session: Session, arguments: Arguments) -> int:
    """
    Start no more jobs of a queue.
    """
    return _set(session, SetQueue(name=arguments.operands[0], paused=True))


def resume(session: Session, arguments: Arguments) -> int:
    """
    Start jobs of a queue again.
    """
    return _set(session, SetQueue(name=arguments.operands[0], paused=False))


def delete(session: Session, arguments: Arguments) -> int:
    """
    Forget a queue.
    """
    name = arguments.operands[0]
    with session.connect() as client:
        client.call(DeleteQueue(name=name), Done)
    if session.structured:
        session.print_json({"deleted": name})
    else:
        session.print(name if session.quiet else f"deleted {name}")
    return EXIT_DONE


def _set(session: Session, request: SetQueue) -> int:
    with session.connect() as client:
        queues = client.call(request, Queues).queues
    return _print_one(session, queues[0])


def _print_one(session: Session, queue: QueueView) -> int:
    if session.structured:
        session.print_json(queue_document(queue))
    elif session.quiet:
        session.print(queue.name)
    else:
        jobs = ", ".join(
            f"{queue.jobs[state]} {state}" for state in JOB_STATES if queue.jobs.get(state)
        )
        pairs = [
            ("queue", queue.name),
            ("state", _state(queue)),
            ("running", str(queue.running)),
            ("concurrency", _limit(queue)),
            ("jobs", jobs or "none"),
        ]
        print_pairs(session, pairs)
    return EXIT_DONE


def _row(queue: QueueView) -> tuple[str, ...]:
    return (
        queue.name,
        _state(queue),
        str(queue.running),
        _limit(queue),
        str(queue.jobs.get("pending", 0)),
        str(queue.jobs.get("dead", 0)),
        str(sum(queue.jobs.values())),
    )


def _state(queue: QueueView) -> str:
    return "paused" if queue.paused else "active"


def _limit(queue: QueueView) -> str:
    return text_or_dash(queue.concurrency)


def _one(word: str, summary: str, details: str = "") -> Command:
    functions = {"show": show, "pause": pause, "resume": resume, "delete": delete}
    return Command(
        ("queue", word),
        summary,
        functions[word],
        operands="NAME",
        operands_min=1,
        operands_max=1,
        details=details,
    )


COMMANDS = (
    Command(("queue", "list"), "list the queues", list_queues),
    _one("show", "show a queue: its limit and its jobs by state"),
    Command(
        ("queue", "set"),
        "change a queue's limit; the queue is made if it is not there",
        change,
        operands="NAME",
        operands_min=1,
        operands_max=1,
        options=(
            Option("concurrency", "how many of its jobs may run at once; none for all", value="N"),
        ),
        examples=("queuectl queue set heavy --concurrency 1",),
    ),
    _one("pause", "start no more jobs of a queue", "Its running jobs go on."),
    _one("resume", "start jobs of a queue again"),
    _one("delete", "forget a queue that holds no unfinished job"),
)
