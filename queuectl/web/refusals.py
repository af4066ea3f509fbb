"""
What the guard answers when it lets nothing through: a status, and a line that says why and what
would be right, as `application/problem+json` (RFC 9457).
"""

from collections.abc import Mapping
from http import HTTPStatus

from msgspec.json import encode
from starlette.types import Scope, Send

from queuectl.web.problems import MEDIA_TYPE, Problem


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
        title = HTTPStatus(self.status).phrase
        return encode(Problem(title=title, status=self.status, code=self.code, detail=self.detail))


async def answer(refusal: Refusal, scope: Scope, send: Send) -> None:
    """
    Send *refusal* as the answer to a request, or to a WebSocket that was not accepted yet.
    """
    body = refusal.body()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
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
