"""
The server alone: its loop is stepped by hand, its clients are plain sockets, and the time, who
connects and which calls of the kernel fail are what a test says.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from queuectl.framing import FrameReader, pack_frame
from queuectl.messages import Response
from queuectl.protocol import PROTOCOL_VERSION, Hello, Refused, Status, decoder, encode
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.core.tokens import TokenTable
from queuectld.runtime.greeting import Greeter
from queuectld.runtime.listening import listen
from queuectld.runtime.server import Server

decode = decoder(*Response.__args__).decode
HELLO = pack_frame(encode(Hello(protocol=PROTOCOL_VERSION)))


def statuses(first: int, last: int) -> bytes:
    return b"".join(pack_frame(encode(Status(call=n))) for n in range(first, last + 1))


class Warnings:
    """
    A log that keeps what it is warned of.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))


class Failing(socket.socket):
    """
    A socket whose calls fail, each once, with the errors in *faults*; so do those of the
    connections that it accepts.
    """

    def __init__(self, other: socket.socket, faults: dict[str, list[int]]) -> None:
        super().__init__(fileno=other.detach())
        self._faults = faults

    def accept(self) -> tuple[socket.socket, Any]:
        self._fail("accept")
        connected, address = super().accept()
        return Failing(connected, self._faults), address

    def send(self, *arguments: Any) -> int:
        self._fail("send")
        return super().send(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        self._fail("recv")
        return super().recv(*arguments)

    def _fail(self, call: str) -> None:
        if self._faults.get(call):
            number = self._faults[call].pop(0)
            raise OSError(number, os.strerror(number))


class Epoll:
    """
    An epoll that has no room for one more descriptor when *full*.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.full = False
        self.unregister, self.modify = self._epoll.unregister, self._epoll.modify
        self.poll, self.close = self._epoll.poll, self._epoll.close

    def register(self, fd: int, events: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._epoll.register(fd, events)


class Stepped:
    """
    A server whose loop turns when a test says so.
    """

    def __init__(self, path: str, *, system: bool = False) -> None:
        self.faults: dict[str, list[int]] = {}
        #: Whose the connections are that are accepted from now on.
        self.peer = EVERYBODY
        self.user_connections_max = 3
        self.identified_count = 0
        self.tokens = TokenTable()
        self.log = Warnings()
        self.asked: list[tuple[int, Any]] = []
        #: Who asked these.
        self.askers: list[Peer] = []
        self.gone: list[int] = []
        self.now = 1_000_000
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.path = path
        self.epoll = Epoll()
        self.server = Server(
            path,
            self.epoll,  # type: ignore[arg-type]
            self.handlers,
            Greeter(
                "1.0",
                1,
                tokens=self.tokens,
                now=lambda: self.now,
                log=self.log,
                socket_path=path,
                system=system,
            ),
            Failing(listen(path), self.faults),
            identify=self._identify,
            user_connections_max=lambda: self.user_connections_max,
        )
        self.server.handle = self._ask
        self.server.gone = self.gone.append

    def _ask(self, client: int, peer: Peer, request: Any) -> None:
        self.asked.append((client, request))
        self.askers.append(peer)

    def turn(self) -> None:
        for fd, events in self.epoll.poll(0):
            if fd in self.handlers:
                self.handlers[fd](events)
        self.server.attend(self.now)
        self.server.flush(self.now)

    def _identify(self, _: socket.socket) -> Peer:
        self.identified_count += 1
        return self.peer

    def turns(self) -> None:
        """
        Turn until nothing is left to be done now.
        """
        self.turn()
        while self.server.next_deadline() == 0 or self.epoll.poll(0):
            self.turn()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(self.path)
        client.settimeout(10)
        self.turn()
        return client

    def close(self) -> None:
        self.server.close()
        self.epoll.close()


def received(client: socket.socket) -> list[Any]:
    """
    Return the responses that have come.
    """
    reader = FrameReader()
    client.setblocking(False)
    try:
        while data := client.recv(1 << 20):
            reader.feed(data)
    except BlockingIOError:
        pass
    return [decode(frame) for frame in reader]


def ended(client: socket.socket) -> bool:
    """
    Whether the server has closed the connection. What it said last was read before.
    """
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def refusal(client: socket.socket) -> Refused:
    """
    Return what was said last, before the server hung up.
    """
    last = received(client)[-1]
    assert isinstance(last, Refused)
    assert ended(client)
    return last
