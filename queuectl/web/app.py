"""
The gateway's application: every route that there is, behind the guard.
"""

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from queuectl.web import login
from queuectl.web.gateway import Gateway
from queuectl.web.guard import Guard

STATIC = Path(__file__).parent / "static"


def build(gateway: Gateway) -> ASGIApp:
    """
    Return the ASGI application of *gateway*.
    """
    app = Starlette(routes=all_routes())
    app.state.gateway = gateway
    return Guard(app, gateway)


def all_routes() -> list[BaseRoute]:
    """
    Return every route. Each module has its own; the first that fits serves.
    """
    return [
        Route("/healthz", healthz, methods=["GET"]),
        Mount("/static", StaticFiles(directory=STATIC)),
        *login.routes(),
    ]


async def healthz(_request: Request) -> Response:
    """
    Say that this process lives. It asks the daemon nothing, and tells a stranger nothing.
    """
    return JSONResponse({"status": "ok"})
