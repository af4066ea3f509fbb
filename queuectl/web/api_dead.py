"""
The API's dead letter queue: the jobs whose attempts are used up.

Whoever says dlq means dead jobs: `retry` would start a failed or cancelled one too.
"""

from starlette.responses import Response

from queuectl.documents import detail_document
from queuectl.errors import RequestRefused, UsageError
from queuectl.protocol import Act, Acted, Action, Jobs, List, Selection
from queuectl.views import JobError, JobView
from queuectl.web import api_jobs, shapes
from queuectl.web.api_jobs import FILTERS, ON_ONE
from queuectl.web.operations import Answer, Body, Call, Operation, answer_json
from queuectl.web.shapes import DeadFields

#: Jobs that are asked for at once: so many that what they run fits into an answer.
_ASK_JOBS = 25
_NOT_DEAD = "job {id} is {state}, not in the dead letter queue"


async def index(call: Call) -> Response:
    """
    List the dead jobs, newest first.
    """
    return await api_jobs.page(call, ["dead"])


async def show(call: Call) -> Response:
    """
    Answer with all about one dead job.
    """
    detail = await api_jobs.detail(call)
    _check_dead(detail.job)
    return answer_json(detail_document(detail))


async def retry(call: Call) -> Response:
    """
    Start a dead job again.
    """
    _check_dead((await api_jobs.detail(call)).job)
    return await api_jobs.act_on_one(call, "retry")


async def retry_many(call: Call) -> Response:
    """
    Start dead jobs again.
    """
    return await _act_on_many(call, "retry")


async def purge_many(call: Call) -> Response:
    """
    Forget dead jobs and their output.
    """
    return await _act_on_many(call, "purge")


def _check_dead(job: JobView) -> None:
    if job.state != "dead":
        raise RequestRefused("conflict", _NOT_DEAD.format(id=job.id, state=job.state))


async def _act_on_many(call: Call, action: Action) -> Response:
    fields = await call.fields(DeadFields)
    if fields.all == bool(fields.ids):
        raise UsageError(f"{action}: give ids, or all: true", "ids")
    if fields.all:
        select = Selection(states=["dead"], after=fields.after)
        return api_jobs.answer_acted(await call.link.call(Act(action=action, select=select), Acted))
    numbers, errors = await _pick(call, fields.ids)
    acted = Acted(ids=[])
    if numbers:
        select = Selection(ids=numbers)
        acted = await call.link.call(Act(action=action, select=select), Acted)
    return api_jobs.answer_acted(
        Acted(ids=acted.ids, errors=[*errors, *acted.errors], more=acted.more)
    )


async def _pick(call: Call, ids: list[str]) -> tuple[list[str], list[JobError]]:
    """
    Return the numbers of those jobs that are dead, and an error for each other.
    """
    jobs: list[JobView] = []
    errors: list[JobError] = []
    for start in range(0, len(ids), _ASK_JOBS):
        some = ids[start : start + _ASK_JOBS]
        try:
            jobs += (await call.link.call(List(ids=some), Jobs)).jobs
            continue
        except RequestRefused:
            pass  # One of them, at least: it is found by asking for each.
        for each in some:
            try:
                jobs += (await call.link.call(List(ids=[each]), Jobs)).jobs
            except RequestRefused as error:
                errors.append(JobError(code=error.code, message=str(error), id=each[:128]))
    for job in jobs:
        if job.state != "dead":
            message = _NOT_DEAD.format(id=job.id, state=job.state)
            errors.append(JobError(code="conflict", message=message, id=job.id))
    return [str(job.number) for job in jobs if job.state == "dead"], errors


OPERATIONS = (
    Operation(
        method="GET",
        path="/dlq",
        name="list_dead",
        summary="List dead jobs, newest first.",
        run=index,
        query=FILTERS,
        answers=(Answer(help="A page of jobs.", type=shapes.JobPage),),
    ),
    Operation(
        method="POST",
        path="/dlq/retry",
        name="retry_dead",
        summary="Start dead jobs again with all their attempts; their history is kept.",
        scope="manage",
        run=retry_many,
        body=Body(
            type=shapes.DeadFields, examples={"all": {"all": True}, "some": {"ids": ["17", "18"]}}
        ),
        answers=(Answer(help="What was done.", type=shapes.ActedOn),),
    ),
    Operation(
        method="POST",
        path="/dlq/purge",
        name="purge_dead",
        summary="Forget dead jobs and their output.",
        scope="manage",
        run=purge_many,
        body=Body(
            type=shapes.DeadFields, examples={"all": {"all": True}, "some": {"ids": ["17", "18"]}}
        ),
        answers=(Answer(help="What was done.", type=shapes.ActedOn),),
    ),
    Operation(
        method="GET",
        path="/dlq/{id}",
        name="get_dead",
        summary="All about one dead job.",
        run=show,
        answers=(Answer(help="The job.", type=shapes.JobInFull),),
        refusals=(404, 409),
    ),
    Operation(
        method="POST",
        path="/dlq/{id}/retry",
        name="retry_one_dead",
        summary="Start a dead job again.",
        run=retry,
        **ON_ONE,  # type: ignore[arg-type]
    ),
)
