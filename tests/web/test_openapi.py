"""
The API's document and its page against its routes, and the shapes against what is answered.
"""

import asyncio
import re
from typing import Any

import httpx
import msgspec
import pytest
from markdown_reader import Document, plain
from msgspec import inspect as types
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from test_docs import sample_of

from queuectl import documents, protocol, views
from queuectl.web import aliases, api, openapi, problems, shapes
from queuectl.web.operations import PREFIX, Operation
from queuectl.web.problems import RETRY_AFTER_S, STATUSES

PAGE = Document("docs/api.md")
DOCUMENT = openapi.document(api.OPERATIONS, PREFIX)


def served(routes: list[Any], prefix: str) -> set[tuple[str, str]]:
    """
    Return the methods and paths that routes serve, below *prefix*.
    """
    return {
        (method, route.path.removeprefix(prefix))
        for route in routes
        if isinstance(route, Route)
        for method in route.endpoint.operations  # type: ignore[attr-defined]
        if method != "HEAD"
    }


def test_every_route_is_in_the_document_and_no_other() -> None:
    """
    The document and the routes come from one table; this is that neither leaves something out.
    """
    described = {
        (method.upper(), path)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert served(api.routes(), PREFIX) == described
    names = [operation.name for operation in (*api.OPERATIONS, *aliases.OPERATIONS)]
    assert len(set(names)) == len(names)


def documented(titles: list[str]) -> dict[tuple[str, str], str]:
    """
    Return the scope of each route that the sections with these titles have.
    """
    rows = [row for title in titles for row in PAGE.table(title)]
    found = {}
    for route, scope, _ in rows:
        method, path = plain(route).split(" ")
        found[method, path] = scope
    assert len(found) == len(rows)
    return found


def scopes(operations: tuple[Operation, ...], prefix: str = "") -> dict[tuple[str, str], str]:
    return {(each.method, prefix + each.path): each.scope for each in operations}


def test_every_route_is_on_the_page() -> None:
    """
    With the scope that it needs.
    """
    sections = [each.title for each in PAGE.below("All routes")]
    assert scopes(api.OPERATIONS) == documented(sections)
    older = documented(["Routes of older programs"])
    assert scopes(aliases.OPERATIONS, aliases.PREFIX) == older


def test_every_parameter_and_field_is_on_the_page() -> None:
    """
    A route's row names each parameter of its query.
    """
    rows = [row for each in PAGE.below("All routes") for row in PAGE.table(each.title)]
    said = {plain(row[0]): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    for operation in api.OPERATIONS:
        if operation.path == "/dlq":
            continue
        names = {parameter.name for parameter in operation.query}
        assert names <= said[f"{operation.method} {operation.path}"], operation.path


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/api/v1/broken", "application/problem+json"), ("/broken", "text/plain; charset=utf-8")],
)
def test_a_fault_of_ours_is_said_to_be_one(path: str, media_type: str) -> None:
    """
    It is no refusal: nobody knows what was done. Nothing of the inside is told.
    """

    async def broken(_request: Request) -> Response:
        raise ZeroDivisionError("a secret")

    app = Starlette(
        routes=[Route(path, broken)], exception_handlers={Exception: problems.answer_bug}
    )

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as asking:
            return await asking.get(path)

    answer = asyncio.run(ask())
    assert (500, media_type) == (answer.status_code, answer.headers["content-type"])
    assert "bug in queuectl: ZeroDivisionError" in answer.text
    assert "secret" not in answer.text


def test_every_code_is_on_the_page() -> None:
    """
    With its status.
    """
    rows = PAGE.table("Errors")
    assert STATUSES == {plain(row[0]): int(row[1]) for row in rows}
    assert {503} == {STATUSES[code] for code in RETRY_AFTER_S}


# --- shapes -------------------------------------------------------------------------------------

RUNNER = msgspec.structs.replace(
    sample_of(protocol.StatusReport), runner=sample_of(views.ProcessView)
)
PAIRS = [
    (shapes.Job, documents.job_document(sample_of(views.JobView))),
    (shapes.JobInFull, documents.detail_document(sample_of(protocol.JobDetail))),
    (shapes.Attempt, documents.run_document(sample_of(views.RunView))),
    (shapes.JobError, documents.error_document(sample_of(views.JobError))),
    (shapes.Worker, documents.worker_document(sample_of(views.WorkerView))),
    (shapes.Queue, documents.queue_document(sample_of(views.QueueView))),
    (shapes.Setting, documents.setting_document(sample_of(views.SettingView))),
    (shapes.Whole, documents.status_document(RUNNER, "x")),
]


@pytest.mark.parametrize(
    ("shape", "document"), PAIRS, ids=lambda each: getattr(each, "__name__", "")
)
def test_shapes_are_those_of_the_documents(shape: type[msgspec.Struct], document: Any) -> None:
    """
    What is said of an answer is what is in it: every key, and values of these types.
    """
    assert set(shape.__struct_fields__) == document.keys()
    msgspec.convert(document, shape, strict=True)


def test_fields_of_a_job_are_those_of_the_command() -> None:
    """
    Every field that the command takes, and no other.
    """
    from queuectl import jobspec

    assert set(jobspec._FIELDS) == set(shapes.JobFields.__struct_fields__)


def test_examples_fit_their_shapes() -> None:
    """
    Those of bodies, and those that are put together for answers.
    """
    for operation in (*api.OPERATIONS, *aliases.OPERATIONS):
        if operation.body is not None:
            for example in operation.body.examples.values():
                batch = isinstance(example, list)
                shape = operation.body.alternative if batch else operation.body.type
                msgspec.convert(example, shape, strict=True)
        for answer in operation.answers:
            if answer.type is not None:
                example = openapi.example_of(types.type_info(answer.type))
                msgspec.convert(example, answer.type, strict=True)


def test_the_document_is_served(client: httpx.Client) -> None:
    """
    As it is, and nothing in it leads nowhere.
    """
    answer = client.get(f"{PREFIX}/openapi.json")
    assert answer.json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    schemas = DOCUMENT["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', answer.text))
    assert named == schemas.keys()


def test_examples_are_accepted(client: httpx.Client) -> None:
    """
    Every example of a body is one that the API takes, with the parameters that are examples too.
    """

    def held(**fields: str) -> str:
        body = {"command": "true", "hold": True, **fields}
        job_id: str = client.post(f"{PREFIX}/jobs", json=body).json()["id"]
        return job_id

    held(id="17")
    for operation in (*api.OPERATIONS, *aliases.OPERATIONS):
        prefix = PREFIX if operation in api.OPERATIONS else aliases.PREFIX
        for name, example in operation.body.examples.items() if operation.body else ():
            path = operation.path.format(id=held(), name="default", key="max_retries")
            answer = client.request(operation.method, prefix + path, json=example)
            known = {each.status for each in operation.answers}
            if operation.name == "wait_for_jobs":
                known.add(504)  # The job is held.
            assert answer.status_code in known, (operation.name, name, answer.text)
