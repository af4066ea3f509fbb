"""
The REST API, version 1: every operation that there is, in one table.

Names, fields, errors and limits are those of the commands and of the protocol. The API decides
nothing: each operation is a request or two to the daemon, as whoever asks. How it evolves: paths
and parameters stay, answers get new keys, version 2 would be another prefix.

docs/api.md is for people, /api/v1/openapi.json for programs.
"""

from functools import cache
from typing import Any

from msgspec.json import encode
from starlette.responses import Response
from starlette.routing import BaseRoute

from queuectl.web import api_create, api_dead, api_jobs, api_output, api_service, openapi
from queuectl.web.operations import JSON, PREFIX, Answer, Call, Operation, routes_of


async def _answer_document(_call: Call) -> Response:
    return Response(_document(), 200, None, JSON)


OPERATIONS: tuple[Operation, ...] = (
    *api_create.OPERATIONS,
    *api_jobs.OPERATIONS,
    *api_output.OPERATIONS,
    *api_dead.OPERATIONS,
    *api_service.OPERATIONS,
    Operation(
        method="GET",
        path="/openapi.json",
        name="get_openapi",
        summary="This API, as OpenAPI 3.1.",
        run=_answer_document,
        answers=(Answer(help="The document.", type=dict[str, Any]),),
    ),
)


@cache
def _document() -> bytes:
    return encode(openapi.document(OPERATIONS, PREFIX))


def routes() -> list[BaseRoute]:
    """
    Return the routes of the API.
    """
    return routes_of(OPERATIONS, PREFIX)
