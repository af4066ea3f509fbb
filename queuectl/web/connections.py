"""
The connections of browsers and programs, before and between their requests.

uvicorn bounds neither how long the head of a request may take nor how many connections say nothing;
here both are bounded. Where all places are taken, one that never showed who it is gives way, the
oldest first: who is known cannot be kept out by those who are not, nor by one account that has very
many, since beyond a number those count as strangers too.

A connection has its place, and its time, before TLS begins on it: a stranger who stays silent in
the handshake is a stranger like any other.

Nothing is answered over a connection, by whomever, without the headers of strictness.py: they are
added to the bytes that leave.
"""

import asyncio
import ssl
from collections import Counter, OrderedDict
from typing import Any

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Response
from websockets.server import ServerProtocol

from queuectl.web.arrival import HEAD_BYTES_MAX
from queuectl.web.strictness import UNSTORED, strict_headers

#: Connections at once.
CONNECTIONS_MAX = 2_000
#: Of one account so many are safe from giving way.
USER_CONNECTIONS_MAX = 700
#: What a client has not taken yet of answers, from which on no more is made. With TLS asyncio would
#: let it be 512 KiB.
UNSENT_BYTES_MAX = 16 << 10
#: The head of a request must be whole so long after the connection or the answer before.
HEAD_SECONDS_MAX = 10

_STATE = "queuectl.connection"


class Connections:
    """
    All connections of a gateway; apart, the strangers among them, the oldest first.
    """

    def __init__(self) -> None:
        self._all: set[Connection] = set()
        self._strangers: OrderedDict[Connection, None] = OrderedDict()
        #: uid -> how many of its connections are no strangers.
        self._known_counts: Counter[int | None] = Counter()

    def enter(self, connection: "Connection") -> bool:
        """
        Give it a place, a stranger's if need be. Returns whether there is one.
        """
        if len(self._all) >= CONNECTIONS_MAX:
            if not self._strangers:
                return False
            oldest, _ = self._strangers.popitem(last=False)
            self._all.discard(oldest)
            oldest.transport.abort()
        self._all.add(connection)
        self._strangers[connection] = None
        return True

    def introduce(self, connection: "Connection", uid: int | None) -> None:
        """
        Note whose it is.
        """
        if connection in self._strangers and self._known_counts[uid] < USER_CONNECTIONS_MAX:
            del self._strangers[connection]
            connection.uid = uid
            self._known_counts[uid] += 1

    def leave(self, connection: "Connection") -> None:
        """
        Give its place back.
        """
        if connection not in self._all:
            return
        self._all.discard(connection)
        if connection in self._strangers:
            del self._strangers[connection]
        else:
            self._known_counts[connection.uid] -= 1
            if not self._known_counts[connection.uid]:
                del self._known_counts[connection.uid]


class _Http(h11.Connection):
    """
    The HTTP of one connection: what was asked for comes in as events, answers go out as bytes.

    An answer of known length is one piece, head and body: two would be two calls of the system, and
    would wake its reader twice.
    """

    def __init__(self, strict: dict[str, str]) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES_MAX)
        # As bytes, past h11, which would check each of them for each answer.
        self._strict = _lines(strict)
        self._strict_unstored = _lines(strict | UNSTORED)
        #: The head of an answer whose body is next.
        self._head = b""

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]
        """
        Return what is to be written for *event*; None for the end of the connection.
        """
        data = super().send(event)
        if type(event) is h11.Response:
            assert data is not None
            stored = b"\r\ncache-control:" in data
            data = data[:-2] + (self._strict if stored else self._strict_unstored) + b"\r\n"
            if b"\r\ncontent-length:" in data:
                self._head = data
                return b""
        elif self._head and data is not None:
            data, self._head = self._head + data, b""
        return data


def _lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items()).encode()


class _WebSocket(ServerProtocol):
    """
    The protocol of one WebSocket. What is no handshake, and what is refused, is answered in HTTP.
    """

    def __init__(self, strict: dict[str, str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._strict = strict

    def send_response(self, response: Response) -> None:
        """
        Answer the handshake.
        """
        if response.status_code != 101:
            response.headers.update(self._strict | UNSTORED)
        super().send_response(response)


class Connection(H11Protocol):
    """
    One connection, until it becomes a WebSocket's; with *tls* it begins with that.
    """

    def __init__(
        self, connections: Connections, tls: ssl.SSLContext | None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.strict = strict_headers(tls=tls is not None)
        self.conn = _Http(self.strict)
        self._tls = tls
        self._handshake: asyncio.Task[None] | None = None
        #: What came with the end of the handshake, before that was told here.
        self._early = bytearray()
        self._places = connections
        #: Whose it is, once that is known.
        self.uid: int | None = None
        #: When the next head must be whole, in the loop's time; None while no head is expected.
        self._head_deadline: float | None = None
        # It runs on while requests are served, and looks at the deadline when it ends: to set one
        # for each request costs more.
        self._head_timer: asyncio.TimerHandle | None = None
        # Each request's scope, and a WebSocket's, gets a copy of this.
        self.app_state = {**self.app_state, _STATE: self}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """
        Take a place, and expect a request.
        """
        self.transport = transport
        if not self._places.enter(self):
            transport.abort()
            return
        self._expect()
        if self._tls is None:
            self._open(transport)
        else:
            self._handshake = self.loop.create_task(self._begin_tls(self._tls))

    async def _begin_tls(self, tls: ssl.SSLContext) -> None:
        self.connections.add(self)  # uvicorn's: what it closes when it ends.
        transport: asyncio.Transport | None = None
        try:
            transport = await self.loop.start_tls(
                self.transport, self, tls, server_side=True, ssl_handshake_timeout=HEAD_SECONDS_MAX
            )
        except OSError:  # An ssl.SSLError is one.
            pass
        self._handshake = None
        if transport is None:  # It spoke no TLS, hung up, or gave way.
            self.connections.discard(self)
            self._expect_nothing()
            self.leave()
            return
        self._open(transport)
        if self._early:
            self.data_received(bytes(self._early))
            self._early.clear()

    def _open(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """
        Go on with a request.
        """
        if self._handshake is not None:
            assert self.transport.get_protocol() is not self, "not before TLS"
            self._early += data
            return
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """
        Expect the next request.
        """
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Give the place back.
        """
        self._expect_nothing()
        self.leave()
        super().connection_lost(exc)

    def introduce(self, uid: int | None) -> None:
        """
        Note who is at the other end.
        """
        self._places.introduce(self, uid)

    def leave(self) -> None:
        """
        Give the place back.
        """
        self._places.leave(self)

    def _expect(self) -> None:
        served = self.cycle is not None and not self.cycle.response_complete
        if served or self.transport.get_protocol() is not self:
            self._head_deadline = None
        elif self._head_deadline is None:
            self._head_deadline = self.loop.time() + HEAD_SECONDS_MAX
            if self._head_timer is None:
                self._head_timer = self.loop.call_at(self._head_deadline, self._check_head)

    def _expect_nothing(self) -> None:
        self._head_deadline = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _check_head(self) -> None:
        self._head_timer = None
        if self._head_deadline is None:
            return
        if self._head_deadline <= self.loop.time():
            self.transport.close()
        else:
            self._head_timer = self.loop.call_at(self._head_deadline, self._check_head)


class WebSocketConnection(WebSocketsSansIOProtocol):
    """
    What a connection becomes when a WebSocket is opened over it. It keeps the place.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        strict = self.app_state[_STATE].strict
        self.conn = _WebSocket(strict, max_size=self.config.ws_max_size, logger=self.logger)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Give the place back.
        """
        self.app_state[_STATE].leave()
        super().connection_lost(exc)


def introduce(scope: Scope, uid: int | None) -> None:
    """
    Note that the sender of a request showed who they are: the account *uid*.
    """
    connection = scope.get("state", {}).get(_STATE)
    if connection is not None:
        connection.introduce(uid)


def is_whole(scope: Scope) -> bool:
    """
    Whether all of a request is here, its body too: reading that waits for nobody.
    """
    connection = scope.get("state", {}).get(_STATE)
    cycle = None if connection is None else connection.cycle
    return cycle is not None and not cycle.more_body
