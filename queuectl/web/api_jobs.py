"""
The API's jobs: made, listed, looked at, acted on.

A job's fields are those of `queuectl enqueue` as JSON, read by the same code, and answers are what
`--json` prints. What only a command has is left out: jobs that say no directory begin in the home
of their account, and they get the variables that the request names, no others.
"""

import asyncio
import os
import time
from typing import Any
from urllib.parse import urlencode

from msgspec.json import Decoder, decode
from starlette.responses import Response

from queuectl.documents import (
    acted_document,
    detail_document,
    error_document,
    job_document,
    run_document,
)
from queuectl.durations import parse_duration
from queuectl.editing import Edit
from queuectl.errors import RequestRefused, UsageError
from queuectl.jobspec import decode_json, fields_of, fields_of_options, make_spec
from queuectl.protocol import (
    BATCH_JOBS_MAX,
    HOME,
    LIST_JOBS_MAX,
    Act,
    Acted,
    Action,
    Enqueue,
    Enqueued,
    JobDetail,
    Jobs,
    JobSpec,
    List,
    Selection,
    Show,
)
from queuectl.views import JobError, JobView
from queuectl.web.operations import NDJSON, Call, answer_json
from queuectl.web.shapes import ActionFields, EditFields

#: Jobs that are read before others have their turn: about 5 ms.
_READ_JOBS = 1_000
#: Ids of jobs that are asked for again, because all of them did not fit into one answer.
_ASK_JOBS = 100

_decode_lines = Decoder().decode_lines


# --- made ---------------------------------------------------------------------------------------


async def create(call: Call) -> Response:
    """
    Make one job, or many.
    """
    documents, single = await _read_documents(call)
    partial = bool(call.query.get("partial"))
    specs, errors = await _specs(documents, single, partial and not single)
    request = Enqueue(
        jobs=[spec for _, spec in specs],
        cwd=HOME,
        request_id=_request_id(call),
        partial=partial and not single,
        want_jobs=single,
    )
    answer = Enqueued(ids=[])
    if specs or not errors:
        answer = await call.link.call(request, Enqueued)
    if single:
        return await _created_one(call, answer)
    return _created_many(answer, [index for index, _ in specs], errors, len(documents))


async def _read_documents(call: Call) -> tuple[list[Any], bool]:
    """
    Return the jobs of the body, and whether it is a single object. Raises UsageError.
    """
    data = await call.request.body()
    given = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given == NDJSON:
        documents = _lines(data)
    else:
        document = decode_json(data)
        if not isinstance(document, list):
            return [document], True
        documents = document
    if len(documents) > BATCH_JOBS_MAX:
        raise UsageError(
            f"a batch has at most {BATCH_JOBS_MAX} jobs, not {len(documents)}; split it"
        )
    return documents, False


def _lines(data: bytes) -> list[Any]:
    try:
        return _decode_lines(data)
    except (ValueError, RecursionError):  # Every fault of JSON and of UTF-8 is one of these.
        lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
        return [decode_json(line, f"line {number}: ") for number, line in lines]


async def _specs(
    documents: list[Any], single: bool, partial: bool
) -> tuple[list[tuple[int, JobSpec]], list[JobError]]:
    """
    Return the jobs with their places in the request, and with *partial* what is wrong with others.
    """
    now = time.time_ns() // 1_000_000
    specs: list[tuple[int, JobSpec]] = []
    errors: list[JobError] = []
    for index, document in enumerate(documents):
        if index % _READ_JOBS == _READ_JOBS - 1:
            await asyncio.sleep(0)
        try:
            specs.append((index, _spec(document, now)))
        except UsageError as error:
            if not partial:
                error.index = None if single else index
                raise
            errors.append(
                JobError(code=error.code, message=str(error), index=index, field=error.field)
            )
    return specs, errors


def _spec(document: Any, now: int) -> JobSpec:
    fields = fields_of(document, now)
    if "cwd" in fields and not document["cwd"].startswith(("/", "~")):
        raise UsageError("cwd: must be absolute, or ~ for the home of the account", "cwd")
    return make_spec(fields, {})


def _request_id(call: Call) -> str:
    """
    Return what makes a request that is sent again the same one.
    """
    key = call.request.headers.get("idempotency-key")
    if key is None:
        return os.urandom(16).hex()
    if key[:1] == key[-1:] == '"':
        key = key[1:-1]  # As a string of RFC 8941 it comes in quotes.
    if not key:
        raise UsageError("Idempotency-Key: must not be empty", "Idempotency-Key")
    return key


async def _created_one(call: Call, answer: Enqueued) -> Response:
    """
    Answer with the job that was made; with 200, if it was made when this was sent before.
    """
    (job_id,) = answer.ids
    if job_id is None:  # It was made before, and is forgotten.
        raise RequestRefused(answer.errors[0].code, answer.errors[0].message)
    jobs = answer.jobs or (await call.link.call(List(ids=[job_id]), Jobs)).jobs
    status = 200 if answer.existing else 201
    return answer_json(job_document(jobs[0]), status, {"Location": f"/api/v1/jobs/{job_id}"})


def _created_many(
    answer: Enqueued, places: list[int], errors: list[JobError], count: int
) -> Response:
    """
    Answer with the ids, each in its place in the request.
    """
    ids: list[str | None] = [None] * count
    for place, job_id in zip(places, answer.ids, strict=True):
        ids[place] = job_id
    documents = [error_document(error) for error in errors]
    for error in answer.errors:
        document = error_document(error)
        document["index"] = None if error.index is None else places[error.index]
        documents.append(document)
    documents.sort(key=lambda each: each["index"] or 0)
    made = {"ids": ids, "errors": documents, "existing": answer.existing}
    return answer_json(made, 200 if answer.existing or documents else 201)


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
        older_than_ms = None if fields.older_than is None else span_ms("older_than", fields.older_than)
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
