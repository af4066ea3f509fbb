"""
The gateway's application: every route that there is, behind the guard.
"""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from queuectl.web import aliases, api, exposition, live, login, pages, problems, tunnel
from queuectl.web.gateway import Gateway
from queuectl.web.guard import Guard
from queuectl.web.pages_rendering import error_page


def build(gateway: Gateway) -> ASGIApp:
    """
    Return the ASGI application of *gateway*.
    """
    found = all_routes()
    gateway.traffic.learn(found)
    handlers = {HTTPException: answer_http_error, Exception: problems.answer_bug}
    app = Starlette(routes=found, exception_handlers=handlers)
    app.state.gateway = gateway
    return Guard(app, gateway)


def all_routes() -> list[BaseRoute]:
    """
    Return every route. Each module has its own; the first that fits serves. They are looked at one
    after the other, so those that programs ask for most come first.
    """
    return [
        *api.routes(),
        Route("/healthz", healthz, methods=["GET"]),
        *login.routes(),
        *live.routes(),
        *aliases.routes(),
        *exposition.routes(),
        *pages.routes(),
        *tunnel.routes(),
    ]


async def answer_http_error(request: Request, error: Exception) -> Response:
    """
    Answer what no route serves: a browser with a page, others as the API does.
    """
    assert isinstance(error, HTTPException)
    page = "text/html" in request.headers.get("accept", "")
    if page and not request.url.path.startswith("/api/"):
        message = f"There is nothing at {request.url.path}."
        return error_page(request, error.status_code, message)
    return await problems.answer_http_error(request, error)


async def healthz(_request: Request) -> Response:
    """
    Say that this process lives. It asks the daemon nothing, and tells a stranger nothing.
    """
    return JSONResponse({"status": "ok"})
