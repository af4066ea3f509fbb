"""
A guard with a probe behind it: requests go in as the server would hand them over, and what the
probe does is the test's.
"""

from typing import Any, NamedTuple

from daemon_process import DaemonProcess

from queuectl.client import Client
from queuectl.tokens import CreateToken, TokenCreated
from queuectl.web.arrival import hosts_of
from queuectl.web.configuration import configure
from queuectl.web.gateway import Gateway
from queuectl.web.guard import Guard

PORT = 8642
ALLOWED = "queue.example.org"


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
        configuration = configure(socket=daemon.socket, allow_hosts=(ALLOWED,))
        self.gateway = Gateway(configuration, clock=lambda: 1000.0)
        self.gateway.hosts = hosts_of(configuration, PORT)
        self.guard = Guard(self.probe, self.gateway)
        self.run_count = 0
        self.secret, self.session = self.gateway.sessions.begin(None, 0, 1000.0)
        with Client(daemon.socket) as client:
            self.token = client.call(CreateToken(scopes=["read"]), TokenCreated).text

    async def probe(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.run_count += 1
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, cell: Cell) -> tuple[int, dict[str, str]]:
        """
        Put a request to the guard; return the answer's status and headers.
        """
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.guard(self.scope(cell), receive, send)
        start = sent[0]
        headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return start["status"], headers

    def scope(self, cell: Cell) -> dict[str, Any]:
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
        websocket = cell.method == "WEBSOCKET"
        scope: dict[str, Any] = {
            "type": "websocket" if websocket else "http",
            "http_version": "1.1",
            "scheme": "ws" if websocket else "http",
            "path": "/api/v1/jobs",
            "raw_path": b"/api/v1/jobs",
            "query_string": b"",
            "client": ("127.0.0.1", 50_000),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "extensions": {"websocket.http.response": {}},
        }
        return scope if websocket else {**scope, "method": cell.method}
