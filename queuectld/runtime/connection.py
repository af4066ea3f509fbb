"""
One client's connection: what was received of it, what it is owed.

A connection is read only while little is waiting to be written to it and few of its requests wait
for their answer, so that a client that does not read its answers stops being served instead of
filling the daemon's memory. What was received beyond that stays in its buffer, which is at most one
frame and one read.
"""

import select
import socket
from collections import deque

from queuectl.framing import FrameReader, pack_frame
from queuectld.core.peer import Peer
from queuectld.runtime.quotas import Quota

# Bytes waiting to be written to a connection beyond which nothing more is read from it, and
# streams to it pause.
WRITE_BYTES_MAX = 1 << 20
# Requests of one connection that wait for their answer, beyond which no more are taken.
UNANSWERED_MAX = 256


class Connection:
    """
    One client.
    """

    def __init__(self, sock: socket.socket, client: int, peer: Peer, quota: Quota) -> None:
        self.sock = sock
        self.peer = peer
        self.quota = quota
        self.client = client
        self.reader = FrameReader()
        self.greeted = False
        self.closing = False
        #: Requests without their last response.
        self.unanswered = 0
        #: There may be whole requests among what was received.
        self.backlogged = False
        #: A whole frame, or something it was owed, was taken since the deadlines were last looked
        #: at: see deadlines.py.
        self.spoke = False
        self.took = False
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
                self.took = True
            except BlockingIOError:
                sent = 0
            self.outgoing_bytes -= sent
            if sent < len(data):
                self._outgoing.append(data[sent:])
                return False
        return True
