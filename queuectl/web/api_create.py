"""
The API's way to make jobs: one, a batch, or a line for each.

A job's fields are those of `queuectl enqueue` as JSON, read by the same code. What only a command
has is left out: a job that says no directory begins in the home of its account, and it gets the
variables that the request names, no others.
"""

import asyncio
import os
import time
from typing import Any
from urllib.parse import quote

from msgspec.json import Decoder
from starlette.responses import Response

from queuectl.documents import error_document, job_document
from queuectl.errors import RequestRefused, UsageError
from queuectl.jobspec import decode_json, fields_of, make_spec
from queuectl.protocol import BATCH_JOBS_MAX, HOME, Enqueue, Enqueued, Jobs, JobSpec, List
from queuectl.views import JobError
from queuectl.web import shapes
from queuectl.web.operations import (
    NDJSON,
    PREFIX,
    Answer,
    Body,
    Call,
    Operation,
    Parameter,
    answer_json,
)

#: Jobs that are read before others have their turn: about 5 ms.
_READ_JOBS = 1_000

_decode_lines = Decoder().decode_lines


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
    data = await call.body()
    given = call.header("content-type") or ""
    if given.partition(";")[0].strip().lower() == NDJSON:
        documents = _lines(data)
    else:
        document = decode_json(data)
        if not isinstance(document, list):
            return [document], True
        documents = document
    if not 1 <= len(documents) <= BATCH_JOBS_MAX:
        rule = f"a batch has from 1 to {BATCH_JOBS_MAX} jobs, not {len(documents)}"
        raise UsageError(rule, "jobs")
    return documents, False


def _lines(data: bytes) -> list[Any]:
    ends = data.count(b"\n")
    if ends > BATCH_JOBS_MAX:  # Before millions of them are taken apart.
        raise UsageError(f"a batch has at most {BATCH_JOBS_MAX} lines, not {ends}", "jobs")
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
    if "cwd" in fields and document["cwd"] != HOME and not document["cwd"].startswith(("/", "~/")):
        raise UsageError("cwd: must be absolute, or ~ for the home of the account", "cwd")
    return make_spec(fields, {})


def _request_id(call: Call) -> str:
    """
    Return what makes a request that is sent again the same one.
    """
    key = call.header("idempotency-key")
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
    place = f"{PREFIX}/jobs/{quote(job_id, safe='')}"
    return answer_json(job_document(jobs[0]), status, {"Location": place})


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


_KEY = Parameter(
    name="Idempotency-Key",
    help="A request that is sent again with the same key has the jobs of the first time.",
    most=128,
    example="8e03978e40d543dd",
)
OPERATIONS = (
    Operation(
        method="POST",
        path="/jobs",
        name="create_jobs",
        summary="Make one job, or many. Answered when they are on disk.",
        scope="submit",
        run=create,
        query=(
            Parameter(
                name="partial",
                help="Make the jobs of a batch that can be made, and say what of the others.",
                kind="flag",
                example=False,
            ),
        ),
        headers=(_KEY,),
        body=Body(
            type=shapes.JobFields,
            alternative=shapes.Batch,
            examples={
                "command": {"command": "make -C /srv/site"},
                "argv": {"argv": ["rsync", "-a", "src/", "host:dst/"], "priority": -5},
                "everything": {
                    "command": "backup",
                    "queue": "nightly",
                    "priority": "low",
                    "max_retries": 5,
                    "delay": "1h30m",
                    "timeout": 3600,
                    "kill_after": "30s",
                    "cwd": "~",
                    "env": {"LANG": "C"},
                    "on_lost": "hold",
                },
                "batch": [{"command": "true"}, {"command": "false", "max_attempts": 1}],
            },
            media_types=("application/json", NDJSON),
        ),
        answers=(
            Answer(
                status=201,
                help="The job; of a batch, the ids.",
                type=shapes.Job,
                alternative=shapes.Created,
                headers={"Location": "Where the job is; not of a batch."},
            ),
            Answer(
                status=200,
                help="The same, made when this was sent before; or a part of the batch was made.",
                type=shapes.Job,
                alternative=shapes.Created,
            ),
        ),
        refusals=(409,),
    ),
)
