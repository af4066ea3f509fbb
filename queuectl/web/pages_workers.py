"""
The slots in which jobs run, and the named queues that they run from.
"""

from starlette.requests import Request
from starlette.responses import Response

from queuectl.errors import RequestRefused, UsageError
from queuectl.protocol import (
    Config,
    DeleteQueue,
    Done,
    ListQueues,
    Queues,
    SetConfig,
    SetQueue,
    StartWorkers,
    Status,
    StatusReport,
    StopWorkers,
    Workers,
)
from queuectl.settings import check
from queuectl.web.pages_forms import confirm, go, local_path, read_form
from queuectl.web.pages_rendering import Said, reason_of, show
from queuectl.web.rendering import counted
from queuectl.web.visitor import visitor_of

# Rows of workers on a page: of more, the busy ones come first and the others are counted.
WORKERS_SHOWN_MAX = 60
QUEUES_SHOWN_MAX = 30


async def workers_page(request: Request) -> Response:
    """
    GET /workers.
    """
    report = await visitor_of(request).link.call(Status(), StatusReport)
    workers = report.workers
    if len(workers) > WORKERS_SHOWN_MAX:
        workers = sorted(workers, key=lambda each: (each.state == "idle", each.slot))
    return await show(
        request,
        "workers.html",
        report=report,
        title="Workers",
        workers=workers[:WORKERS_SHOWN_MAX],
        taking=sum(worker.state != "draining" for worker in workers),
    )


async def act_on_workers(request: Request) -> Response:
    """
    POST /workers/act: start some more, have exactly so many, or stop all.
    """
    form = await read_form(request)
    link = visitor_of(request).link
    action = form.text("action")
    try:
        if action == "start":
            answer = await link.call(StartWorkers(count=form.number("count")), Workers)
            text = f"Started {counted(len(answer.added), 'worker')}."
        elif action == "scale":
            count = form.number("count")
            rule = check("workers", count) if count is not None else "needs a number"
            if rule:
                raise UsageError(f"The number of workers {rule}.")
            await link.call(SetConfig(key="workers", value=count), Config)
            text = f"There are {counted(count or 0, 'worker')} now; busy ones beyond that drain."
        elif action == "stop":
            hard = form.flag("cancel_running")
            if not form.flag("confirmed"):
                details = (
                    "Their running jobs are cancelled." if hard else "Running jobs finish first."
                )
                return await confirm(
                    request,
                    form,
                    "Stop all workers?",
                    yes="Yes, stop",
                    back="/workers",
                    details=f"Nothing is started until there are workers again. {details}",
                )
            left = await link.call(StopWorkers(cancel_running=hard), Workers)
            busy = counted(left.draining_count, "worker")
            text = (
                f"Stopping: {busy} still busy." if left.draining_count else "Stopped all workers."
            )
        else:
            raise UsageError(f"no action {action!a} on workers: start, scale or stop")
    except (RequestRefused, UsageError) as error:
        return go(request, "/workers", reason_of(error))
    return go(request, local_path(form.text("next"), "/workers"), Said(text))


async def queues_page(request: Request) -> Response:
    """
    GET /queues.
    """
    answer = await visitor_of(request).link.call(ListQueues(), Queues)
    return await show(
        request,
        "queues.html",
        title="Queues",
        queues=answer.queues[:QUEUES_SHOWN_MAX],
        more=max(len(answer.queues) - QUEUES_SHOWN_MAX, 0),
    )


async def act_on_queue(request: Request) -> Response:
    """
    POST /queues/act: limit, pause, resume or delete one queue.
    """
    form = await read_form(request)
    link = visitor_of(request).link
    action, name = form.text("action"), form.text("name")
    try:
        if action == "limit":
            count = form.number("concurrency") or 0
            await link.call(SetQueue(name=name, concurrency=count), Queues)
            limit = f"runs at most {counted(count, 'job')} at once" if count else "has no limit"
            text = f"Queue {name} {limit}."
        elif action in ("pause", "resume"):
            await link.call(SetQueue(name=name, paused=action == "pause"), Queues)
            text = f"{'Paused' if action == 'pause' else 'Resumed'} queue {name}."
        elif action == "delete":
            if not form.flag("confirmed"):
                return await confirm(
                    request,
                    form,
                    f"Delete queue {name}?",
                    yes="Yes, delete",
                    back="/queues",
                    details="Its limit is forgotten. A queue with unfinished jobs is kept.",
                )
            await link.call(DeleteQueue(name=name), Done)
            text = f"Deleted queue {name}."
        else:
            raise UsageError(f"no action {action!a} on a queue: limit, pause, resume or delete")
    except (RequestRefused, UsageError) as error:
        return go(request, "/queues", reason_of(error))
    return go(request, "/queues", Said(text))
