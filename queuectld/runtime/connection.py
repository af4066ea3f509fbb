"""
One client's connection: what was received of it, what it is owed.

A connection is read only while little is waiting to be written to it and few of its requests wait
for their answer, so that a client that does not read its answers stops being served instead of
filling the daemon's memory. What was received beyond that stays in its buffer, which is at most one
frame and one read.
"""

import select
import socket
from typing import Any

from queuectl.framing import FrameReader, pack_frame
from queuectl.protocol import encode
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
        self._outgoing = bytearray()

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

    def send(self, response: Any) -> None:
        """
        Queue one frame. Raises FrameTooLong.
        """
        self._outgoing += pack_frame(encode(response))

    @property
    def outgoing_bytes(self) -> int:
        """
        How much waits to be written.
        """
        return len(self._outgoing)

    def flush(self) -> bool:
        """
        Write what the socket takes. Returns whether everything is written. Raises OSError.
        """
        outgoing = self._outgoing
        while outgoing:
            try:
                sent = self.sock.send(outgoing)
                self.took = True
            except BlockingIOError:
                return False
            if sent < len(outgoing):
                del outgoing[:sent]
                return False
            # Not cut but left: a long answer's memory goes with it.
            outgoing = self._outgoing = bytearray()
        return True
