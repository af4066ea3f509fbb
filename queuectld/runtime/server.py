"""
The control socket: connections, their frames, and their turn.

A turn takes a few requests from each connection, and not many more from one account. The others
stay in their connection's buffer, which is not read on meanwhile, and have their turn next, those
that waited longest first. Of what a request means only this is known here: whether it may be about
thousands of jobs, or all that is known of one. One of these is an account's whole turn.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import MsgspecError
from msgspec.msgpack import Decoder
from msgspec.structs import replace

from queuectl.framing import FrameTooLong
from queuectl.messages import Request
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Enqueued,
    Envelope,
    Hello,
    Output,
    Refused,
    Welcome,
)
from queuectl.watching import Changed
from queuectld.core.admission import malformed, shorten
from queuectld.core.peer import Peer
from queuectld.core.timers import earliest
from queuectld.runtime.connection import UNANSWERED_MAX, WRITE_BYTES_MAX, Connection
from queuectld.runtime.deadlines import Deadlines
from queuectld.runtime.greeting import Greeter
from queuectld.runtime.listening import EXHAUSTED, NO_DESCRIPTOR, Listener, turn_away
from queuectld.runtime.long_requests import LONG
from queuectld.runtime.peers import PeerRefused, identify, peer_uid
from queuectld.runtime.quotas import CLIENTS_MAX, Quotas, TooManyConnections

# Bytes read from one connection in one turn, so that one client cannot fill a turn.
READ_BYTES_MAX = 256 << 10
# Requests taken from one connection in one turn: others wait no longer than these take, about 2 ms.
# Each turn costs as much as two or three of them.
REQUESTS_PER_TURN_MAX = 64
# Time for all connections together to take what they are owed when the daemon ends.
CLOSE_S_MAX = 0.5
# How long no connection is accepted after there was no descriptor for one.
ACCEPT_RETRY_MS = 100
# Connections accepted in one turn: who connects without end keeps nobody who is connected waiting.
ACCEPTS_PER_TURN_MAX = 16

_decode_request: Callable[[bytearray], Any] = Decoder(Request).decode
_decode_envelope = Decoder(Envelope).decode
# What msgspec raises for bytes that are no message: nesting too deep and text that is not UTF-8
# have exceptions of their own.
_UNDECODABLE = (MsgspecError, RecursionError, UnicodeDecodeError)
# Responses that do not end a request.
_UNASKED = frozenset({Changed, Output, Welcome})
_KNOWN_OPS = frozenset(request.__struct_config__.tag for request in Request.__args__)


class Server:
    """
    Listens on a Unix socket, at *path* or as it was passed. `handle(client, peer, request)` is
    called for each request, `gone(client)` when a connection ended.
    """

    def __init__(
        self,
        path: str,
        epoll: select.epoll,
        handlers: dict[int, Callable[[int], None]],
        greeter: Greeter,
        listening: socket.socket | None = None,
        mode: int = 0o600,
        identify: Callable[[socket.socket], Peer] = partial(identify, system=False),  # noqa: B008
        user_connections_max: Callable[[], int] = lambda: CLIENTS_MAX,
    ) -> None:
        self._identify = identify
        self.handle: Callable[[int, Peer, Any], None] = lambda client, peer, request: None
        self.gone: Callable[[int], None] = lambda client: None
        self._epoll = epoll
        self._handlers = handlers
        self._greeter = greeter
        self._connections: dict[int, Connection] = {}
        self._dirty: set[int] = set()
        #: Connections whose buffer may hold whole requests, in the order of their turn.
        self._backlogged: dict[Connection, None] = {}
        #: Connections to which something happened in this turn.
        self._noted: set[Connection] = set()
        self._deadlines = Deadlines()
        self._quotas = Quotas(user_connections_max)
        #: Turns since the start, the one that is under way included.
        self.turn_count = 1
        #: Connections that were turned away, by the code of the refusal.
        self.refused_counts: Counter[str] = Counter()
        self._next_client = 1
        #: When to accept connections again; None while they are accepted.
        self._accept_at: int | None = None
        self._listener = Listener(path, listening, mode)
        self._watch(self._listener.fileno(), select.EPOLLIN, self._accept)

    # --- for the daemon ---------------------------------------------------------------------

    def reply(self, client: int, response: Any) -> None:
        """
        Queue a response; flush() sends it. A client that is gone misses it.
        """
        connection = self._connections.get(client)
        if connection is None:
            return
        if type(response) not in _UNASKED:
            connection.unanswered -= 1
            assert connection.unanswered >= 0, response
        try:
            connection.send(response)
        except FrameTooLong as error:
            if isinstance(response, Enqueued):
                # The jobs are made, so this must not read like a refusal. Their ids do fit.
                connection.send(replace(response, jobs=[]))
            else:
                message = f"the answer is too long: {error}; ask for less"
                refused = Refused(call=response.call, code="try_later", message=message)
                connection.send(refused)
        self._dirty.add(client)

    def may_stream(self, client: int) -> bool | None:
        """
        Whether a stream may go on: False while the client is slow, None if it is gone.
        """
        connection = self._connections.get(client)
        return None if connection is None else connection.outgoing_bytes < WRITE_BYTES_MAX

    def flush(self, now: int) -> None:
        """
        End the turn: write to every connection that something was queued for, and end those whose
        time is over. By now everything was read that had come when the turn began: nobody is
        blamed for a daemon that was held up.
        """
        self._write_all(now)
        if not self._deadlines.is_due(now):
            return
        for connection in self._deadlines.ended(now):
            self._end(connection, "the token has expired")
        for connection, refused in self._deadlines.expire(now):
            if refused is None:
                self._drop(connection)
            else:
                self._hang_up(connection, refused)
        self._write_all(now)

    def end_token(self, token: str) -> None:
        """
        End every connection that brought a token.
        """
        for connection in list(self._connections.values()):
            if connection.peer.token == token:
                self._end(connection, "the token was revoked")

    @property
    def is_backlogged(self) -> bool:
        """
        Whether requests that may be asked wait in a buffer.
        """
        waiting = self._backlogged
        return bool(waiting) and any(connection.may_ask for connection in waiting)

    def next_deadline(self) -> int | None:
        """
        When to call attend().
        """
        if self.is_backlogged:
            return 0
        return earliest(self._deadlines.next(), self._accept_at)

    def attend(self, now: int) -> None:
        """
        Begin the next turn: take requests that wait in a buffer, and accept connections again
        after descriptors had run out.
        """
        self.turn_count += 1
        for connection in list(self._backlogged):
            if connection.quota.requests_left(self.turn_count):
                self._take_requests(connection)
                self._update_events(connection)
        if self._accept_at == 0:
            self._accept_at = now + ACCEPT_RETRY_MS
        elif self._accept_at is not None and now >= self._accept_at:
            self._accept_at = None
            self._watch(self._listener.fileno(), select.EPOLLIN, self._accept)

    @property
    def connection_count(self) -> int:
        """
        Connections at the moment.
        """
        return len(self._connections)

    @property
    def accepted_count(self) -> int:
        """
        Connections that were served since the start.
        """
        return self._next_client - 1

    def stop_listening(self) -> None:
        """
        Take no new connections, and the socket's file away if it is still ours.
        """
        if self._listener.fileno() < 0:
            return
        if self._accept_at is None:
            self._unwatch(self._listener.fileno())
        self._accept_at = None
        self._listener.close()

    def close(self) -> None:
        """
        Close every connection, after one more try to write what it is owed.
        """
        self.stop_listening()
        deadline = time.monotonic() + CLOSE_S_MAX
        for connection in list(self._connections.values()):
            connection.sock.settimeout(max(deadline - time.monotonic(), 0))
            try:
                connection.flush()
            except OSError:
                pass
            self._drop(connection)

    # --- the loop's side --------------------------------------------------------------------

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def _accept(self, _events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN_MAX):
            try:
                sock = self._listener.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                message = "the daemon has no descriptor left for one more connection"
                refused = Refused(code="try_later", message=message)
                if error.errno in NO_DESCRIPTOR and self._listener.turn_one_away(refused):
                    self.refused_counts[refused.code] += 1
                    continue
                # Nothing is there to accept it with. It waits in the backlog, others are served.
                self._unwatch(self._listener.fileno())
                self._accept_at = 0
                return
            if sock is None:
                return
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        """
        Serve a connection that was accepted, or say why not.
        """
        try:
            self._quotas.check(peer_uid(sock))
            peer = self._identify(sock)
            quota = self._quotas.join(peer)
        except PeerRefused as error:
            self._turn_away(sock, "denied", str(error))
            return
        except TooManyConnections as error:
            self._turn_away(sock, "try_later", str(error))
            return
        connection = Connection(sock, self._next_client, peer, quota)
        try:
            self._watch(
                sock.fileno(),
                select.EPOLLIN,
                lambda events: self._ready(connection, events),
            )
        except OSError as error:
            # The kernel limits how many descriptors an account may have watched.
            self._quotas.leave(quota)
            message = f"the daemon cannot watch one more connection: {error.strerror}"
            self._turn_away(sock, "try_later", message)
            return
        self._next_client += 1
        self._connections[connection.client] = connection
        self._noted.add(connection)

    def _turn_away(self, sock: socket.socket, code: str, message: str) -> None:
        self.refused_counts[code] += 1
        turn_away(sock, Refused(code=code, message=message))

    def _ready(self, connection: Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            self._write(connection)
        if connection.sock.fileno() >= 0 and events & (
            select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
        ):
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        if connection.closing:
            return  # It was told why; what it goes on saying is not looked at.
        connection.reader.feed(data)
        self._noted.add(connection)
        self._take_requests(connection)
        self._update_events(connection)

    def _take_requests(self, connection: Connection) -> None:
        """
        Hand on what was received, as far as may be asked in this turn.
        """
        connection.backlogged = True
        reader, quota = connection.reader, connection.quota
        pending_bytes = reader.pending_bytes
        long = False
        room = 0
        if connection.may_ask:
            unanswered_left = UNANSWERED_MAX - connection.unanswered
            room = min(quota.requests_left(self.turn_count), REQUESTS_PER_TURN_MAX, unanswered_left)
        left = room
        try:
            while left and not connection.closing:
                frame = reader.next_frame()
                if frame is None:
                    connection.backlogged = False
                    break
                left -= 1
                try:
                    request = _decode_request(frame)
                except _UNDECODABLE as error:
                    self._undecodable(connection, frame, error)
                    continue
                if type(request) is Hello or not connection.greeted:
                    self._greet(connection, request)
                    if connection.quota is not quota:
                        break  # What comes after a token is another account's turn.
                    continue
                connection.unanswered += 1
                self.handle(connection.client, connection.peer, request)
                long = type(request) in LONG
                if long:
                    break
        except FrameTooLong as error:
            self._hang_up(connection, Refused(code="usage", message=f"{error}; cut the batch"))
        if left < room:
            connection.spoke = True
            taken_bytes = pending_bytes - reader.pending_bytes
            quota.spend(room - left, taken_bytes, all_of_it=long)
            self._backlogged.pop(connection, None)  # To the end of the line.
            self._noted.add(connection)
        if connection.backlogged and not connection.closing:
            self._backlogged.setdefault(connection)
        else:
            self._backlogged.pop(connection, None)

    def _update_events(self, connection: Connection) -> None:
        # Nothing is read as long as there are requests that were not handed on: they would pile up.
        reading = connection.may_ask and not connection.backlogged
        events = select.EPOLLIN if reading else 0
        if connection.outgoing_bytes:
            events |= select.EPOLLOUT
        if connection.events != events:
            connection.events = events
            self._epoll.modify(connection.sock.fileno(), events)

    def _greet(self, connection: Connection, hello: Any) -> None:
        if type(hello) is not Hello:
            message = "say hello first"
            self._hang_up(connection, Refused(call=hello.call, code="unsupported", message=message))
            return
        if hello.protocol < 1:
            message = f"protocol {hello.protocol} is not spoken here, {PROTOCOL_VERSION} is"
            self._hang_up(connection, Refused(code="unsupported", message=message))
            return
        if hello.token is not None:
            refused = self._let_in(connection, hello.token)
            if refused is not None:
                self._hang_up(connection, refused)
                return
        # A newer client speaks down: every later protocol begins with what this one understands.
        connection.greeted = True
        self.reply(connection.client, self._greeter.welcome(connection.peer))

    def _let_in(self, connection: Connection, text: str) -> Refused | None:
        """
        Serve a connection as the account of a token from now on, or return why not.
        """
        if connection.greeted:
            return Refused(code="usage", message="a token comes with the first hello")
        try:
            token = self._greeter.find_token(text, connection.peer)
            if token.uid != connection.quota.uid:
                self._quotas.check(token.uid)
            peer = self._greeter.identify(token)
            connection.quota = self._quotas.move(connection.quota, peer)
        except PeerRefused as error:
            return Refused(code="denied", message=str(error))
        except TooManyConnections as error:
            return Refused(code="try_later", message=str(error))
        connection.peer = peer
        if token.expires_at:
            self._deadlines.end_at(connection, token.expires_at)
        return None

    def _undecodable(self, connection: Connection, frame: bytearray, error: Exception) -> None:
        """
        Refuse one request if it can be told which, else hang up: the stream makes no sense.
        """
        try:
            envelope = _decode_envelope(frame)
        except _UNDECODABLE:
            self._hang_up(connection, Refused(code="usage", message="a frame is not a request"))
            return
        if not connection.greeted:
            refused = Refused(call=envelope.call, code="unsupported", message="say hello first")
            self._hang_up(connection, refused)
            return
        if envelope.op not in _KNOWN_OPS:
            message = (
                f"this daemon does not know the request {shorten(envelope.op)}; if the client is "
                "newer, restart the daemon: queuectl daemon stop"
            )
            refused = Refused(call=envelope.call, code="unsupported", message=message)
        else:
            refused = Refused(call=envelope.call, code="usage", message=malformed(error))
        connection.unanswered += 1
        self.reply(connection.client, refused)

    def _hang_up(self, connection: Connection, refused: Refused) -> None:
        connection.unanswered += 1
        self.reply(connection.client, refused)
        connection.closing = True

    def _end(self, connection: Connection, message: str) -> None:
        """
        End a connection whose token is not good any more. What else it is owed it does not get.
        """
        connection.send(Refused(code="denied", message=message))
        self._write(connection)
        self._drop(connection)

    def _write_all(self, now: int) -> None:
        while self._dirty:
            connection = self._connections.get(self._dirty.pop())
            if connection is not None:
                self._write(connection)
        while self._noted:
            self._deadlines.note(self._noted.pop(), now)

    def _write(self, connection: Connection) -> None:
        self._noted.add(connection)
        try:
            done = connection.flush()
        except OSError:
            self._drop(connection)
            return
        if done and connection.closing:
            self._drop(connection)
            return
        self._update_events(connection)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.client, None) is None:
            return
        self._backlogged.pop(connection, None)
        self._noted.discard(connection)
        self._deadlines.forget(connection)
        self._quotas.leave(connection.quota)
        self._unwatch(connection.sock.fileno())
        connection.sock.close()
        self.gone(connection.client)
