"""
One peer on the runner's socket: packets with descriptors in, packets out.

Nothing here blocks. What the peer does not take at once waits in `outbox`, in order; how much may
wait is for the owner to say. Descriptors that were received belong to the caller.
"""

import os
import socket
import struct
from collections import deque

from queuectld.runner.messages import MESSAGE_BYTES_MAX

_FDS_MAX = 2
_CONTROL_BYTES = socket.CMSG_SPACE(_FDS_MAX * 4)
# As plain integers: an operation on the enumeration costs as much as a system call.
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CTRUNC = int(socket.MSG_CTRUNC)


class PeerGoneError(Exception):
    """
    The peer closed the connection, or it broke.
    """


def close_all(fds: list[int]) -> None:
    """
    Close these descriptors and empty the list.
    """
    while fds:
        os.close(fds.pop())


class Connection:
    """
    A connected SOCK_SEQPACKET socket.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.fd = connected.fileno()
        self.outbox: deque[bytes] = deque()
        self._socket = connected
        # One byte more than any message, so that a longer packet is seen to be longer.
        self._buffer = memoryview(bytearray(MESSAGE_BYTES_MAX + 1))

    def receive(self) -> tuple[bytes, list[int], bool] | None:
        """
        The next packet, its descriptors, and whether some of those were dropped: more came than
        any message has, or this process has no room for them. None when nothing is there.
        Raises `PeerGoneError`.
        """
        try:
            size_bytes, control, flags, _ = self._socket.recvmsg_into(
                [self._buffer], _CONTROL_BYTES, _CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise PeerGoneError(str(error)) from None
        fds: list[int] = []
        for _, _, data in control:
            fds += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
        if size_bytes == 0 and not fds:
            raise PeerGoneError("closed")
        return bytes(self._buffer[:size_bytes]), fds, bool(flags & _CTRUNC)

    def send(self, message: bytes) -> None:
        """
        Send, or queue behind what waits. Raises `PeerGoneError`.
        """
        self.outbox.append(message)
        if len(self.outbox) == 1:
            self.flush()

    def flush(self) -> None:
        """
        Send what waits, as far as the peer takes it. Raises `PeerGoneError`.
        """
        while self.outbox:
            try:
                self._socket.send(self.outbox[0])
            except BlockingIOError:
                return
            except OSError as error:
                raise PeerGoneError(str(error)) from None
            self.outbox.popleft()

    def refuse_more(self) -> None:
        """
        Have every further packet of the peer fail in its hands. What it sent before is still to be
        received, and then its end.
        """
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # It hung up itself, and that is received too.

    def close(self) -> None:
        """
        Close; what waits is dropped, what was sent can still be read by the peer.
        """
        self._socket.close()
