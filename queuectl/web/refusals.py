"""
What the guard answers when it lets nothing through: a status, and a line that says why and what
would be right, as `application/problem+json` (RFC 9457).
"""

from collections.abc import Mapping

from msgspec import json
from starlette.types import Scope, Send

PROBLEM_TYPE = b"application/problem+json"
TITLES = {
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Refusal(Exception):
    """
    A request that goes no further. `code` is a word of the protocol's refusals where one fits.
    """

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """
        Return the problem as JSON.
        """
        return json.encode(
            {
                "type": "about:blank",
                "title": TITLES[self.status],
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
            }
        )


async def answer(refusal: Refusal, scope: Scope, send: Send) -> None:
    """
    Send *refusal* as the answer to a request, or to a WebSocket that was not accepted yet.
    """
    body = refusal.body()
    headers = [
        (b"content-type", PROBLEM_TYPE),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close"})  # The server answers 403.
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
