"""
A Starlette route on uvicorn that decodes the body of each request and answers it, and does nothing
else: what HTTP costs by itself.  usage: python -m bench.bare_route
"""

import socket
import sys

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

#: What the gateway answers with, or as much of it: a job as JSON.
ANSWER = msgspec.json.encode({"id": "1", "command": "true", "filler": "x" * 600})


async def decode(request: Request) -> Response:
    """
    Decode the body, and answer.
    """
    msgspec.json.decode(await request.body())
    return Response(ANSWER, 201, media_type="application/json")


def serve() -> None:
    """
    Serve for ever, on a port that is printed.
    """
    app = Starlette(routes=[Route("/api/v1/jobs", decode, methods=["POST"])])
    config = uvicorn.Config(
        app, http="h11", lifespan="off", loop="asyncio", log_config=None, access_log=False
    )
    # With the protocol named asyncio turns Nagle's algorithm off, as it does for uvicorn's own.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    serve()
