"""
The API's jobs: listed, looked at, acted on. Answers are what `--json` prints.
"""

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from queuectl.documents import acted_document, detail_document, job_document, run_document
from queuectl.durations import parse_duration
from queuectl.editing import Edit
from queuectl.errors import RequestRefused, UsageError
from queuectl.jobspec import fields_of_options
from queuectl.protocol import (
    ID_CHARS_MAX,
    LIST_JOBS_MAX,
    SEARCH_CHARS_MAX,
    Act,
    Acted,
    Action,
    JobDetail,
    Jobs,
    List,
    Selection,
    Show,
)
from queuectl.web import shapes
from queuectl.web.operations import Answer, Body, Call, Operation, Parameter, answer_json
from queuectl.web.shapes import ActionFields, EditFields

# --- looked at ----------------------------------------------------------------------------------


async def index(call: Call) -> Response:
    """
    List jobs, newest first.
    """
    return await page(call, call.query.get("state", []))


async def page(call: Call, states: list[Any]) -> Response:
    """
    Answer with the jobs in *states* that pass the query's other filters.
    """
    query = call.query
    request = List(
        states=states,
        queue=query.get("queue"),
        user=query.get("user"),
        search=query.get("search"),
        limit=query.get("limit", 100),
        before_number=query.get("cursor"),
    )
    found = await call.link.call(request, Jobs)
    following = None if found.next_before is None else str(found.next_before)
    headers = {}
    if following is not None:
        again = {**query, "cursor": following}
        target = f"{call.request.scope['path']}?{urlencode(again, doseq=True)}"
        headers["Link"] = f'<{target}>; rel="next"'
    jobs = [job_document(job) for job in found.jobs]
    return answer_json({"jobs": jobs, "next": following}, headers=headers)


async def show(call: Call) -> Response:
    """
    Answer with all about one job.
    """
    return answer_json(detail_document(await detail(call)))


async def detail(call: Call) -> JobDetail:
    """
    Return all about the job that the path names.
    """
    return await call.link.call(Show(id=call.place("id")), JobDetail)


async def attempts(call: Call) -> Response:
    """
    Answer with a job's attempts.
    """
    found = await detail(call)
    return answer_json({"attempts": [run_document(run) for run in found.runs]})


# --- acted on -----------------------------------------------------------------------------------


async def cancel(call: Call) -> Response:
    """
    Cancel a job.
    """
    return await act_on_one(call, "cancel")


async def retry(call: Call) -> Response:
    """
    Start a dead, cancelled or failed job again.
    """
    return await act_on_one(call, "retry")


async def hold(call: Call) -> Response:
    """
    Keep a job from starting.
    """
    return await act_on_one(call, "hold")


async def release(call: Call) -> Response:
    """
    Let a held job go on.
    """
    return await act_on_one(call, "release")


async def edit(call: Call) -> Response:
    """
    Give a job another priority.
    """
    fields = await call.fields(EditFields)
    number = (await detail(call)).job.number
    request = Edit(select=Selection(ids=[str(number)]), priority=_priority(fields.priority))
    return await _acted_on_one(call, number, request)


async def act_on_one(call: Call, action: Action) -> Response:
    """
    Do *action* to the job that the path names, and answer with what the job is like then.
    """
    number = (await detail(call)).job.number
    request = Act(action=action, select=Selection(ids=[str(number)]))
    return await _acted_on_one(call, number, request)


async def _acted_on_one(call: Call, number: int, request: Act | Edit) -> Response:
    acted = await call.link.call(request, Acted)
    if acted.errors:
        raise RequestRefused(acted.errors[0].code, acted.errors[0].message)
    job = (await call.link.call(Show(id=str(number)), JobDetail)).job
    return answer_json(job_document(job))


async def act_on_many(call: Call) -> Response:
    """
    Do one thing to each selected job.
    """
    fields = await call.fields(ActionFields)
    chosen = fields.select
    select = Selection(
        ids=chosen.ids,
        states=chosen.states,
        queue=chosen.queue,
        all=chosen.all,
        after=chosen.after,
    )
    request: Act | Edit
    if fields.action == "edit":
        if fields.priority is None or fields.older_than is not None:
            raise UsageError("edit: takes a priority, and nothing else", "priority")
        request = Edit(select=select, priority=_priority(fields.priority))
    else:
        if fields.priority is not None:
            raise UsageError(f"{fields.action}: takes no priority; edit does", "priority")
        older_than_ms = (
            None if fields.older_than is None else span_ms("older_than", fields.older_than)
        )
        request = Act(action=fields.action, select=select, older_than_ms=older_than_ms)
    return answer_acted(await call.link.call(request, Acted))


def answer_acted(acted: Acted) -> Response:
    """
    Answer with the jobs to which something was done, and why it was not to others.
    """
    return answer_json({**acted_document([acted]), "more": acted.more})


def _priority(value: object) -> int:
    priority: int = fields_of_options({"priority": value}, 0)["priority"]
    return priority


def span_ms(name: str, value: float | str) -> int:
    """
    Return a span as a body gives it, in ms. Raises UsageError.
    """
    if not isinstance(value, str):
        return round(value * 1000)
    try:
        return parse_duration(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; got {value[:60]!a}", name) from error


# --- described ----------------------------------------------------------------------------------

FILTERS = (
    Parameter(name="queue", help="Only jobs of this queue.", most=ID_CHARS_MAX, example="default"),
    Parameter(name="user", help="Only jobs of this account: for admins.", most=64, example="alice"),
    Parameter(
        name="search",
        help="Only jobs with this text in their id, command or script name, in any case.",
        most=SEARCH_CHARS_MAX,
        example="nightly",
    ),
    Parameter(
        name="limit",
        help="At most so many; 100 if it is left out.",
        kind="count",
        least=1,
        most=LIST_JOBS_MAX,
        example=20,
    ),
    Parameter(
        name="cursor", help="The `next` of the page before.", kind="cursor", example="9007199254740"
    ),
)
_JOB = (Answer(help="The job.", type=shapes.Job),)
ON_ONE = {"scope": "manage", "answers": _JOB, "refusals": (404, 409)}


def _on_one(name: str, summary: str, run: object) -> Operation:
    return Operation(
        method="POST",
        path=f"/jobs/{{id}}/{name}",
        name=f"{name}_job",
        summary=summary,
        run=run,  # type: ignore[arg-type]
        **ON_ONE,  # type: ignore[arg-type]
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/jobs",
        name="list_jobs",
        summary="List jobs, newest first.",
        run=index,
        query=(
            Parameter(
                name="state",
                help="Only jobs in these states; with commas, or several times.",
                kind="states",
                example=["pending"],
            ),
            *FILTERS,
        ),
        answers=(
            Answer(
                help="A page of jobs.",
                type=shapes.JobPage,
                headers={"Link": "The page that follows, if there is one, as rel=next."},
            ),
        ),
    ),
    Operation(
        method="POST",
        path="/jobs/actions",
        name="act_on_jobs",
        summary="Do one thing to many jobs.",
        scope="manage",
        run=act_on_many,
        body=Body(
            type=shapes.ActionFields,
            examples={
                "some": {"action": "cancel", "select": {"ids": ["17", "20-25"]}},
                "all": {"action": "retry", "select": {"states": ["dead"], "queue": "default"}},
                "old": {
                    "action": "prune",
                    "select": {"states": ["completed"]},
                    "older_than": "7d",
                },
                "edit": {"action": "edit", "select": {"states": ["pending"]}, "priority": -10},
            },
        ),
        answers=(Answer(help="What was done.", type=shapes.ActedOn),),
    ),
    Operation(
        method="GET",
        path="/jobs/{id}",
        name="get_job",
        summary="All about one job: why it is in its state, what happens next, its attempts.",
        run=show,
        answers=(Answer(help="The job.", type=shapes.JobInFull),),
        refusals=(404,),
    ),
    Operation(
        method="PATCH",
        path="/jobs/{id}",
        name="edit_job",
        summary="Give a job that has not started another priority.",
        scope="manage",
        run=edit,
        body=Body(
            type=shapes.EditFields,
            examples={"number": {"priority": -5}, "name": {"priority": "low"}},
        ),
        answers=_JOB,
        refusals=(404, 409),
    ),
    _on_one("cancel", "Cancel a job. A running one is ended: SIGTERM, then SIGKILL.", cancel),
    _on_one("retry", "Start a dead, cancelled or failed job again, now.", retry),
    _on_one("hold", "Keep a job that has not started from starting.", hold),
    _on_one("release", "Let a held job go on.", release),
    Operation(
        method="GET",
        path="/jobs/{id}/attempts",
        name="list_attempts",
        summary="A job's attempts, the last 1,000.",
        run=attempts,
        answers=(Answer(help="The attempts.", type=shapes.Attempts),),
        refusals=(404,),
    ),
)
