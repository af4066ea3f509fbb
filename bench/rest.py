"""
Jobs that come over HTTP: one a request, and many in one.

Beside it, a route on the same server that decodes the same bodies and does nothing else, in a
process of its own as the gateway is: what is on top of that is who asks, the daemon and the disk.
"""

import contextlib
import selectors
import socket
import time

from bench.rows import Row, Target, take_turns
from bench.servers import BareRoute, Gateway, Server
from bench.service import Place, Service

#: Connections, each with a request under way: so many that nobody waits for a sync with idle hands.
CONNECTIONS = 64
BATCH_JOBS = 10_000
_ONE = b'{"command": "true"}'
_READ_BYTES = 256 << 10


def measure(place: Place) -> list[Row]:
    """
    Measure requests a second, and jobs a second in batches, ours and the peer in turn.
    """
    count, batches = place.count(4_000), max(place.count(10), 1)
    batch_jobs = min(BATCH_JOBS, place.count(BATCH_JOBS))
    batch = b"[" + b",".join([_ONE] * batch_jobs) + b"]"
    with (
        Service(place, slots=0) as service,
        Gateway(service, "submit") as gateway,
        BareRoute() as bare,
    ):
        for server in (gateway, bare):
            requests_per_s(server, _ONE, CONNECTIONS * 4, CONNECTIONS)
        ours, peer = take_turns(
            place.rounds,
            lambda: requests_per_s(gateway, _ONE, count, CONNECTIONS),
            lambda: requests_per_s(bare, _ONE, count, CONNECTIONS),
        )
        bulk, decoded = take_turns(
            place.rounds,
            lambda: requests_per_s(gateway, batch, batches, 1) * batch_jobs,
            lambda: requests_per_s(bare, batch, batches, 1) * batch_jobs,
        )
    name = f"POST of one job, {CONNECTIONS} connections"
    many = f"POST of {batch_jobs:,} jobs"
    return [
        Row(name, ours, "/s", peer, "bare route", Target(">=", 0.5, "ratio")),
        Row(many, bulk, "jobs/s", decoded, "bare route", Target(">=", 50_000)),
    ]


def requests_per_s(server: Server, body: bytes, count: int, connections: int) -> float:
    """
    Send *count* requests with *body* over *connections*, each as soon as the one before it on its
    connection was answered. Raises RuntimeError if one is refused.
    """
    head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{server.headers}"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", server.port))
            opened.enter_context(connection)
            selector.register(connection, selectors.EVENT_READ, Answer())
        begin = time.monotonic()
        for key in list(selector.get_map().values()):
            key.fileobj.sendall(request)  # type: ignore[union-attr]
        sent, answered = connections, 0
        while answered < sent:
            for key, _ in selector.select():
                if key.data.read(key.fileobj):
                    answered += 1
                    if sent < count:
                        sent += 1
                        key.fileobj.sendall(request)  # type: ignore[union-attr]
        return answered / (time.monotonic() - begin)


class Answer:
    """
    The answer that a connection waits for.
    """

    def __init__(self) -> None:
        self._data = b""

    def read(self, connection: socket.socket) -> bool:
        """
        Read what came, and return whether that was the end of the answer. Raises RuntimeError.
        """
        part = connection.recv(_READ_BYTES)
        if not part:
            raise RuntimeError("the server hung up")
        self._data += part
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 201 "):
            raise RuntimeError(self._data.decode(errors="replace"))
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return False
        self._data = b""
        return True
