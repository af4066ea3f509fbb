"""
The user's named queues: made on first use, limited, paused, resumed, deleted.

All of them are in one record, so that the last one says everything.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from queuectl.protocol import (
    DEFAULT_QUEUE,
    QUEUES_MAX,
    WORKERS_MAX,
    DeleteQueue,
    Done,
    ListQueues,
    Queues,
    SetQueue,
)
from queuectl.views import FINISHED_STATES
from queuectld.core import views
from queuectld.core.admission import check_name, excerpt, shorten
from queuectld.core.effects import Reply
from queuectld.core.job import NamedQueue
from queuectld.core.records import QueuesChanged
from queuectld.core.refusal import Refusal

if TYPE_CHECKING:
    from queuectld.core.queue import Queue


def check_new(queue: "Queue", name: str, new: set[str]) -> None:
    """
    Refuse a named queue that cannot be made: its name, or one too many. *new* are those that the
    same request makes.
    """
    known = queue.state.queues.get(name)
    if name in new or (known is not None and known.listed):
        return
    check_name(name, "queue")
    listed_count = sum(each.listed for each in queue.state.queues.values())
    if listed_count + len(new) >= QUEUES_MAX:
        raise Refusal(
            "try_later",
            f"queue {shorten(name)} would be one more than the limit of {QUEUES_MAX}; "
            "delete one that is not needed: queuectl queue delete NAME",
            "queue",
        )
    new.add(name)


def make(queue: "Queue", names: Iterable[str]) -> None:
    """
    See to it that these named queues are there.
    """
    queues = queue.state.queues
    missing = [name for name in names if name not in queues or not queues[name].listed]
    if missing:
        table = _table(queue)
        table.update((name, (0, False)) for name in missing)
        queue.record(QueuesChanged(table))


def _table(queue: "Queue") -> dict[str, tuple[int, bool]]:
    return {
        each.name: (each.concurrency, each.paused)
        for each in queue.state.queues.values()
        if each.listed
    }


def _known(queue: "Queue", name: str) -> NamedQueue:
    known = queue.state.queues.get(name)
    if known is None or not known.listed:
        raise Refusal("not_found", f"no queue {shorten(name)}; queuectl queue list shows them")
    return known


def show(queue: "Queue", client: int, request: ListQueues, now: int) -> None:
    """
    Answer with all named queues, or the one asked for.
    """
    if request.name is not None:
        queues = [_known(queue, request.name)]
    else:
        queues = [queue.state.queues[name] for name in sorted(_table(queue))]
    response = Queues(call=request.call, queues=[views.queue_view(each) for each in queues])
    queue.do(Reply(client, response))


def change(queue: "Queue", client: int, request: SetQueue, now: int) -> None:
    """
    Set a limit, pause or resume.
    """
    check_name(request.name, "queue")
    if request.concurrency is not None and not 0 <= request.concurrency <= WORKERS_MAX:
        raise Refusal(
            "usage", f"concurrency must be between 0 (no limit) and {WORKERS_MAX}", "concurrency"
        )
    if request.paused is not None and request.concurrency is None:
        _known(queue, request.name)  # Pausing a misspelt name must not make a queue.
    check_new(queue, request.name, set())
    table = _table(queue)
    concurrency, paused = table.get(request.name, (0, False))
    if request.concurrency is not None:
        concurrency = request.concurrency
    if request.paused is not None:
        paused = request.paused
    table[request.name] = (concurrency, paused)
    queue.record(QueuesChanged(table))
    view = views.queue_view(queue.state.queues[request.name])
    queue.do(Reply(client, Queues(call=request.call, queues=[view], durable=queue.durable)))


def delete(queue: "Queue", client: int, request: DeleteQueue, now: int) -> None:
    """
    Forget a named queue. Finished jobs may go on naming it.
    """
    known = _known(queue, request.name)
    if request.name == DEFAULT_QUEUE:
        raise Refusal("conflict", "the queue default cannot be deleted")
    unfinished = sum(n for state, n in known.counts.items() if state not in FINISHED_STATES)
    if unfinished:
        raise Refusal(
            "conflict",
            f"the queue has unfinished jobs ({unfinished}); cancel them first: "
            f"queuectl cancel --all --queue {excerpt(known.name)}",
        )
    table = _table(queue)
    del table[request.name]
    queue.record(QueuesChanged(table))
    queue.do(Reply(client, Done(call=request.call, durable=queue.durable)))
