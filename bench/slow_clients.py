"""
A crowd that means no good: each of its clients says one byte a second, and connects again when it
was refused or cut off.  usage: python -m bench.slow_clients SOCKET COUNT UID...

The clients belong to the accounts given, in turn; as root any will do, else only one's own. Once
each has tried to connect, `there` is printed, then a line each second: how many are connected, how
many were refused or cut off so far. It ends with its standard input.
"""

import os
import resource
import select
import socket
import sys
import time

from queuectl.framing import pack_frame
from queuectl.protocol import PROTOCOL_VERSION, Hello, Status, encode

WORDS = pack_frame(encode(Hello(protocol=PROTOCOL_VERSION))) + pack_frame(encode(Status(call=1)))
# Parts of a second after which the next part of the crowd has its turn.
PARTS = 50


class SlowClient:
    """
    One of them, of the account *uid*.
    """

    def __init__(self, path: str, uid: int) -> None:
        self._path = path
        self._uid = uid
        self._said = 0
        self.connected: socket.socket | None = None
        self.ended_count = 0

    def step(self) -> None:
        """
        Connect, or say the next byte.
        """
        if self.connected is None:
            self._connect()
            return
        try:
            self.connected.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            pass
        try:
            self.connected.send(WORDS[self._said : self._said + 1], socket.MSG_DONTWAIT)
            self._said = (self._said + 1) % len(WORDS)
        except OSError:
            self.hang_up()
            self.ended_count += 1

    def hang_up(self) -> None:
        """
        Close the connection, if there is one.
        """
        if self.connected is not None:
            self.connected.close()
            self.connected = None

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.geteuid()
        if before != self._uid:
            os.seteuid(self._uid)
        try:
            sock.connect(self._path)
        except OSError:  # The kernel's queue is full: again in a second.
            sock.close()
            return
        finally:
            if before != self._uid:
                os.seteuid(before)
        self.connected = sock
        self._said = 0


def main(path: str, count: int, uids: list[int]) -> None:
    """
    Be the crowd until standard input ends.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = [SlowClient(path, uids[number % len(uids)]) for number in range(count)]
    try:
        crowd(clients)
    finally:
        for client in clients:
            client.hang_up()


def crowd(clients: list[SlowClient]) -> None:
    """
    Give each its turn once a second.
    """
    told = False
    while True:
        begin = time.monotonic()
        for part in range(PARTS):
            for client in clients[part::PARTS]:
                client.step()
            rest_s = begin + (part + 1) / PARTS - time.monotonic()
            ended, _, _ = select.select([sys.stdin], [], [], max(rest_s, 0))
            if ended:
                return
        if not told:
            sys.stdout.write("there\n")
            told = True
        connected_count = sum(client.connected is not None for client in clients)
        ended_count = sum(client.ended_count for client in clients)
        sys.stdout.write(f"{connected_count} {ended_count}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(each) for each in sys.argv[3:]])
