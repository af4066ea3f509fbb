"""
A client that sends what it likes, and looks at every response.
"""

import contextlib
import socket
from typing import Any, ClassVar

from daemon_process import DaemonProcess

from queuectl.framing import FrameReader, pack_frame
from queuectl.messages import Response
from queuectl.protocol import PROTOCOL_VERSION, Hello, decoder, encode

HELLO = pack_frame(encode(Hello(protocol=PROTOCOL_VERSION)))

decode = decoder(*Response.__args__).decode


class Raw:
    """
    A connection that sends what it likes. `made` are all of them, to be closed after a test.
    """

    made: ClassVar[list["Raw"]] = []

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.sock.settimeout(20)
        self.reader = FrameReader()
        self.made.append(self)

    def send(self, data: bytes) -> None:
        # The daemon may hang up on us in the middle: what it said before can be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def receive(self) -> Any:
        """
        Return the next response; None when the daemon has hung up.
        """
        while (frame := self.reader.next_frame()) is None:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.reader.feed(data)
        return decode(frame)

    def close(self) -> None:
        self.sock.close()


def check_served(daemon: DaemonProcess) -> None:
    """
    Assert that an honest client is served.
    """
    (job_id,) = daemon.enqueue("true", hold=True)
    assert daemon.state(job_id) == "held"
