"""
Requirements on the tunnel at the gateway: who gets one, what may go through it, how it ends, and
how much a client can make the gateway hold.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from queuectl.framing import FRAME_BYTES_MAX, pack_frame
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Done,
    Enqueue,
    Hello,
    JobSpec,
    LogEnd,
    Logs,
    Message,
    Output,
    Refused,
    Shutdown,
    Status,
    StatusReport,
    Wait,
    Welcome,
    decoder,
    encode,
)
from queuectl.web import tunnel
from queuectl.web.configuration import Configuration
from queuectl.web.gateway import Gateway
from queuectl.web.link import Connection

PATH = "/api/v1/tunnel"
HELLO = pack_frame(encode(Hello(protocol=PROTOCOL_VERSION)))
STATUS = pack_frame(encode(Status(call=7)))
decode = decoder(Welcome, Refused, Done, StatusReport, Output, LogEnd).decode


class Opener:
    """
    Opens tunnels by hand, and closes them.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self._open: list[ClientConnection] = []

    def __call__(self, token: str | None = None, **headers: str) -> ClientConnection:
        token = self.gateway.make_token() if token is None else token
        given = {"Authorization": f"Bearer {token}"} if token else {}
        opened = connect(
            self.gateway.url.replace("http", "ws") + PATH,
            additional_headers=given | {name.replace("_", "-"): headers[name] for name in headers},
            proxy=None,
            compression=None,
            max_size=None,
            max_queue=1,
        ).__enter__()
        self._open.append(opened)
        return opened

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def opener(gateway: GatewayProcess) -> Iterator[Opener]:
    """
    Tunnels to the gateway of all tests of this file.
    """
    opener = Opener(gateway)
    yield opener
    opener.close()


def receive(opened: ClientConnection) -> Message:
    data = opened.recv(20)
    assert isinstance(data, bytes)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    answer: Message = decode(data[4:])
    return answer


def greet(opened: ClientConnection) -> ClientConnection:
    opened.send(HELLO)
    assert isinstance(receive(opened), Welcome)
    return opened


def code_at_end(opened: ClientConnection) -> int | None:
    try:
        while True:
            opened.recv(20)
    except ConnectionClosed:
        return opened.close_code


# --- who gets one ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        ("", {}, 401),
        ("qctl_aaaaaaaaaa_" + "a" * 43, {}, 401),
        ("nonsense", {}, 401),
        ("", {"Authorization": "Basic cm9vdDpyb290"}, 401),
        (None, {"Origin": "https://evil.example"}, 403),
        (None, {"Sec_Fetch_Site": "cross-site"}, 403),
    ],
)
def test_a_tunnel_is_refused_before_it_opens(
    opener: Opener, token: str | None, headers: dict[str, str], status: int
) -> None:
    """
    As HTTP, with the reason: without a good token, from a page of another origin.
    """
    with pytest.raises(InvalidStatus) as refused:
        opener(token, **headers)

    assert status == refused.value.response.status_code
    assert "application/problem+json" == refused.value.response.headers["Content-Type"]
    assert [] == opener.gateway.events("web_server")


def test_a_session_opens_no_tunnel(
    opener: Opener, gateway: GatewayProcess, browser_session: httpx.Client
) -> None:
    """
    A page of our own origin has the API; what a page could be tricked into is not the whole socket.
    """
    cookie = "; ".join(f"{each.name}={each.value}" for each in browser_session.cookies.jar)
    with pytest.raises(InvalidStatus) as refused:
        opener("", Cookie=cookie, Origin=gateway.url)

    assert 403 == refused.value.response.status_code
    assert b"a tunnel takes a token" in (refused.value.response.body or b"")


def test_a_hello_cannot_say_who_asks(opener: Opener, gateway: GatewayProcess) -> None:
    """
    Whoever opened the tunnel with one token is not served as another that is in its hello.
    """
    opened = opener(gateway.make_token("read"))
    everything = gateway.make_token()
    opened.send(pack_frame(encode(Hello(protocol=PROTOCOL_VERSION, token=everything))))
    welcome = receive(opened)
    assert isinstance(welcome, Welcome)
    assert ["read"] == welcome.scopes

    opened.send(pack_frame(encode(Enqueue(call=1, jobs=[JobSpec(command="true")]))))
    refused = receive(opened)
    assert isinstance(refused, Refused)
    assert (1, "denied") == (refused.call, refused.code)


# --- what goes through -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "text",
        b"",
        STATUS[:3],
        STATUS[:-1],
        STATUS + b"x",
        STATUS + STATUS,
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"x",
        b"\xff\xff\xff\xff",
    ],
    ids=["text", "empty", "no length", "cut", "more", "two", "long", "huge"],
)
def test_a_message_is_one_whole_frame(opener: Opener, message: str | bytes) -> None:
    """
    Anything else ends the tunnel, whoever is first to say it.
    """
    for opened in (opener(), greet(opener())):
        opened.send(message)
        assert tunnel.NOT_A_FRAME == code_at_end(opened)


def test_a_message_beyond_the_limit_is_not_read(opener: Opener) -> None:
    """
    Nothing of it reaches the daemon, and the gateway does not hold it.
    """
    opened = greet(opener())
    with contextlib.suppress(ConnectionClosed):
        opened.send(pack_frame(b"x" * FRAME_BYTES_MAX) + b"x" * 1000)

    # 1006: the end of the connection overtook the word for it, as it may where more was sent.
    assert code_at_end(opened) in (1009, 1006)


@pytest.mark.parametrize(
    "first",
    [STATUS, pack_frame(b"\xc1"), pack_frame(b""), pack_frame(b"\x81" * 60_000)],
    ids=["request", "no msgpack", "nothing", "deep"],
)
def test_hello_comes_first(opener: Opener, first: bytes) -> None:
    """
    What is no greeting ends the tunnel.
    """
    opened = opener()
    opened.send(first)

    assert tunnel.NO_HELLO == code_at_end(opened)


def test_another_protocol_is_refused_as_the_daemon_does(opener: Opener) -> None:
    """
    In words that a newer client understands.
    """
    opened = opener()
    opened.send(pack_frame(encode(Hello(protocol=2))))
    refused = receive(opened)

    assert isinstance(refused, Refused)
    expected = ("unsupported", "protocol 2 is not spoken here, 1 is")
    assert expected == (refused.code, refused.message)
    assert tunnel.NO_HELLO == code_at_end(opened)


def test_what_the_daemon_refuses_comes_through(opener: Opener) -> None:
    """
    Unknown requests and nonsense in a frame are the daemon's to answer; the tunnel stays.
    """
    opened = greet(opener())
    opened.send(pack_frame(b"\x82\xa2op\xa4none\xa4call\x05"))
    refused = receive(opened)
    assert isinstance(refused, Refused)
    assert (5, "unsupported") == (refused.call, refused.code)

    opened.send(STATUS)
    report = receive(opened)
    assert isinstance(report, StatusReport)
    assert 7 == report.call


def test_many_requests_go_at_once(opener: Opener) -> None:
    """
    As over the socket: each answer names its request.
    """
    opened = greet(opener())
    for call in range(1, 201):
        opened.send(pack_frame(encode(Status(call=call))))

    assert set(range(1, 201)) == {receive(opened).call for _ in range(200)}


# --- bounds ----------------------------------------------------------------------------------


def test_who_does_not_read_holds_nothing(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    A client asks for far more than the gateway may hold and reads nothing; then reads it all.
    """
    size_bytes, times = 12_000_000, 4
    gateway = gateways(daemon).start()
    (job,) = daemon.enqueue(f"head -c {size_bytes} /dev/zero")
    daemon.wait_for(job, "completed")
    opened = greet(Opener(gateway)())
    before_bytes = gateway.rss_bytes()
    most_bytes = 0
    for call in range(1, times + 1):
        opened.send(pack_frame(encode(Logs(call=call, id=job))))
    with gateway.client() as client:
        for _ in range(100):  # Time in which it would take in what it does not hold back.
            assert 200 == client.get("/healthz").status_code
            most_bytes = max(most_bytes, gateway.rss_bytes())
    read_bytes = dict.fromkeys(range(1, times + 1), 0)
    ended: set[int] = set()
    while len(ended) < times:
        answer = receive(opened)
        if isinstance(answer, Output):
            read_bytes[answer.call] += len(answer.data)
        else:
            ended.add(answer.call)
    opened.close()

    assert set(read_bytes.values()) == {size_bytes}
    assert most_bytes - before_bytes < 12 << 20


def socket_count(gateway: GatewayProcess) -> int:
    names = [f"/proc/{gateway.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{gateway.pid}/fd")]
    return sum(os.path.exists(each) and os.readlink(each).startswith("socket:") for each in names)


def test_nothing_is_left_of_a_tunnel(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    Closed, broken off in the middle of a request, or never greeted: both its connections go.
    """
    gateway = gateways(daemon).start()
    opener = Opener(gateway)
    token = gateway.make_token()
    before_count = socket_count(gateway)
    for number in range(12):
        opened = opener(token)
        if number % 2:
            greet(opened)
            opened.send(pack_frame(encode(Logs(call=1, id="1", follow=True))))
        if number % 3 == 0:
            opened.close()
        else:
            opened.close_socket()

    # What stays is the token's own link.
    wait_until(lambda: socket_count(gateway) == before_count + 1, what="all others are closed")


# --- the end ---------------------------------------------------------------------------------


def test_the_end_of_the_daemon_ends_the_tunnel(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    After its last word: nothing that it said is lost.
    """
    opened = greet(Opener(gateways(daemon).start())())
    opened.send(pack_frame(encode(Shutdown(call=9))))

    assert Done(call=9) == receive(opened)
    assert tunnel.ENDED == code_at_end(opened)


def test_the_end_of_the_gateway_ends_the_tunnel(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    With a word that says to come back; it does not wait for those who follow.
    """
    gateway = gateways(daemon).start()
    opened = greet(Opener(gateway)())
    opened.send(pack_frame(encode(Wait(call=1, ids=daemon.enqueue("true", hold=True)))))

    assert 0 == gateway.stop()
    assert tunnel.GOING_AWAY == code_at_end(opened)


def test_a_client_that_never_greets_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It has a time for it, and is told when that is over.
    """
    monkeypatch.setattr(tunnel, "HELLO_SECONDS_MAX", 0.01)
    said: list[MutableMapping[str, Any]] = []

    async def serve() -> None:
        async def receive() -> MutableMapping[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError("nothing comes")

        async def send(message: MutableMapping[str, Any]) -> None:
            said.append(message)

        here, there = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=here)
        with there:
            connection = Connection("daemon", reader, writer)
            gateway = Gateway(Configuration(socket="daemon"))
            await tunnel._serve(gateway, connection, receive, send)
            connection.close()

    asyncio.run(serve())
    expected = {"type": "websocket.close", "code": tunnel.NO_HELLO, "reason": "no hello in time"}
    assert [expected] == said
