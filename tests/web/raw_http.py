"""
HTTP by hand: bytes to a gateway's port, and what it answers until it hangs up or has said enough.
"""

import socket
from collections.abc import Sequence

from daemon_process import DEADLINE_S
from gateway_process import GatewayProcess


class RawHttp:
    """
    One connection.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self.host = f"127.0.0.1:{gateway.port}"
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), DEADLINE_S)

    def __enter__(self) -> "RawHttp":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """
        Send bytes; the gateway may have hung up by now.
        """
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def request(
        self, method: str, path: str, headers: Sequence[str] = (), body: bytes = b""
    ) -> None:
        """
        Send a request with exactly these headers, and a Host that is right.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", *headers, "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + body)

    def read_all(self) -> bytes:
        """
        Return everything until the gateway hangs up.
        """
        data = bytearray()
        try:
            while more := self.socket.recv(65_536):
                data += more
        except ConnectionResetError:
            pass  # It hung up before it had read all of what was sent.
        return bytes(data)

    def read_status(self) -> int:
        """
        Return the status of the next answer; 0 if the gateway hangs up without one.
        """
        data = bytearray()
        try:
            while b"\r\n\r\n" not in data:
                more = self.socket.recv(65_536)
                if not more:
                    break
                data += more
        except ConnectionResetError:
            pass
        return int(data.split(b" ", 2)[1]) if data else 0


def statuses(answer: bytes) -> list[int]:
    """
    Return the status of each answer in what a connection gave.
    """
    parts = answer.split(b"HTTP/1.1 ")[1:]
    return [int(part[:3]) for part in parts]
