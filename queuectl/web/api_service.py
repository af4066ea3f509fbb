"""
The API's workers, queues and settings, and what it says of itself; waiting for jobs.
"""

import asyncio
from contextlib import aclosing
from typing import Any, cast

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from queuectl import __version__
from queuectl.documents import (
    job_document,
    queue_document,
    setting_document,
    status_document,
    worker_document,
)
from queuectl.errors import CallTimedOut, RequestRefused, UsageError, suggestion
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Config,
    DeleteQueue,
    Done,
    GetConfig,
    ListQueues,
    ListWorkers,
    Queues,
    SetConfig,
    SetQueue,
    StartWorkers,
    Status,
    StatusReport,
    StopWorkers,
    Wait,
    Waited,
    Workers,
)
from queuectl.setting_text import convert_setting
from queuectl.settings import SETTINGS, canonical
from queuectl.views import SettingView
from queuectl.web import shapes
from queuectl.web.api_jobs import span_ms
from queuectl.web.operations import Answer, Body, Call, Operation, answer_json
from queuectl.web.shapes import QueueFields, SettingFields, StartFields, StopFields, WaitFields

#: How long a request waits for jobs, if it does not say, and at most: proxies give up earlier.
WAIT_MS = 30_000
WAIT_MS_MAX = 3_600_000


# --- workers ------------------------------------------------------------------------------------


async def list_workers(call: Call) -> Response:
    """
    List the slots.
    """
    return _answer_workers(await call.link.call(ListWorkers(), Workers))


async def start_workers(call: Call) -> Response:
    """
    Add slots.
    """
    fields = await call.fields(StartFields)
    return _answer_workers(await call.link.call(StartWorkers(count=fields.count), Workers))


async def stop_workers(call: Call) -> Response:
    """
    Drain every slot.
    """
    fields = await call.fields(StopFields)
    return _answer_workers(await call.link.call(StopWorkers(cancel_running=fields.now), Workers))


def _answer_workers(found: Workers) -> Response:
    return answer_json(
        {
            "workers": [worker_document(worker) for worker in found.workers],
            "added": found.added,
            "draining_count": found.draining_count,
        }
    )


# --- queues -------------------------------------------------------------------------------------


async def list_queues(call: Call) -> Response:
    """
    List the named queues.
    """
    found = await call.link.call(ListQueues(), Queues)
    return answer_json({"queues": [queue_document(queue) for queue in found.queues]})


async def show_queue(call: Call) -> Response:
    """
    Answer with one queue.
    """
    name = call.place("name")
    found = await call.link.call(ListQueues(name=name), Queues)
    if not found.queues:
        raise RequestRefused("not_found", f"no queue {name[:60]!a}")
    return answer_json(queue_document(found.queues[0]))


async def set_queue(call: Call) -> Response:
    """
    Change a queue, which is made if it is not there.
    """
    fields = await call.fields(QueueFields)
    concurrency = None if fields.concurrency is UNSET else fields.concurrency or 0
    paused = None if fields.paused is UNSET else fields.paused
    if concurrency is None and paused is None:
        raise UsageError("nothing to set; give concurrency or paused")
    return await _set_queue(call, concurrency, paused)


async def pause_queue(call: Call) -> Response:
    """
    Start no more jobs of a queue.
    """
    return await _set_queue(call, None, True)


async def resume_queue(call: Call) -> Response:
    """
    Start jobs of a queue again.
    """
    return await _set_queue(call, None, False)


async def delete_queue(call: Call) -> Response:
    """
    Forget a queue that holds no unfinished job.
    """
    await call.link.call(DeleteQueue(name=call.place("name")), Done)
    return Response(None, 204)


async def _set_queue(call: Call, concurrency: int | None, paused: bool | None) -> Response:
    request = SetQueue(name=call.place("name"), concurrency=concurrency, paused=paused)
    found = await call.link.call(request, Queues)
    return answer_json(queue_document(found.queues[0]))


# --- settings -----------------------------------------------------------------------------------


async def list_settings(call: Call) -> Response:
    """
    List every setting.
    """
    found = await call.link.call(GetConfig(), Config)
    return answer_json({"settings": [setting_document(each) for each in found.settings]})


async def show_setting(call: Call) -> Response:
    """
    Answer with one setting.
    """
    key = setting_key(call.place("key"))
    found = await call.link.call(GetConfig(), Config)
    return answer_json(setting_document(_setting(found, key)))


async def set_setting(call: Call) -> Response:
    """
    Change a setting.
    """
    key = setting_key(call.place("key"))
    fields = await call.fields(SettingFields)
    return await _set(call, setting_request(key, fields.value))


async def unset_setting(call: Call) -> Response:
    """
    Give a setting its default again.
    """
    return await _set(call, SetConfig(key=setting_key(call.place("key")), unset=True))


async def _set(call: Call, request: SetConfig) -> Response:
    found = await call.link.call(request, Config)
    return answer_json(setting_document(_setting(found, request.key)))


def setting_key(text: str) -> str:
    """
    Return the name of the setting that *text* means. Raises RequestRefused.
    """
    key = canonical(text)
    if key is None:
        hint = suggestion(text.replace("-", "_")[:60], SETTINGS)
        raise RequestRefused("not_found", f"unknown setting {text[:60]!a}{hint}", "key")
    return key


def setting_request(key: str, value: object) -> SetConfig:
    """
    Return the request that gives the setting *key* a value of JSON. Raises UsageError.
    """
    try:
        return SetConfig(key=key, value=convert_setting(SETTINGS[key], value))
    except ValueError as error:
        raise UsageError(str(error), "value") from error


def _setting(found: Config, key: str) -> SettingView:
    for setting in found.settings:
        if setting.key == key:
            return setting
    raise RequestRefused("unsupported", f"the daemon has no setting {key}; it is older than this")


# --- the whole ----------------------------------------------------------------------------------


async def status(call: Call) -> Response:
    """
    Answer with the whole in numbers.
    """
    report = await call.link.call(Status(), StatusReport)
    return answer_json(status_document(report, call.link.path))


async def version(call: Call) -> Response:
    """
    Answer with the versions of both processes.
    """
    await call.link.call(GetConfig(), Config)  # So that the greeting is of the daemon that runs.
    welcome = call.link.welcome
    return answer_json(
        {
            "gateway": __version__,
            "protocol": PROTOCOL_VERSION,
            "daemon": welcome.version,
            "pid": welcome.pid,
        }
    )


# --- waiting ------------------------------------------------------------------------------------


async def wait(call: Call) -> Response:
    """
    Answer when jobs have finished.
    """
    fields = await call.fields(WaitFields)
    timeout_ms = WAIT_MS if fields.timeout is None else span_ms("timeout", fields.timeout)
    if timeout_ms > WAIT_MS_MAX:
        rule = f"must be at most {WAIT_MS_MAX // 1000} seconds"
        raise UsageError(f"timeout: {rule}; ask again when the time is up", "timeout")
    request = Wait(ids=fields.ids, any=fields.any)
    # Over a connection of its own, whose end gives the waiting up.
    async with aclosing(cast(Any, call.link.stream(request, Waited, Waited))) as answers:
        waited = await _unless_gone(anext(answers), call.request, timeout_ms)
    return answer_json({"jobs": [job_document(job) for job in waited.jobs]})


async def _unless_gone(answer: Any, request: Request, timeout_ms: int) -> Waited:
    """
    Return the answer. Raises CallTimedOut, also when there is nobody left to be answered.
    """
    answered = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(request.receive())  # After the body: that the client hung up.
    try:
        both = (answered, gone)
        await asyncio.wait(both, timeout=timeout_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            waited: Waited = answered.result()
            return waited
        raise CallTimedOut("not finished in time; the jobs go on")
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


# --- described ----------------------------------------------------------------------------------

_WORKERS = (
    Operation(
        method="GET",
        path="/workers",
        name="list_workers",
        summary="List the workers and what they run.",
        run=list_workers,
        answers=(Answer(help="The workers.", type=shapes.WorkerList),),
    ),
    Operation(
        method="POST",
        path="/workers/start",
        name="start_workers",
        summary="Add workers: so many more jobs run at once.",
        scope="manage",
        run=start_workers,
        body=Body(
            type=shapes.StartFields, examples={"one": {}, "two": {"count": 2}}, required=False
        ),
        answers=(Answer(help="The workers.", type=shapes.WorkerList),),
    ),
    Operation(
        method="POST",
        path="/workers/stop",
        name="stop_workers",
        summary="Stop all workers; running jobs finish first.",
        scope="manage",
        run=stop_workers,
        body=Body(
            type=shapes.StopFields, examples={"drain": {}, "now": {"now": True}}, required=False
        ),
        answers=(Answer(help="The workers.", type=shapes.WorkerList),),
    ),
)

_QUEUE = (Answer(help="The queue.", type=shapes.Queue),)
_QUEUES = (
    Operation(
        method="GET",
        path="/queues",
        name="list_queues",
        summary="List the queues.",
        run=list_queues,
        answers=(Answer(help="The queues.", type=shapes.QueueList),),
    ),
    Operation(
        method="GET",
        path="/queues/{name}",
        name="get_queue",
        summary="A queue: its limit, and its jobs by state.",
        run=show_queue,
        answers=_QUEUE,
        refusals=(404,),
    ),
    Operation(
        method="PUT",
        path="/queues/{name}",
        name="set_queue",
        summary="Change a queue; with a concurrency it is made if it is not there.",
        scope="manage",
        run=set_queue,
        body=Body(
            type=shapes.QueueFields,
            examples={"limit": {"concurrency": 2}, "no limit": {"concurrency": None}},
        ),
        answers=_QUEUE,
        refusals=(404,),
    ),
    Operation(
        method="DELETE",
        path="/queues/{name}",
        name="delete_queue",
        summary="Forget a queue that holds no unfinished job.",
        scope="manage",
        run=delete_queue,
        answers=(Answer(status=204, help="It is gone."),),
        refusals=(404, 409),
    ),
    Operation(
        method="POST",
        path="/queues/{name}/pause",
        name="pause_queue",
        summary="Start no more jobs of a queue; its running jobs go on.",
        scope="manage",
        run=pause_queue,
        answers=_QUEUE,
        refusals=(404,),
    ),
    Operation(
        method="POST",
        path="/queues/{name}/resume",
        name="resume_queue",
        summary="Start jobs of a queue again.",
        scope="manage",
        run=resume_queue,
        answers=_QUEUE,
        refusals=(404,),
    ),
)

_SETTING = (Answer(help="The setting.", type=shapes.Setting),)
_CONFIG = (
    Operation(
        method="GET",
        path="/config",
        name="list_settings",
        summary="List every setting.",
        run=list_settings,
        answers=(Answer(help="The settings.", type=shapes.SettingList),),
    ),
    Operation(
        method="GET",
        path="/config/{key}",
        name="get_setting",
        summary="One setting.",
        run=show_setting,
        answers=_SETTING,
        refusals=(404,),
    ),
    Operation(
        method="PUT",
        path="/config/{key}",
        name="set_setting",
        summary="Change a setting. It takes effect at once and survives restarts.",
        scope="manage",
        run=set_setting,
        body=Body(
            type=shapes.SettingFields, examples={"number": {"value": 3}, "text": {"value": "3"}}
        ),
        answers=_SETTING,
        refusals=(404,),
    ),
    Operation(
        method="DELETE",
        path="/config/{key}",
        name="unset_setting",
        summary="Give a setting its default again.",
        scope="manage",
        run=unset_setting,
        answers=_SETTING,
        refusals=(404,),
    ),
)


_WHOLE = (
    Operation(
        method="GET",
        path="/status",
        name="get_status",
        summary="The whole in numbers.",
        run=status,
        answers=(Answer(help="The whole.", type=shapes.Whole),),
    ),
    Operation(
        method="GET",
        path="/version",
        name="get_version",
        summary="The versions of the gateway and of the daemon.",
        run=version,
        answers=(Answer(help="The versions.", type=shapes.Version),),
    ),
    Operation(
        method="POST",
        path="/wait",
        name="wait_for_jobs",
        summary="Wait until jobs have finished: at most 30 seconds, or as `timeout` says.",
        run=wait,
        body=Body(
            type=shapes.WaitFields,
            examples={"all": {"ids": ["17"], "timeout": "1s"}},
        ),
        answers=(Answer(help="Those that finished.", type=shapes.JobList),),
        refusals=(404,),
    ),
)

OPERATIONS: tuple[Operation, ...] = (*_WORKERS, *_QUEUES, *_CONFIG, *_WHOLE)
