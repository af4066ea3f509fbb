"""
The control socket: connections, their frames, and what they are owed.

A connection is read only while little is waiting to be written to it, so that a client that does
not read its answers stops being served instead of filling the daemon's memory. Nothing here knows
what a request means.
"""

import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import DecodeError, MsgspecError, Raw
from msgspec.msgpack import Decoder

from queuectl.framing import FrameReader, FrameTooLong, pack_frame
from queuectl.protocol import PROTOCOL_VERSION, Envelope, Hello, Refused, Request, Welcome, encode

# Connections at once. Each may hold a frame of 4 MiB.
CLIENTS_MAX = 512
# Bytes read from one connection in one turn, so that one client cannot fill a turn.
READ_BYTES_MAX = 256 << 10
# Bytes waiting to be written to a connection beyond which nothing more is read from it, and
# streams to it pause.
WRITE_BYTES_MAX = 1 << 20
BACKLOG = 128

_decode_request: Callable[[bytes], Any] = Decoder(Request).decode
_decode_envelope = Decoder(Envelope).decode
_decode_raw = Decoder(Raw).decode


class Connection:
    """
    One client.
    """

    def __init__(self, sock: socket.socket, client: int) -> None:
        self.sock = sock
        self.client = client
        self.reader = FrameReader()
        self.greeted = False
        self.closing = False
        self.reading = True
        self._outgoing: deque[bytes] = deque()
        self.outgoing_bytes = 0

    def send(self, payload: bytes) -> None:
        """
        Queue one frame.
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
    Listens on a Unix socket. `handle(client, request)` is called for each request, `gone(client)`
    when a connection ended.
    """

    def __init__(
        self,
        path: str,
        epoll: select.epoll,
        handlers: dict[int, Callable[[int], None]],
        welcome: Callable[[], Welcome],
    ) -> None:
        self.path = path
        self.handle: Callable[[int, Any], None] = lambda client, request: None
        self.gone: Callable[[int], None] = lambda client: None
        self._epoll = epoll
        self._handlers = handlers
        self._welcome = welcome
        self._connections: dict[int, Connection] = {}
        self._dirty: set[int] = set()
        self._next_client = 1
        self._socket = listen(path)
        self._inode = os.stat(path).st_ino
        self._watch(self._socket.fileno(), select.EPOLLIN, self._accept)

    # --- for the daemon ---------------------------------------------------------------------

    def reply(self, client: int, response: Any) -> None:
        """
        Queue a response; flush() sends it. A client that is gone misses it.
        """
        connection = self._connections.get(client)
        if connection is None:
            return
        try:
            connection.send(encode(response))
        except FrameTooLong as error:
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
        fd = self._socket.fileno()
        self._epoll.unregister(fd)
        del self._handlers[fd]
        try:
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        self._socket.close()

    def close(self) -> None:
        """
        Close every connection, after one more try to write what it is owed.
        """
        self.stop_listening()
        for connection in list(self._connections.values()):
            connection.sock.settimeout(0.2)
            try:
                connection.flush()
            except OSError:
                pass
            self._drop(connection)

    # --- the loop's side --------------------------------------------------------------------

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _accept(self, _events: int) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:
                return  # The peer is gone again, or there are no descriptors: others are served.
            if len(self._connections) >= CLIENTS_MAX:
                sock.close()
                continue
            sock.setblocking(False)
            connection = Connection(sock, self._next_client)
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
        connection.reader.feed(data)
        try:
            for frame in connection.reader:
                if connection.closing:
                    return
                self._frame(connection, frame)
        except FrameTooLong as error:
            self._hang_up(connection, Refused(code="usage", message=f"{error}; cut the batch"))

    def _frame(self, connection: Connection, frame: bytes) -> None:
        try:
            request = _decode_request(frame)
        except MsgspecError as error:
            self._undecodable(connection, frame, error)
            return
        if isinstance(request, Hello):
            self._greet(connection, request)
        elif not connection.greeted:
            refused = Refused(call=request.call, code="unsupported", message="say hello first")
            self._hang_up(connection, refused)
        else:
            self.handle(connection.client, request)

    def _greet(self, connection: Connection, hello: Hello) -> None:
        if hello.protocol < 1:
            message = f"protocol {hello.protocol} is not spoken here, {PROTOCOL_VERSION} is"
            self._hang_up(connection, Refused(code="unsupported", message=message))
            return
        # A newer client speaks down: every later protocol begins with what this one understands.
        connection.greeted = True
        self.reply(connection.client, self._welcome())

    def _undecodable(self, connection: Connection, frame: bytes, error: MsgspecError) -> None:
        """
        Refuse one request if it can be told which, else hang up: the stream makes no sense.
        """
        try:
            _decode_raw(frame)
            envelope = _decode_envelope(frame)
        except MsgspecError:
            self._hang_up(connection, Refused(code="usage", message="a frame is not msgpack"))
            return
        if not connection.greeted:
            refused = Refused(call=envelope.call, code="unsupported", message="say hello first")
            self._hang_up(connection, refused)
            return
        known = {request.__struct_config__.tag for request in Request.__args__}
        if envelope.op not in known:
            message = (
                f"this daemon does not know the request {envelope.op[:40]!r}; if the client is "
                "newer, restart the daemon: queuectl daemon stop"
            )
            refused = Refused(call=envelope.call, code="unsupported", message=message)
        else:
            assert isinstance(error, DecodeError)
            message = f"the request is malformed: {str(error)[:200]}"
            refused = Refused(call=envelope.call, code="usage", message=message)
        self.reply(connection.client, refused)

    def _hang_up(self, connection: Connection, refused: Refused) -> None:
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
        reading = connection.outgoing_bytes < WRITE_BYTES_MAX and not connection.closing
        events = (select.EPOLLIN if reading else 0) | (0 if done else select.EPOLLOUT)
        self._epoll.modify(connection.sock.fileno(), events)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.client, None) is None:
            return
        fd = connection.sock.fileno()
        self._epoll.unregister(fd)
        del self._handlers[fd]
        connection.sock.close()
        self.gone(connection.client)


def listen(path: str) -> socket.socket:
    """
    Return a listening socket at *path*, mode 0600, non-blocking.

    A socket file that is there is a dead daemon's: the caller holds the state's lock. But another
    daemon's may be there when two were given one path. Raises OSError, FileExistsError then.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} is there and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                raise FileExistsError(f"another daemon listens at {path}")
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock
