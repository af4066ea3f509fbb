"""
Routes that older queuectl programs had, with the bodies that they had: for scripts and dashboards
that were written for those. What is new is in the API below /api/v1 alone.
"""

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute

from queuectl.documents import job_document, setting_document, worker_document
from queuectl.errors import UsageError
from queuectl.protocol import (
    LIST_JOBS_MAX,
    Config,
    GetConfig,
    Jobs,
    List,
    Status,
    StatusReport,
)
from queuectl.web import api_create, api_dead, api_service
from queuectl.web.operations import Answer, Body, Call, Operation, answer_json, routes_of
from queuectl.web.shapes import Everything, Job, JobFields, StartFields, StopFields, WorkerList

PREFIX = "/api"


async def everything(call: Call) -> Response:
    """
    Answer with the newest jobs, the workers, the settings and the counts, all at once.
    """
    jobs = (await call.link.call(List(limit=LIST_JOBS_MAX), Jobs)).jobs
    status = await call.link.call(Status(), StatusReport)
    return answer_json(
        {
            "jobs": [job_document(job) for job in jobs],
            "workers": [worker_document(worker) for worker in status.workers],
            "config": _values(await call.link.call(GetConfig(), Config)),
            "summary": status.jobs,
        }
    )


async def configure(call: Call) -> Response:
    """
    Change settings: `{"max_retries": 5}`, or `{"key": "max_retries", "value": 5}`.

    All are looked at before the first is changed; then one after the other is.
    """
    given: dict[str, Any] = await call.fields(dict[str, Any])
    if given.keys() == {"key", "value"} and isinstance(given["key"], str):
        given = {given["key"]: given["value"]}
    if not given:
        raise UsageError('nothing to set; give settings such as {"max_retries": 5}')
    requests = [
        api_service.setting_request(api_service.setting_key(key), value)
        for key, value in given.items()
    ]
    for request in requests:
        config = await call.link.call(request, Config)
    return answer_json(_values(config))


def _values(config: Config) -> dict[str, Any]:
    documents = [setting_document(setting) for setting in config.settings]
    return {document["key"]: document["value"] for document in documents}


OPERATIONS = (
    Operation(
        method="GET",
        path="/data",
        name="get_data",
        summary="The newest jobs, the workers, the settings by key, and the jobs by state.",
        run=everything,
        answers=(Answer(help="All of it.", type=Everything),),
    ),
    Operation(
        method="POST",
        path="/jobs",
        name="create_job",
        summary="Make a job.",
        scope="submit",
        run=api_create.create,
        body=Body(
            type=JobFields,
            examples={"job": {"command": "sleep 2", "priority": "low", "max_retries": 3}},
        ),
        answers=(Answer(status=201, help="The job, with its id.", type=Job),),
    ),
    Operation(
        method="POST",
        path="/workers/start",
        name="add_workers",
        summary="Add workers.",
        scope="manage",
        run=api_service.start_workers,
        body=Body(type=StartFields, examples={"three": {"count": 3}}, required=False),
        answers=(Answer(help="The workers.", type=WorkerList),),
    ),
    Operation(
        method="POST",
        path="/workers/stop",
        name="drain_workers",
        summary="Stop all workers; running jobs finish first.",
        scope="manage",
        run=api_service.stop_workers,
        body=Body(type=StopFields, examples={"drain": {}}, required=False),
        answers=(Answer(help="The workers.", type=WorkerList),),
    ),
    Operation(
        method="POST",
        path="/dlq/retry/{id}",
        name="retry_dead_job",
        summary="Start a dead job again.",
        scope="manage",
        run=api_dead.retry,
        answers=(Answer(help="The job.", type=Job),),
        refusals=(404, 409),
    ),
    Operation(
        method="PUT",
        path="/config",
        name="configure",
        summary="Change settings.",
        scope="manage",
        run=configure,
        body=Body(type=dict[str, Any], examples={"one": {"max_retries": 5}}),
        answers=(Answer(help="Every setting's value, by key.", type=dict[str, Any]),),
        refusals=(404,),
    ),
)


def routes() -> list[BaseRoute]:
    """
    Return the routes.
    """
    return routes_of(OPERATIONS, PREFIX)
