"""
A guard with a probe behind it. Requests come over a connection, or go in as the server would hand
them over; what the probe does is the test's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

from daemon_process import DaemonProcess
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from queuectl.client import Client
from queuectl.tokens import CreateToken, TokenCreated
from queuectl.web.arrival import hosts_of
from queuectl.web.configuration import configure
from queuectl.web.gateway import Gateway
from queuectl.web.guard import Guard
from queuectl.web.serving import uvicorn_config

PORT = 8642
ALLOWED = "queue.example.org"
#: What the probe answers with, and nothing else does.
PROBED = 226
HANDSHAKE = [
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
]


class Cell(NamedTuple):
    """
    One combination.
    """

    host: str
    origin: str | None
    site: str | None
    method: str
    sender: str
    body: str | None


class Bench:
    """
    A guard with a probe behind it, and the senders that it knows.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        configuration = configure(socket=daemon.socket, allow_hosts=(ALLOWED,))
        self.gateway = Gateway(configuration, clock=lambda: 1000.0)
        self.gateway.hosts = hosts_of(configuration, PORT)
        self.guard = Guard(self.probe, self.gateway)
        self.run_count = 0
        self.secret, self.session = self.gateway.sessions.begin(None, 0, 1000.0)
        with Client(daemon.socket) as client:
            self.token = client.call(CreateToken(scopes=["read"]), TokenCreated).text

    async def probe(self, scope: Any, _receive: Any, send: Any) -> None:
        self.run_count += 1
        kind = "http" if scope["type"] == "http" else "websocket.http"
        await send({"type": f"{kind}.response.start", "status": PROBED, "headers": []})
        await send({"type": f"{kind}.response.body", "body": b""})

    @asynccontextmanager
    async def served(self, app: ASGIApp) -> AsyncIterator[int]:
        """
        Serve *app*, which is the guard or has it, as the gateway does, at the port that is given.
        """
        config = uvicorn_config(app, self.gateway.configuration)
        make = partial(
            config.http_protocol_class, config=config, server_state=ServerState(), app_state={}
        )
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def ask(self, port: int, cell: Cell) -> tuple[int, dict[str, str]]:
        """
        Send a request; return the answer's status and headers.
        """
        method = "GET" if cell.method == "WEBSOCKET" else cell.method
        headers = [f"{name}: {value}" for name, value in self.headers(cell).items()]
        headers += HANDSHAKE if cell.method == "WEBSOCKET" else ["connection: close"]
        head = "\r\n".join([f"{method} /api/v1/jobs HTTP/1.1", *headers, "", ""])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + (b"{}" if cell.body else b""))
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        writer.close()
        await writer.wait_closed()
        found = [line.partition(": ") for line in lines if line]
        assert len(found) == len({name.lower() for name, _, _ in found}), lines
        return int(first.split()[1]), {name.lower(): value for name, _, value in found}

    def headers(self, cell: Cell) -> dict[str, str]:
        headers = {"host": cell.host}
        if cell.origin is not None:
            headers["origin"] = f"http://{cell.host}" if cell.origin == "own" else cell.origin
        if cell.site is not None:
            headers["sec-fetch-site"] = cell.site
        if cell.body is not None:
            headers |= {"content-type": cell.body, "content-length": "2"}
        if cell.sender == "token":
            headers["authorization"] = f"Bearer {self.token}"
        elif cell.sender.startswith("cookie"):
            port = cell.host.rpartition(":")[2]
            name = f"queuectl-{port}" if port.isdigit() else "queuectl"
            headers["cookie"] = f"a=b; {name}={self.secret}"
            if "CSRF" in cell.sender:
                headers["x-csrf-token"] = self.session.csrf_token
        return headers

    def scope(self, cell: Cell) -> dict[str, Any]:
        websocket = cell.method == "WEBSOCKET"
        scope: dict[str, Any] = {
            "type": "websocket" if websocket else "http",
            "http_version": "1.1",
            "scheme": "ws" if websocket else "http",
            "path": "/api/v1/jobs",
            "raw_path": b"/api/v1/jobs",
            "query_string": b"",
            "client": ("127.0.0.1", 50_000),
            "headers": [
                (name.encode(), value.encode()) for name, value in self.headers(cell).items()
            ],
            "extensions": {"websocket.http.response": {}},
        }
        return scope if websocket else {**scope, "method": cell.method}
