"""
A server that says what a test wants said to a client of a gateway: bytes of HTTP, or a WebSocket
with the frames of the control socket.

For each connection it takes one script, a function of the connection, in order. What a script
raises fails the test when the twin is closed.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.server import ServerProtocol

from queuectl.framing import pack_frame
from queuectl.messages import Request
from queuectl.protocol import Hello, Message, Welcome, decoder, encode

_decode: Callable[[bytes], Any] = decoder(Request).decode

DEADLINE_S = 20.0


class Visit:
    """
    The gateway's end of one connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self.websocket = ServerProtocol(max_size=None)
        self._events: list[object] = []

    def read_request(self) -> Handshake:
        """
        Return the request that opens the WebSocket.
        """
        request = self.next_event()
        assert isinstance(request, Handshake)
        return request

    def answer(self, text: str) -> None:
        """
        Answer with HTTP as it is written here.
        """
        self.sock.sendall(text.replace("\n", "\r\n").encode())

    def accept(self) -> Handshake:
        """
        Open the WebSocket, and return the request.
        """
        request = self.read_request()
        self.websocket.send_response(self.websocket.accept(request))
        self.flush()
        return request

    def receive(self) -> Any:
        """
        Return the next message of the protocol; None when the client has hung up.
        """
        data = b""
        while True:
            frame = self.next_event()
            if frame is None:
                return None
            assert isinstance(frame, Frame)
            if frame.opcode in (Opcode.BINARY, Opcode.CONT):
                data += bytes(frame.data)
                if frame.fin:
                    assert int.from_bytes(data[:4], "big") == len(data) - 4
                    return _decode(data[4:])

    def send(self, message: Message) -> None:
        """
        Send a message of the protocol.
        """
        self.websocket.send_binary(pack_frame(encode(message)))
        self.flush()

    def greet(self) -> Any:
        """
        Answer the hello, and return the request that follows it.
        """
        assert isinstance(self.receive(), Hello)
        self.send(Welcome(protocol=1, version="1"))
        return self.receive()

    def flush(self) -> None:
        """
        Send what the WebSocket has to say.
        """
        self.sock.sendall(b"".join(self.websocket.data_to_send()))

    def next_event(self) -> object:
        while not self._events:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.websocket.receive_data(data)
            self._events += self.websocket.events_received()
        return self._events.pop(0)


Script = Callable[[Visit], object]


class GatewayTwin:
    """
    Listens on a free port; with *tls*, speaks TLS.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE_S)
        self._tls = tls
        scheme = "https" if tls else "http"
        self.port = self._listener.getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._run, args=(scripts,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.join(DEADLINE_S)
        self._listener.close()
        assert not self._thread.is_alive(), "the twin waits for more"
        if kind is None and self._errors:
            raise self._errors[0]

    def _run(self, scripts: tuple[Script, ...]) -> None:
        try:
            for script in scripts:
                sock, _ = self._listener.accept()
                try:
                    if self._tls is not None:
                        sock = self._tls.wrap_socket(sock, server_side=True)
                    script(Visit(sock))
                except ssl.SSLError:
                    pass  # The client does not trust us.
                finally:
                    sock.close()
        except Exception as error:
            self._errors.append(error)
