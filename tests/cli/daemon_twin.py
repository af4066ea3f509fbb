"""
A server that says what a test wants said: the real frames and messages, without a daemon.

For each connection it takes one script, a function of the connection, in order. What a script
raises fails the test when the twin is closed.
"""

import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

from queuectl.framing import FrameReader, pack_frame
from queuectl.messages import Request
from queuectl.protocol import Hello, Message, Welcome, decoder, encode
from queuectl.views import JobView

_decode: Callable[[bytes], Any] = decoder(Request).decode

DEADLINE_S = 20.0
#: A job that a twin may tell of.
JOB = JobView(
    id="1",
    number=1,
    command="true",
    state="completed",
    attempts=1,
    max_retries=3,
    priority=0,
    queue="default",
    created_at=0,
    updated_at=0,
)


class Peer:
    """
    The daemon's end of one connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self._reader = FrameReader()

    def receive(self) -> Any:
        """
        Return the next request; None when the client has hung up.
        """
        while (frame := self._reader.next_frame()) is None:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._reader.feed(data)
        return _decode(frame)

    def greet(self) -> None:
        """
        Receive Hello and answer it.
        """
        hello = self.receive()
        assert isinstance(hello, Hello), hello
        self.send(Welcome(protocol=1, version="9.9.9", pid=os.getpid()))

    def send(self, *messages: Message) -> None:
        """
        Send messages.
        """
        for message in messages:
            self.raw(pack_frame(encode(message)))

    def raw(self, data: bytes) -> None:
        """
        Send bytes.
        """
        self.sock.sendall(data)


Script = Callable[[Peer], None]


class DaemonTwin:
    """
    Listens at *path* and plays *scripts*, one for each connection.
    """

    def __init__(self, path: str, *scripts: Script) -> None:
        self.path = path
        self.error: BaseException | None = None
        self.played_count = 0
        self._scripts = scripts
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.settimeout(DEADLINE_S)
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._listener.close()
            return
        self._thread.join(DEADLINE_S)
        self._listener.close()
        if self.error is not None:
            raise self.error
        assert not self._thread.is_alive(), "a script waits for a client that does not come"
        assert self.played_count == len(self._scripts)

    def _play(self) -> None:
        try:
            for script in self._scripts:
                sock, _ = self._listener.accept()
                with sock:
                    script(Peer(sock))
                self.played_count += 1
        except BaseException as error:
            self.error = error
