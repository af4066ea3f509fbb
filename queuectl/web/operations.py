"""
What an API is made of: operations, each with its method, path, parameters, body and answers.

One Operation says everything about itself, once. Routes, the checks of what a request may hold and
the OpenAPI document come from it. The application serves a path as one Resource, which knows the
methods of its operations; so what is not among them is answered with those that are.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from queuectl.errors import QueuectlError, UsageError, suggestion
from queuectl.views import JOB_STATES, JobState
from queuectl.web.arrival import ARRIVAL, RequestHeaders
from queuectl.web.link import Link
from queuectl.web.problems import problem, problem_of
from queuectl.web.visitor import visitor_of

T = TypeVar("T")

PREFIX = "/api/v1"
JSON = "application/json"
NDJSON = "application/x-ndjson"


class Parameter(Struct, frozen=True, kw_only=True):
    """
    A parameter of the query. `most` is the largest count, or the most characters of a text.
    """

    name: str
    help: str
    kind: Literal["text", "count", "cursor", "flag", "states"] = "text"
    least: int = 0
    most: int = 1_000
    example: Any = None


class Body(Struct, frozen=True, kw_only=True):
    """
    What a request holds. `type` is its shape, `alternative` another one that it may have;
    `examples` are bodies with names.
    """

    type: Any
    alternative: Any = None
    examples: dict[str, Any]
    required: bool = True
    media_types: tuple[str, ...] = (JSON,)


class Answer(Struct, frozen=True, kw_only=True):
    """
    What a request is answered with when it is granted. `type` is its shape, `alternative` another
    one that it may have; None: there is no body, or with another media type, it is bytes.
    """

    status: int = 200
    help: str
    type: Any = None
    alternative: Any = None
    media_type: str = JSON
    headers: dict[str, str] = {}  # name: what it says


class Operation(Struct, frozen=True, kw_only=True):
    """
    One method of one path. `scope` is what a token must be good for. `refusals` are the statuses
    that it can be refused with, beyond those that everything can.
    """

    method: str
    path: str
    name: str
    summary: str
    run: Callable[["Call"], Awaitable[Response]]
    answers: tuple[Answer, ...]
    scope: Literal["read", "submit", "manage"] = "read"
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    refusals: tuple[int, ...] = ()


class Call:
    """
    One request for an operation.
    """

    __slots__ = ("operation", "query", "request")

    def __init__(self, operation: Operation, request: Request) -> None:
        self.operation = operation
        self.request = request
        #: The parameters given, by name: text, int, bool or a list of states.
        self.query: dict[str, Any] = {}
        if query := request.scope["query_string"]:
            self.query = _read_query(query, operation.query)

    @property
    def link(self) -> Link:
        """
        The way to the daemon for whoever asks.
        """
        return visitor_of(self.request).link

    def place(self, name: str) -> str:
        """
        Return what stands in the path at *name*.
        """
        text: str = self.request.path_params[name]
        return text

    def header(self, name: str) -> str | None:
        """
        Return the first value of a header, by its lower-case name.
        """
        headers: RequestHeaders = self.request.scope[ARRIVAL].headers
        return headers.get(name) if name in headers else None

    async def body(self) -> bytes:
        """
        Return the body, once. The guard has read all of it, so it comes in one piece.
        """
        message = await self.request.receive()
        assert not message.get("more_body"), "the guard reads it whole"
        data: bytes = message.get("body", b"")  # None of a client that hung up without one.
        return data

    async def fields(self, shape: type[T]) -> T:
        """
        Return the body as *shape*; no body is an empty object. Raises UsageError.
        """
        data = await self.body()
        try:
            return msgspec.json.decode(data or b"{}", type=shape)
        except msgspec.ValidationError as error:
            text = str(error)
            raise UsageError(f"the body does not fit: {text[0].lower()}{text[1:]}") from None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            from queuectl.jobspec import decode_json

            decode_json(data)  # Says where.
            raise UsageError("not valid JSON") from None


class Resource:
    """
    The operations of one path, by method: an ASGI application.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = {operation.method: operation for operation in operations}
        if "GET" in self.operations:
            self.operations["HEAD"] = self.operations["GET"]
        self._allow = ", ".join(sorted([*self.operations, "OPTIONS"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request.
        """
        method = scope["method"]
        operation = self.operations.get(method)
        if operation is not None:
            response = await _run(operation, Request(scope, receive))
        elif method == "OPTIONS":
            response = Response(None, 204, {"Allow": self._allow})
        else:
            detail = f"{scope['path']} takes {self._allow}, not {method}"
            response = problem("usage", detail, status=405, headers={"Allow": self._allow})
        await response(scope, receive, send)


async def _run(operation: Operation, request: Request) -> Response:
    try:
        return await operation.run(Call(operation, request))
    except QueuectlError as error:
        return problem_of(error)


def routes_of(operations: Sequence[Operation], prefix: str) -> list[BaseRoute]:
    """
    Return one route for each path of *operations*, below *prefix*, in their order.
    """
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(prefix + path, Resource(found)) for path, found in by_path.items()]


def answer_json(
    document: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """
    Return *document* as JSON.
    """
    return Response(msgspec.json.encode(document), status, headers, JSON)


# --- the query ----------------------------------------------------------------------------------


def _read_query(query: bytes, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    """
    Return the parameters given. Raises UsageError: also for one that there is not, because what is
    misspelt must not count as not given.
    """
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query.decode("ascii"), True, errors="strict")
    except ValueError:
        raise UsageError("the query is not valid UTF-8, percent-encoded") from None
    for name, text in pairs:
        parameter = known.get(name)
        if parameter is None:
            raise UsageError(f"unknown parameter {name!a}{suggestion(name, known)}", name)
        if parameter.kind == "states":
            found.setdefault(name, []).extend(_states(parameter, text))
        elif name in found:
            raise UsageError(f"{name}: given twice", name)
        else:
            found[name] = _READERS[parameter.kind](parameter, text)
    return found


def _states(parameter: Parameter, text: str) -> list[JobState]:
    states: list[JobState] = []
    for each in text.split(","):
        if each not in JOB_STATES:
            hint = suggestion(each, JOB_STATES)
            rule = f"{each!a} is no state{hint}; one of {', '.join(JOB_STATES)}"
            raise UsageError(f"{parameter.name}: {rule}", parameter.name)
        states.append(each)
    return states


def _count(parameter: Parameter, text: str) -> int:
    digits = text.isascii() and text.isdigit() and len(text) < 20
    if not digits or not parameter.least <= int(text) <= parameter.most:
        rule = f"must be a whole number from {parameter.least} to {parameter.most}"
        raise UsageError(f"{parameter.name}: {rule}; got {text[:60]!a}", parameter.name)
    return int(text)


def _cursor(parameter: Parameter, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError(f"{parameter.name}: must be the `next` of an answer", parameter.name)
    return int(text)


def _flag(parameter: Parameter, text: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f"{parameter.name}: must be true or false", parameter.name)
    return text == "true"


def _text(parameter: Parameter, text: str) -> str:
    if len(text) > parameter.most:
        rule = f"must have at most {parameter.most} characters"
        raise UsageError(f"{parameter.name}: {rule}", parameter.name)
    return text


_READERS: dict[str, Callable[[Parameter, str], Any]] = {
    "count": _count,
    "cursor": _cursor,
    "flag": _flag,
    "text": _text,
}
