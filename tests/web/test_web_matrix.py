"""
Requirement: a request that a page of another origin made a browser send, that names another host,
that comes from nobody, or whose body is none of ours, is refused before any handler runs.

Every combination of Host, Origin, Sec-Fetch-Site, method, sender and body is put to the guard, with
a probe behind it that counts. What must come of each is said here by rules of its own.
"""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from daemon_process import DaemonProcess

from queuectl.client import Client
from queuectl.tokens import CreateToken, TokenCreated
from queuectl.web.arrival import hosts_of
from queuectl.web.configuration import configure
from queuectl.web.gateway import Gateway
from queuectl.web.guard import STRICT_HEADERS, Guard

PORT = 8642
ALLOWED = "queue.example.org"
HOSTS = ("127.0.0.1:8642", "queue.example.org", "evil.example:8642", "127.0.0.1")
GOOD_HOSTS = HOSTS[:2]
ORIGINS = (None, "own", "http://evil.example:8642", "null")
SITES = (None, "same-origin", "same-site", "cross-site")
METHODS = ("GET", "POST", "DELETE", "WEBSOCKET")
SENDERS = ("nobody", "token", "cookie", "cookie and CSRF token")
BODIES = (None, "application/json", "text/plain")


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


def cells() -> Iterator[Cell]:
    for each in itertools.product(HOSTS, ORIGINS, SITES, METHODS, SENDERS, BODIES):
        cell = Cell(*each)
        if cell.body is None or cell.method in ("POST", "DELETE"):
            yield cell


def expected(cell: Cell) -> set[int]:
    """
    Return the statuses of which the guard may choose one. 0: the handler runs.
    """
    wrong: set[int] = set()
    changes = cell.method != "GET"
    if cell.host not in GOOD_HOSTS:
        wrong.add(421)
    if changes and cell.origin not in (None, "own"):
        wrong.add(403)
    if cell.site in ("same-site", "cross-site"):
        wrong.add(403)
    if cell.body == "text/plain":
        wrong.add(415)
    if cell.sender == "nobody":
        wrong.add(401)
    if cell.sender == "cookie" and cell.method in ("POST", "DELETE"):
        wrong.add(403)
    if cell.sender.startswith("cookie") and cell.method == "WEBSOCKET" and cell.origin is None:
        wrong.add(401)
    return wrong or {0}


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
        self.secret, self.session = self.gateway.sessions.begin(None, 1000.0)
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


@pytest.fixture
def bench(daemon: DaemonProcess) -> Bench:
    return Bench(daemon)


def test_the_matrix(bench: Bench) -> None:
    """
    Each cell is refused with the status of one of its faults and the handler does not run; or it
    has no fault, and the handler runs once. All answers carry the strict headers.
    """

    async def ask_all() -> list[str]:
        wrong = []
        for cell in cells():
            before = bench.run_count
            status, headers = await bench.ask(cell)
            ran = bench.run_count - before
            wanted = expected(cell)
            right = (ran, status) == (1, 299) if wanted == {0} else not ran and status in wanted
            strict = all(
                headers.get(name.lower()) == value for name, value in STRICT_HEADERS.items()
            )
            if not right or not strict:
                wrong.append(f"{cell}: {status}, ran {ran} times, wanted {wanted}")
        bench.gateway.close()
        return wrong

    count = len(list(cells()))
    assert count >= 2_000
    assert [] == asyncio.run(ask_all())
    assert 0 < bench.run_count < count / 10
