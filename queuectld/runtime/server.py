"""
The control socket: connections, their frames, and what they are owed.

A connection is read only while little is waiting to be written to it and few of its requests wait
for their answer, so that a client that does not read its answers stops being served instead of
filling the daemon's memory. What was received beyond that stays in its buffer, which is at most one
frame and one read. Nothing here knows what a request means.
"""

import errno
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import MsgspecError
from msgspec.msgpack import Decoder
from msgspec.structs import replace

from queuectl.framing import FrameReader, FrameTooLong, pack_frame
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Enqueued,
    Envelope,
    Hello,
    Output,
    Refused,
    Request,
    Welcome,
    encode,
)
from queuectld.core.peer import Peer
from queuectld.runtime.peers import PeerRefused, identify

# Connections at once. Each may hold a frame of 4 MiB.
CLIENTS_MAX = 512
# Bytes read from one connection in one turn, so that one client cannot fill a turn.
READ_BYTES_MAX = 256 << 10
# Bytes waiting to be written to a connection beyond which nothing more is read from it, and
# streams to it pause.
WRITE_BYTES_MAX = 1 << 20
# Requests of one connection that wait for their answer, beyond which no more are taken.
UNANSWERED_MAX = 256
# Requests taken from one connection in one turn: others wait no longer than these take, about 2 ms.
# Each turn costs as much as two or three of them.
REQUESTS_PER_TURN_MAX = 64
# Time for all connections together to take what they are owed when the daemon ends.
CLOSE_S_MAX = 0.5
# How long no connection is accepted after there was no descriptor for one.
ACCEPT_RETRY_MS = 100
BACKLOG = 128

_decode_request: Callable[[bytes], Any] = Decoder(Request).decode
_decode_envelope = Decoder(Envelope).decode
# What msgspec raises for bytes that are no message: nesting too deep and text that is not UTF-8
# have exceptions of their own.
_UNDECODABLE = (MsgspecError, RecursionError, UnicodeDecodeError)
# Responses that do not end a request.
_UNASKED = frozenset({Output, Welcome})
_KNOWN_OPS = frozenset(request.__struct_config__.tag for request in Request.__args__)


class Connection:
    """
    One client.
    """

    def __init__(self, sock: socket.socket, client: int, peer: Peer) -> None:
        self.sock = sock
        self.peer = peer
        self.client = client
        self.reader = FrameReader()
        self.greeted = False
        self.closing = False
        #: Requests without their last response.
        self.unanswered = 0
        #: There may be whole requests among what was received.
        self.backlogged = False
        #: The epoll events that are watched for.
        self.events = select.EPOLLIN
        self._outgoing: deque[bytes] = deque()
        self.outgoing_bytes = 0

    @property
    def may_ask(self) -> bool:
        """
        Whether a request would be taken now.
        """
        return (
            not self.closing
            and self.unanswered < UNANSWERED_MAX
            and self.outgoing_bytes < WRITE_BYTES_MAX
        )

    def send(self, payload: bytes) -> None:
        """
        Queue one frame. Raises FrameTooLong.
        """
        frame = pack_frame(payload)
        self._outgoing.append(frame)
        self.outgoing_bytes += len(frame)

    def flush(self) -> bool:
        """
        Write what the socket takes. Returns whether everything is written. Raises OSError.
        """
        while self._outgoing:
            data = b"".join(self._outgoing) if len(self._outgoing) > 1 else self._outgoing[0]
            self._outgoing.clear()
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            self.outgoing_bytes -= sent
            if sent < len(data):
                self._outgoing.append(data[sent:])
                return False
        return True


class Server:
    """
    Listens on a Unix socket, at *path* or as it was passed. `handle(client, request)` is called for
    each request, `gone(client)` when a connection ended.
    """

    def __init__(
        self,
        path: str,
        epoll: select.epoll,
        handlers: dict[int, Callable[[int], None]],
        welcome: Callable[[], Welcome],
        listening: socket.socket | None = None,
        mode: int = 0o600,
        identify: Callable[[socket.socket], Peer] = partial(identify, system=False),  # noqa: B008
    ) -> None:
        self.path = path
        self._identify = identify
        self.handle: Callable[[int, Any], None] = lambda client, request: None
        self.gone: Callable[[int], None] = lambda client: None
        self._epoll = epoll
        self._handlers = handlers
        self._welcome = welcome
        self._connections: dict[int, Connection] = {}
        self._dirty: set[int] = set()
        self._backlogged: set[Connection] = set()
        self._next_client = 1
        #: When to accept connections again; None while they are accepted.
        self._accept_at: int | None = None
        #: The inode of the socket's file, if we made it: one that was passed is not ours to remove.
        self._inode: int | None = None
        if listening is None:
            listening = listen(path, mode)
            self._inode = os.stat(path).st_ino
        self._socket = listening
        self._watch(self._socket.fileno(), select.EPOLLIN, self._accept)

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
            connection.send(encode(response))
        except FrameTooLong as error:
            if isinstance(response, Enqueued):
                # The jobs are made, so this must not read like a refusal. Their ids do fit.
                connection.send(encode(replace(response, jobs=[])))
            else:
                message = f"the answer is too long: {error}; ask for less"
                refused = Refused(call=response.call, code="try_later", message=message)
                connection.send(encode(refused))
        self._dirty.add(client)

    def may_stream(self, client: int) -> bool | None:
        """
        Whether a stream may go on: False while the client is slow, None if it is gone.
        """
        connection = self._connections.get(client)
        return None if connection is None else connection.outgoing_bytes < WRITE_BYTES_MAX

    def flush(self) -> None:
        """
        Write to every connection that something was queued for.
        """
        while self._dirty:
            connection = self._connections.get(self._dirty.pop())
            if connection is not None:
                self._write(connection)

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
        return 0 if self.is_backlogged else self._accept_at

    def attend(self, now: int) -> None:
        """
        Take requests that wait in a buffer, and connections again after descriptors had run out.
        """
        for connection in list(self._backlogged):
            self._take_requests(connection)
            self._update_events(connection)
        if self._accept_at == 0:
            self._accept_at = now + ACCEPT_RETRY_MS
        elif self._accept_at is not None and now >= self._accept_at:
            self._accept_at = None
            self._watch(self._socket.fileno(), select.EPOLLIN, self._accept)

    def peer_of(self, client: int) -> Peer:
        """
        Return who is on the other end of a connection that is there.
        """
        return self._connections[client].peer

    @property
    def connection_count(self) -> int:
        """
        Connections at the moment.
        """
        return len(self._connections)

    def stop_listening(self) -> None:
        """
        Take no new connections, and the socket's file away if it is still ours.
        """
        if self._socket.fileno() < 0:
            return
        if self._accept_at is None:
            self._unwatch(self._socket.fileno())
        self._accept_at = None
        try:
            if self._inode is not None and os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        self._socket.close()

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
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def _accept(self, _events: int) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # Nothing is there to accept it with. It waits in the backlog, others are served.
                self._unwatch(self._socket.fileno())
                self._accept_at = 0
                return
            sock.setblocking(False)
            if len(self._connections) >= CLIENTS_MAX:
                message = f"there are {CLIENTS_MAX} connections already, the most there may be"
                turn_away(sock, Refused(code="try_later", message=message))
                continue
            try:
                peer = self._identify(sock)
            except PeerRefused as error:
                turn_away(sock, Refused(code="denied", message=str(error)))
                continue
            connection = Connection(sock, self._next_client, peer)
            self._next_client += 1
            self._connections[connection.client] = connection
            self._watch(
                sock.fileno(),
                select.EPOLLIN,
                lambda events, connection=connection: self._ready(connection, events),  # type: ignore[misc]
            )

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
        self._take_requests(connection)
        self._update_events(connection)

    def _take_requests(self, connection: Connection) -> None:
        """
        Hand on what was received, as far as may be asked in this turn.
        """
        connection.backlogged = True
        try:
            for _ in range(REQUESTS_PER_TURN_MAX):
                if not connection.may_ask:
                    break
                frame = connection.reader.next_frame()
                if frame is None:
                    connection.backlogged = False
                    break
                self._frame(connection, frame)
        except FrameTooLong as error:
            self._hang_up(connection, Refused(code="usage", message=f"{error}; cut the batch"))
        if connection.backlogged and not connection.closing:
            self._backlogged.add(connection)
        else:
            self._backlogged.discard(connection)

    def _update_events(self, connection: Connection) -> None:
        # Nothing is read as long as there are requests that were not handed on: they would pile up.
        reading = connection.may_ask and not connection.backlogged
        events = select.EPOLLIN if reading else 0
        if connection.outgoing_bytes:
            events |= select.EPOLLOUT
        if connection.events != events:
            connection.events = events
            self._epoll.modify(connection.sock.fileno(), events)

    def _frame(self, connection: Connection, frame: bytes) -> None:
        try:
            request = _decode_request(frame)
        except _UNDECODABLE as error:
            self._undecodable(connection, frame, error)
            return
        if isinstance(request, Hello):
            self._greet(connection, request)
        elif not connection.greeted:
            refused = Refused(call=request.call, code="unsupported", message="say hello first")
            self._hang_up(connection, refused)
        else:
            connection.unanswered += 1
            self.handle(connection.client, request)

    def _greet(self, connection: Connection, hello: Hello) -> None:
        if hello.protocol < 1:
            message = f"protocol {hello.protocol} is not spoken here, {PROTOCOL_VERSION} is"
            self._hang_up(connection, Refused(code="unsupported", message=message))
            return
        # A newer client speaks down: every later protocol begins with what this one understands.
        connection.greeted = True
        self.reply(connection.client, self._welcome())

    def _undecodable(self, connection: Connection, frame: bytes, error: Exception) -> None:
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
                f"this daemon does not know the request {envelope.op[:40]!r}; if the client is "
                "newer, restart the daemon: queuectl daemon stop"
            )
            refused = Refused(call=envelope.call, code="unsupported", message=message)
        else:
            message = f"the request is malformed: {str(error)[:200]}"
            refused = Refused(call=envelope.call, code="usage", message=message)
        connection.unanswered += 1
        self.reply(connection.client, refused)

    def _hang_up(self, connection: Connection, refused: Refused) -> None:
        connection.unanswered += 1
        self.reply(connection.client, refused)
        connection.closing = True

    def _write(self, connection: Connection) -> None:
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
        self._backlogged.discard(connection)
        self._unwatch(connection.sock.fileno())
        connection.sock.close()
        self.gone(connection.client)


def turn_away(sock: socket.socket, refused: Refused) -> None:
    """
    Say why a connection is not served, and close it.
    """
    try:
        sock.send(pack_frame(encode(refused)))
    except OSError:
        pass  # It is gone again.
    sock.close()


def listen(path: str, mode: int = 0o600) -> socket.socket:
    """
    Return a listening socket at *path*, of *mode* from the first moment, non-blocking.

    A socket file that is there is a dead daemon's: the caller holds the state's lock. But another
    daemon's may be there when two were given one path. Raises OSError, FileExistsError then.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} is there and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            # EAGAIN: somebody listens, and too many others wait already.
            if probe.connect_ex(path) in (0, errno.EAGAIN):
                raise FileExistsError(f"another daemon listens at {path}")
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock
