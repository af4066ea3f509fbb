"""
The first answer after a start by socket activation: somebody connects, and only then is there a
daemon, which first has to read 100,000 queued jobs. The client waits at the socket meanwhile.
"""

import contextlib
import os
import socket
import time

from bench.accounts import fill
from bench.rows import Row, Target, take_turns
from bench.service import Place, Service
from queuectl.client import Client
from queuectl.protocol import Status, StatusReport


def measure(place: Place) -> list[Row]:
    """
    Measure ms from spawning the daemon to the answer; the kernel has read the files before.
    """
    count = place.count(100_000)
    with Service(place, slots=0) as empty, Service(place, slots=0) as full:
        with full.client() as client:
            fill(client, count)
        ours, peer = take_turns(
            place.rounds, lambda: _first_answer_ms(full, count), lambda: _first_answer_ms(empty, 0)
        )
    name = f"first answer after socket activation, {count:,} queued"
    return [Row(name, ours, "ms", peer, "none queued", Target("<=", 1_000))]


def _first_answer_ms(service: Service, count: int) -> float:
    service.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(service.socket)  # One that was passed is not the daemon's to remove.
        listening.bind(service.socket)
        listening.listen(8)
        begin = time.monotonic()
        service.activate(listening)
        with Client(service.socket) as client:
            report = client.call(Status(), StatusReport)
        took_s = time.monotonic() - begin
    service.watch_runner()
    assert report.jobs.get("pending", 0) == count, report.jobs
    return took_s * 1000
