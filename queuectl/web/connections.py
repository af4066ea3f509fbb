"""
The connections of browsers and programs, before and between their requests.

uvicorn bounds neither how long the head of a request may take nor how many connections say nothing;
here both are bounded. Where all places are taken, one that never showed who it is gives way, the
oldest first: who is known cannot be kept out by those who are not, nor by one account that has very
many, since beyond a number those count as strangers too.
"""

import asyncio
from collections import Counter, OrderedDict
from typing import Any

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from queuectl.web.strictness import STRICT

#: Connections at once.
CONNECTIONS_MAX = 2_000
#: Of one account so many are safe from giving way.
USER_CONNECTIONS_MAX = 700
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


class Connection(H11Protocol):
    """
    One connection, until it becomes a WebSocket's.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._places = connections
        #: Whose it is, once that is known.
        self.uid: int | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        # Each request's scope, and a WebSocket's, gets a copy of this.
        self.app_state = {**self.app_state, _STATE: self}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """
        Take a place, and expect a request.
        """
        super().connection_made(transport)
        if self._places.enter(self):
            self._expect()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """
        Go on with a request.
        """
        super().data_received(data)
        self._expect()

    def send_400_response(self, msg: str) -> None:
        """
        Answer what is no HTTP, as strictly as everything else.
        """
        body = msg.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        headers += [(b"content-length", b"%d" % len(body)), *STRICT]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

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
            self._expect_nothing()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self._give_up)

    def _expect_nothing(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """
    What a connection becomes when a WebSocket is opened over it. It keeps the place.
    """

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
