"""
Requirement: a request lasts no longer than the session behind it, and nobody's bodies keep out
those of others.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess
from guard_bench import Bench, Cell

from queuectl.web import bodies
from queuectl.web import link as link_module
from queuectl.web.bodies import BODY_BYTES_MAX, USER_BODIES_BYTES_MAX, Bodies
from queuectl.web.refusals import Refusal

PAGE = Cell("127.0.0.1:8642", "own", "same-origin", "GET", "cookie", None)

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


@pytest.fixture
def bench(daemon: DaemonProcess) -> Bench:
    return Bench(daemon)


def served(bench: Bench, test: Awaitable[None]) -> None:
    async def run() -> None:
        try:
            await asyncio.wait_for(test, 20)
        finally:
            bench.gateway.close()

    asyncio.run(run())


async def never() -> Any:
    """
    What is received from a client that says nothing.
    """
    await asyncio.Event().wait()


class Handler:
    """
    A route that says *messages*, and then goes on for ever.
    """

    def __init__(self, bench: Bench, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.runs = asyncio.Event()
        bench.guard._app = self

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        for message in self.messages:
            await send(message)
        self.runs.set()
        await never()


@pytest.mark.parametrize(
    ("method", "messages", "expected"),
    [
        ("GET", [], [("http.response.start", 401), ("http.response.body", None)]),
        (
            "GET",
            [{"type": "http.response.start", "status": 200}],
            [("http.response.start", 200)],  # And the connection breaks off.
        ),
        (
            "GET",
            [{"type": "http.response.start", "status": 200, "headers": EVENTS}],
            [("http.response.start", 200), ("http.response.body", None)],
        ),
        (
            "WEBSOCKET",
            [{"type": "websocket.accept"}],
            [("websocket.accept", None), ("websocket.close", 1008)],
        ),
        (
            "WEBSOCKET",
            [],
            [("websocket.http.response.start", 401), ("websocket.http.response.body", None)],
        ),
    ],
)
def test_a_request_ends_with_its_session(
    bench: Bench, method: str, messages: list[Any], expected: list[Any]
) -> None:
    """
    Whoever is logged out elsewhere, or whose token is revoked, sees and says nothing more.
    """

    async def test() -> None:
        sent: list[tuple[str, int | None]] = []

        async def send(message: Any) -> None:
            sent.append((message["type"], message.get("status", message.get("code"))))

        handler = Handler(bench, *messages)
        scope = bench.scope(PAGE._replace(method=method))
        request = asyncio.create_task(bench.guard(scope, never, send))
        await handler.runs.wait()
        bench.gateway.sessions.end(bench.session)
        await request
        assert expected == sent
        assert not bench.session.tasks

    served(bench, test())


def test_a_request_that_is_cancelled_for_another_reason(bench: Bench) -> None:
    """
    The end of the process is no end of a session.
    """

    async def test() -> None:
        async def send(_message: Any) -> None:
            raise AssertionError("nothing is to be said")

        handler = Handler(bench)
        request = asyncio.create_task(bench.guard(bench.scope(PAGE), never, send))
        await handler.runs.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    served(bench, test())


def test_a_body_that_does_not_come(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is waited for as long as a body may take; no handler runs.
    """
    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.01)

    async def test() -> None:
        statuses = []

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        cell = PAGE._replace(method="POST", sender="token", body="application/json")
        await bench.guard(bench.scope(cell), never, send)
        assert [408, None] == statuses
        assert 0 == bench.run_count

    served(bench, test())


@pytest.mark.parametrize(("method", "looks_again"), [("GET", True), ("POST", False)])
def test_a_daemon_that_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str, looks_again: bool
) -> None:
    """
    A person gets a page that says so, and that looks again by itself unless it was to change
    something.
    """
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS_MAX", 0.1)
    headers = {"Host": PAGE.host, "Accept": "text/html", "Authorization": f"Bearer {bench.token}"}

    async def test() -> None:
        bench.daemon.stop()
        async with bench.served(bench.guard) as port, httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{port}/jobs"
            answer = await client.request(method, url, headers=headers)
        assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
        assert "no daemon listens" in answer.text
        assert looks_again == ('<meta http-equiv="refresh" content="1">' in answer.text)
        assert looks_again == ("looks again by itself" in answer.text)

    served(bench, test())


def test_bodies_of_one_account() -> None:
    """
    One account, and strangers together, hold so much and no more; others still have room.
    """
    held = Bodies()
    rooms = [
        held.room(1000, BODY_BYTES_MAX) for _ in range(USER_BODIES_BYTES_MAX // BODY_BYTES_MAX)
    ]
    for each in rooms:
        each.__enter__()
    with pytest.raises(Refusal) as refused, held.room(1000, 1):
        pass
    assert 503 == refused.value.status
    with held.room(1001, BODY_BYTES_MAX), held.room(None, BODY_BYTES_MAX):
        pass
    for each in rooms:
        each.__exit__(None, None, None)
    with held.room(1000, USER_BODIES_BYTES_MAX):
        pass
    assert not held._held_bytes
