"""
What listens at the system's journal's socket, without one: it keeps the entries that come.
"""

import os
import select
import socket
import struct
import threading

POLL_S = 0.05


def fields_of(entry: bytes) -> dict[str, bytes]:
    """
    Return the fields of an entry, by journald's rules: NAME=value and a newline, or NAME, a
    newline, the length, the value and a newline.
    """
    fields: dict[str, bytes] = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest.startswith(b"\n")
            rest = rest[1:]
        assert name.decode() not in fields, "a field twice"
        fields[name.decode()] = value
        entry = rest
    return fields


class JournalTwin:
    """
    Receives from *path* between start() and stop(), in the order sent.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: list[dict[str, bytes]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(path)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> "JournalTwin":
        """
        Take what comes, and what came before.
        """
        self._stopping.clear()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        return self

    def stop(self) -> None:
        """
        Take nothing more: what is sent fills the socket.
        """
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """
        Be gone.
        """
        self.stop()
        self._socket.close()
        os.unlink(self.path)

    @property
    def messages(self) -> list[bytes]:
        """
        The lines that came.
        """
        return [entry["MESSAGE"] for entry in list(self.entries)]

    def _receive(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket], [], [], POLL_S)
            if ready:
                self.entries.append(fields_of(self._socket.recv(1 << 20)))
            elif self._stopping.is_set():
                return
