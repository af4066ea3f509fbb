"""
The form that makes jobs: a command with options, or JSON as `queuectl enqueue -f FILE` takes it.

What is typed is converted by the same functions as on the command line, field by field, so that
each rule that is broken is said beside its field and nothing that was typed is lost. A key in the
form makes it harmless to send it twice.
"""

import os
from typing import Any, NamedTuple
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from queuectl.environment import caller_environment, pack_variables
from queuectl.errors import RequestRefused, RequestTooLong, UsageError
from queuectl.jobspec import decode_json, fields_of, make_spec
from queuectl.protocol import (
    BATCH_JOBS_MAX,
    Enqueue,
    Enqueued,
    JobSpec,
    ListQueues,
    Queues,
    Status,
    StatusReport,
)
from queuectl.views import ON_LOST, OUTPUTS
from queuectl.web.pages_forms import Form, go, read_form
from queuectl.web.pages_rendering import Said, field_of, now_ms, show
from queuectl.web.rendering import counted, job_url
from queuectl.web.visitor import visitor_of

MODES = ("command", "json")
#: Fields of the command mode, by the names that JSON has for them.
_FIELDS = (
    "command",
    "id",
    "queue",
    "priority",
    "max_retries",
    "timeout",
    "kill_after",
    "delay",
    "run_at",
    "cwd",
    "on_lost",
    "output",
    "user",
)
EXAMPLE = """{
  "command": "make -C /srv/site all",
  "queue": "builds",
  "priority": "high",
  "timeout": "15m",
  "max_retries": 5,
  "env": {"LANG": "C.UTF-8"}
}"""


class Typed(NamedTuple):
    """
    What was typed: the jobs that it means, and what is wrong, by field.
    """

    specs: list[JobSpec]
    errors: dict[str, str]


async def enqueue_page(request: Request) -> Response:
    """
    GET /enqueue. Fields may be filled from the address, for links that prepare a job.
    """
    query = request.query_params
    values = {name: query.get(name, "") for name in (*_FIELDS, "env", "json")}
    return await _show(request, values, {}, mode=query.get("mode", ""), status_code=200)


async def make_jobs(request: Request) -> Response:
    """
    POST /enqueue.
    """
    form = await read_form(request)
    mode = form.text("mode")
    typed = read_json(form) if mode == "json" else read_command(form)
    errors = typed.errors
    if not errors:
        try:
            answer = await _send(request, typed.specs, form.text("key"))
        except (RequestRefused, RequestTooLong) as error:
            errors = {_place(error, mode): _words(error, len(typed.specs))}
        else:
            made = [each for each in answer.ids if each is not None]
            if len(made) == 1:
                return go(request, job_url(made[0]), Said(f"Enqueued job {made[0]}."))
            return go(request, "/jobs", Said(f"Enqueued {counted(len(made), 'job')}."))
    values = {name: form.raw(name) for name in (*_FIELDS, "env", "json")}
    values["hold"] = "hold" if form.flag("hold") else ""
    return await _show(request, values, errors, mode=mode, status_code=422)


def read_command(form: Form) -> Typed:
    """
    Return the job of the fields.
    """
    now = now_ms()
    fields: dict[str, Any] = {}
    errors: dict[str, str] = {}
    given: dict[str, object] = {name: form.text(name) for name in _FIELDS if form.text(name)}
    if "command" in given:
        given["command"] = form.raw("command")  # A here-document needs its last line's end.
    if form.flag("hold"):
        given["hold"] = True
    for name, value in given.items():
        try:
            fields.update(fields_of({name: value}, now))
        except UsageError as error:
            errors[name] = str(error).removeprefix(f"{name}: ")
    try:
        env = _variables(form.raw("env"))
        fields.update(fields_of({"env": env}, now) if env else {})
    except UsageError as error:
        errors["env"] = str(error).removeprefix("env: ")
    if "command" not in given:
        errors["command"] = "needs a command, such as: make -C /srv/site"
    if "run_at" in given and "delay" in given:
        errors.setdefault("run_at", "give a time or a delay, not both")
    return Typed([] if errors else [make_spec(fields, {})], errors)


def read_json(form: Form) -> Typed:
    """
    Return the jobs of a JSON object, an array of them, or one object on each line.
    """
    now = now_ms()
    text = form.raw("json").strip()
    lines = [line for line in text.split("\n") if line.strip()]
    specs = []
    try:
        if not lines:
            raise UsageError("needs a job, such as the example")
        documents, place = _documents(text, lines)
        if len(documents) > BATCH_JOBS_MAX:
            raise UsageError(f"{len(documents)} jobs; the limit is {BATCH_JOBS_MAX}")
        for number, document in enumerate(documents, 1):
            try:
                specs.append(make_spec(fields_of(document, now), {}))
            except UsageError as error:
                lead = f"{place} {number}: " if len(documents) > 1 else ""
                raise UsageError(f"{lead}{error}") from error
    except UsageError as error:
        return Typed([], {"json": str(error)})
    return Typed(specs, {})


def _documents(text: str, lines: list[str]) -> tuple[list[Any], str]:
    if len(lines) > 1 and lines[0].rstrip().endswith("}") and lines[0].startswith("{"):
        decoded = [decode_json(line, f"line {at}: ") for at, line in enumerate(lines, 1)]
        return decoded, "line"
    document = decode_json(text)
    return (document, "job") if isinstance(document, list) else ([document], "job")


def _variables(text: str) -> dict[str, str]:
    variables = {}
    for line in text.split("\n"):
        if line.strip():
            name, equals, value = line.partition("=")
            if not equals:
                raise UsageError(f"one NAME=VALUE on each line; got {line!a}")
            variables[name.strip()] = value
    return variables


async def _send(request: Request, specs: list[JobSpec], key: str) -> Enqueued:
    visitor = visitor_of(request)
    report = await visitor.link.call(Status(), StatusReport)
    # Where there is one account, the gateway has that account's surroundings to pass on.
    own = caller_environment(os.environ) if report.mode == "user" else {}
    return await visitor.link.call(
        Enqueue(jobs=specs, env=pack_variables(own), cwd="~", request_id=key or uuid4().hex),
        Enqueued,
    )


def _place(error: RequestRefused | RequestTooLong, mode: str) -> str:
    if mode == "json" or not isinstance(error, RequestRefused):
        return "json" if mode == "json" else "command"
    name = field_of(error) or "command"
    return name if name in (*_FIELDS, "env") else "command"


def _words(error: RequestRefused | RequestTooLong, count: int) -> str:
    if isinstance(error, RequestRefused) and error.index is not None and count > 1:
        return f"job {error.index + 1}: {error}"
    return str(error)


async def _show(
    request: Request,
    values: dict[str, str],
    errors: dict[str, str],
    *,
    mode: str,
    status_code: int,
) -> Response:
    queues = (await visitor_of(request).link.call(ListQueues(), Queues)).queues
    return await show(
        request,
        "enqueue.html",
        title="Enqueue",
        status_code=status_code,
        mode=mode if mode in MODES else "command",
        values={"hold": "", **values},
        errors=errors,
        key=uuid4().hex,
        queues=[queue.name for queue in queues],
        choices={"on_lost": ON_LOST, "output": OUTPUTS},
        example=EXAMPLE,
    )
