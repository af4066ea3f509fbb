"""
The connections of browsers and programs, before and between their requests.

uvicorn bounds neither how long the head of a request may take nor how many connections say nothing;
here both are bounded. Where all places are taken, one that never showed who it is gives way, the
oldest first: who is known cannot be kept out by those who are not.
"""

import asyncio
from collections import OrderedDict
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

#: Connections at once.
CONNECTIONS_MAX = 1_000
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

    def introduce(self, connection: "Connection") -> None:
        """
        Note that it showed who it is.
        """
        self._strangers.pop(connection, None)

    def leave(self, connection: "Connection") -> None:
        """
        Give its place back.
        """
        self._all.discard(connection)
        self._strangers.pop(connection, None)


class Connection(H11Protocol):
    """
    One connection, until it becomes a WebSocket's.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._places = connections
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

    def introduce(self) -> None:
        """
        Note that whoever is at the other end showed who they are.
        """
        self._places.introduce(self)

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


def introduce(scope: Scope) -> None:
    """
    Note that the sender of a request showed who they are.
    """
    connection = scope.get("state", {}).get(_STATE)
    if connection is not None:
        connection.introduce()
