"""
What the API answers when it cannot do what was asked: `application/problem+json` (RFC 9457).

`code` is the word that tells causes apart, the same as in the protocol and behind the exit codes of
the commands; the HTTP status follows from it, by the one table here. `detail` is the line that a
command would print.
"""

from http import HTTPStatus
from typing import Final

from msgspec import Struct
from msgspec.json import encode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from queuectl.errors import QueuectlError, RequestTooLong

MEDIA_TYPE: Final = "application/problem+json"

#: The HTTP status of each code: those of a RefusalCode, then those that arise on this side.
STATUSES = {
    "usage": 400,
    "unsupported": 501,
    "not_found": 404,
    "conflict": 409,
    "try_later": 503,
    "denied": 403,
    "storage": 500,
    "idle": 503,
    "unreachable": 503,
    "timed_out": 504,
    "bug": 500,
}
#: When to ask again, for codes that pass by themselves.
RETRY_AFTER_S = {"try_later": 5, "idle": 1, "unreachable": 1}


class Problem(Struct, frozen=True, kw_only=True):
    """
    Why a request was refused, or its answer is not known.
    """

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None  # of the request
    index: int | None = None  # of the offending job in a batch


def problem(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    field: str | None = None,
    index: int | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """
    Return the answer for *code*. *status* is for the few where it does not follow from that.
    """
    status = STATUSES.get(code, 500) if status is None else status
    headers = dict(headers or {})
    if code in RETRY_AFTER_S:
        headers["Retry-After"] = str(RETRY_AFTER_S[code])
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        field=field,
        index=index,
    )
    return Response(encode(body), status, headers, MEDIA_TYPE)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """
    Answer what no route serves: below /api with a problem, elsewhere with a line of text.
    """
    assert isinstance(error, HTTPException)
    status, headers = error.status_code, dict(error.headers or {})
    if not request.url.path.startswith("/api/"):
        return PlainTextResponse(error.detail, status, headers)
    code = "not_found" if status == HTTPStatus.NOT_FOUND else "usage"
    path = request.url.path[:200]
    return problem(code, f"{error.detail}: {path!a}", status=status, headers=headers)


async def answer_bug(request: Request, error: Exception) -> Response:
    """
    Answer what a fault of ours kept from being served; the server logs it.
    """
    detail = f"this is a bug in queuectl: {type(error).__name__}; the gateway's log says where"
    if request.url.path.startswith("/api/"):
        return problem("bug", detail)
    return PlainTextResponse(detail, 500)


def problem_of(error: QueuectlError) -> Response:
    """
    Return the answer for what the daemon, or this side, refused.
    """
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if isinstance(error, RequestTooLong) else None
    return problem(error.code, str(error), status=status, field=error.field, index=error.index)
