"""
Requirement: a daemon that hangs, instead of being away, keeps nobody waiting without end.
"""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from guard_bench import Bench, Cell

from queuectl.errors import CallTimedOut, DaemonUnreachable
from queuectl.protocol import Enqueue, Enqueued, JobSpec, Status, StatusReport
from queuectl.web import link as link_module
from queuectl.web.app import build
from queuectl.web.link import Link

CALLS = 100
#: More than the system holds of what nobody reads.
LONG = JobSpec(command="true " + 3_000_000 * "x")
LOOK = Cell("127.0.0.1:8642", None, None, "GET", "token", None)


def impatiently(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for name in ("CALL_SECONDS_MAX", "GREETING_SECONDS_MAX", "RECONNECT_SECONDS_MAX"):
        monkeypatch.setattr(link_module, name, seconds)


def accept(listening: socket.socket, count: int) -> None:
    for _ in range(count):
        listening.accept()[0].close()


def with_link(path: str, test: Callable[[Link], Awaitable[None]]) -> None:
    async def run() -> None:
        link = Link(path)
        try:
            await asyncio.wait_for(test(link), 20)
        finally:
            link.close()

    asyncio.run(run())


def test_calls_to_a_daemon_that_hangs(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each of them fails, one that is too long to be sent too; later ones find that it does not greet.
    When it goes on, so do they.
    """

    async def test(link: Link) -> None:
        await link.open()
        impatiently(monkeypatch, 0.1)
        daemon.signal(signal.SIGSTOP)
        try:
            ends = await asyncio.gather(
                link.call(Status(), StatusReport),
                link.call(Enqueue(jobs=[LONG]), Enqueued),
                link.call(Status(), StatusReport),
                return_exceptions=True,
            )
            assert [CallTimedOut] * 3 == [type(end) for end in ends]
            with pytest.raises(DaemonUnreachable):
                await link.call(Status(), StatusReport)
        finally:
            monkeypatch.undo()
            daemon.signal(signal.SIGCONT)
        assert daemon.pid == (await link.call(Status(), StatusReport)).daemon.pid

    with_link(daemon.socket, test)


def test_a_call_that_was_given_up_is_not_late(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The connection that it was made over goes on when its time is up.
    """

    async def test(link: Link) -> None:
        await link.open()
        calls = link._calls
        monkeypatch.setattr(link_module, "CALL_SECONDS_MAX", 0.1)
        daemon.signal(signal.SIGSTOP)
        try:
            given_up = asyncio.create_task(link.call(Status(), StatusReport))
            while not (calls and calls._waiting):
                await asyncio.sleep(0)
            given_up.cancel()
            while calls._timer is not None:
                await asyncio.sleep(0.01)
        finally:
            monkeypatch.undo()
            daemon.signal(signal.SIGCONT)
        await link.call(Status(), StatusReport)
        assert calls is link._calls

    with_link(daemon.socket, test)


def test_many_that_wait_for_a_daemon_that_does_not_greet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each waits as long as one does, not one after the other: of few anybody asks for a greeting.
    """
    impatiently(monkeypatch, 0.2)
    path = f"{tmp_path}/q.sock"

    async def test(link: Link) -> None:
        calls = [link.call(Status(), StatusReport) for _ in range(CALLS)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [DaemonUnreachable] * CALLS == [type(end) for end in ends]

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(CALLS)
        with_link(path, test)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            accept(listening, CALLS // 10)


def test_a_request_to_a_daemon_that_hangs(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is answered with 504.
    """
    bench = Bench(daemon)
    monkeypatch.setattr(link_module, "CALL_SECONDS_MAX", 2.0)

    async def test() -> None:
        async with bench.served(build(bench.gateway)) as port:
            before, _ = await bench.ask(port, LOOK)
            daemon.signal(signal.SIGSTOP)
            try:
                meanwhile, _ = await bench.ask(port, LOOK)
            finally:
                daemon.signal(signal.SIGCONT)
            after, _ = await bench.ask(port, LOOK)
        assert [200, 504, 200] == [before, meanwhile, after]
        bench.gateway.close()

    asyncio.run(asyncio.wait_for(test(), 20))
