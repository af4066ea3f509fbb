"""
Requirement: many calls share one connection, none takes another's answer, and a daemon that
restarts is waited for. What the other end may do wrong is played by a twin that speaks the
protocol's bytes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess

from queuectl.client import Client
from queuectl.errors import ConnectionLost, ProtocolError, RequestRefused
from queuectl.framing import FrameReader, pack_frame
from queuectl.messages import Request
from queuectl.protocol import (
    Done,
    Enqueue,
    Enqueued,
    JobDetail,
    JobSpec,
    List,
    LogEnd,
    Logs,
    Message,
    Output,
    Refused,
    Show,
    StartWorkers,
    Status,
    StatusReport,
    Wait,
    Waited,
    Welcome,
    Workers,
    decoder,
    encode,
)
from queuectl.tokens import CreateToken, RevokeToken, TokenCreated, id_of
from queuectl.watching import Watch
from queuectl.web import link as link_module
from queuectl.web.link import CALLS_MAX, Link
from queuectld.core.scopes import SCOPE_OF

Script = Callable[["Peer"], Awaitable[None]]
TOKEN = "qctl_0a1b2c3d4e_" + 43 * "s"


class Peer:
    """
    The daemon's end of one connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._decode = decoder(Request).decode

    async def receive(self) -> Any:
        while (frame := self._frames.next_frame()) is None:
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionError
            self._frames.feed(data)
        return self._decode(frame)

    async def greet(self, **fields: Any) -> None:
        await self.receive()
        self.send(Welcome(protocol=1, version="twin", **fields))

    def send(self, message: Message) -> None:
        self._writer.write(pack_frame(encode(message)))


def against(tmp_path: Path, scripts: list[Script], test: Callable[[Link], Awaitable[None]]) -> None:
    """
    Run *test* with a link to a twin that plays one of *scripts* for each connection.
    """
    left = list(scripts)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await left.pop(0)(Peer(reader, writer))
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def run() -> None:
        path = f"{tmp_path}/q.sock"
        server = await asyncio.start_unix_server(serve, path)
        link = Link(path)
        try:
            await asyncio.wait_for(test(link), 20)
        finally:
            link.close()
            server.close()
        assert [] == left

    asyncio.run(run())


def with_daemon(daemon: DaemonProcess, test: Callable[[Link], Awaitable[None]]) -> None:
    async def run() -> None:
        link = Link(daemon.socket)
        try:
            await asyncio.wait_for(test(link), 20)
        finally:
            link.close()

    asyncio.run(run())


def test_many_calls_at_once(daemon: DaemonProcess) -> None:
    """
    More calls than may be under way at once are all answered, each with its own answer.
    """
    ids = daemon.enqueue(*["true"] * 10)

    async def test(link: Link) -> None:
        asked = [ids[i % len(ids)] for i in range(3 * CALLS_MAX)]
        answers = await asyncio.gather(*(link.call(Show(id=each), JobDetail) for each in asked))
        assert asked == [each.job.id for each in answers]

    with_daemon(daemon, test)


def test_a_call_that_is_given_up_disturbs_no_other(daemon: DaemonProcess) -> None:
    """
    The answer to a cancelled call is dropped, and the connection goes on.
    """
    (job,) = daemon.enqueue("sleep 100")

    async def test(link: Link) -> None:
        waiting = asyncio.create_task(link.call(Wait(ids=[job]), Waited))
        await link.call(Status(), StatusReport)
        waiting.cancel()
        assert (await link.call(Show(id=job), JobDetail)).job.id == job

    with_daemon(daemon, test)


def test_a_daemon_that_restarts_is_waited_for(daemon: DaemonProcess) -> None:
    """
    A call while the daemon is away takes as long as it is away.
    """

    async def test(link: Link) -> None:
        epoch = (await link.open()).epoch
        daemon.stop()
        call = asyncio.create_task(link.call(Status(), StatusReport))
        await asyncio.sleep(0)
        await asyncio.to_thread(daemon.start)
        assert (await call).daemon.pid == daemon.pid
        assert link.welcome.epoch > epoch

    with_daemon(daemon, test)


def test_a_stream_has_a_connection_of_its_own(daemon: DaemonProcess) -> None:
    """
    Its items come in order with the end last; closing it early closes its connection alone.
    """
    (job,) = daemon.enqueue("echo one; echo two")
    daemon.wait_for(job)
    (endless,) = daemon.enqueue("while echo y; do :; done")

    async def test(link: Link) -> None:
        *parts, end = [each async for each in link.stream(Logs(id=job), Output, LogEnd)]
        assert b"one\ntwo\n" == b"".join(each.data for each in parts if isinstance(each, Output))
        assert isinstance(end, LogEnd)
        stream = link.stream(Logs(id=endless, follow=True), Output, LogEnd)
        assert isinstance(await anext(stream), Output)
        await stream.aclose()
        assert (await link.call(Show(id=job), JobDetail)).job.id == job

    with_daemon(daemon, test)


def test_a_token_that_is_taken_back(daemon: DaemonProcess) -> None:
    """
    The link says so at once, and no call comes through any more.
    """
    with Client(daemon.socket) as client:
        text = client.call(CreateToken(scopes=["read"]), TokenCreated).text

    async def test(_: Link) -> None:
        denied = asyncio.Event()
        link = Link(daemon.socket, text, on_denied=denied.set)
        assert ["read"] == (await link.open()).scopes
        with Client(daemon.socket) as client:
            client.call(RevokeToken(id=id_of(text)), Done)
        await denied.wait()
        with pytest.raises(RequestRefused) as refused:
            await link.call(List(), Done)
        assert "denied" == refused.value.code

    with_daemon(daemon, test)


def test_a_daemon_that_knows_no_tokens(tmp_path: Path) -> None:
    """
    It would take the link for the process's own account: nothing is asked.
    """

    async def old(peer: Peer) -> None:
        await peer.greet(user="gateway")
        assert not await peer.receive()

    async def test(link: Link) -> None:
        with pytest.raises(ProtocolError, match="does not know tokens"):
            await Link(link.path, TOKEN).call(Status(), StatusReport)

    against(tmp_path, [old], test)


async def lose(peer: Peer) -> None:
    await peer.greet()
    await peer.receive()


def test_a_change_whose_answer_was_lost_is_not_repeated(tmp_path: Path) -> None:
    """
    Whether it was carried out is not known: the caller is told.
    """

    async def test(link: Link) -> None:
        with pytest.raises(ConnectionLost):
            await link.call(StartWorkers(count=1), Workers)

    against(tmp_path, [lose], test)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (List(), Done),
        (Enqueue(jobs=[JobSpec(command="true")], request_id="r"), Enqueued),
    ],
)
def test_what_may_be_asked_twice_is(
    tmp_path: Path, request_: Message, answer: type[Message]
) -> None:
    """
    A look, and an enqueue with a request id, are repeated when the answer was lost.
    """

    async def serve(peer: Peer) -> None:
        await peer.greet()
        call = (await peer.receive()).call
        peer.send(Enqueued(call=call, ids=["1"]) if answer is Enqueued else Done(call=call))
        await peer.receive()

    async def test(link: Link) -> None:
        assert isinstance(await link.call(request_, answer), answer)

    against(tmp_path, [lose, serve], test)


def test_what_may_be_asked_twice_only_looks() -> None:
    """
    It is all that the daemon lets those do who may only look, but for what goes on for long.
    """
    looks = {each for each, scope in SCOPE_OF.items() if scope == "read"}
    assert looks - {Logs, Wait, Watch} == set(link_module._LOOKS)


def test_a_connection_that_was_idle_too_long(tmp_path: Path) -> None:
    """
    The daemon hung up before it read the request: it is sent again, whatever it is.
    """

    async def idle(peer: Peer) -> None:
        await peer.greet()
        await peer.receive()
        peer.send(Refused(code="idle", message="nothing was asked"))

    async def serve(peer: Peer) -> None:
        await peer.greet()
        peer.send(Workers(call=(await peer.receive()).call, workers=[]))
        await peer.receive()

    async def test(link: Link) -> None:
        await link.call(StartWorkers(count=1), Workers)

    against(tmp_path, [idle, serve], test)


def test_an_old_connection_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A call after its time goes over a new connection; the old one stays until its last answer.
    """
    monkeypatch.setattr(link_module, "CONNECTION_SECONDS_MAX", -1.0)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def first(peer: Peer) -> None:
        await peer.greet(admin=True)
        call = (await peer.receive()).call
        asked.set()
        await answered.wait()
        peer.send(Done(call=call))
        with pytest.raises(ConnectionError):
            await peer.receive()

    async def second(peer: Peer) -> None:
        await peer.greet()
        peer.send(Done(call=(await peer.receive()).call))
        answered.set()
        with pytest.raises(ConnectionError):
            await peer.receive()

    async def test(link: Link) -> None:
        long = asyncio.create_task(link.call(List(), Done))
        await asked.wait()
        await link.call(List(), Done)
        assert not link.welcome.admin
        await long

    against(tmp_path, [first, second], test)


@pytest.mark.parametrize("bytes_", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x81\xa2"])
def test_what_is_no_daemon(tmp_path: Path, bytes_: bytes) -> None:
    """
    Bytes that are no answer end the connection, and the caller is told what listens there.
    """

    async def nonsense(peer: Peer) -> None:
        await peer.greet()
        await peer.receive()
        peer._writer.write(bytes_)
        await peer._writer.drain()

    async def test(link: Link) -> None:
        with pytest.raises(ProtocolError, match="no queuectld of this version"):
            await link.call(StartWorkers(), Workers)

    against(tmp_path, [nonsense], test)
