"""
Durable enqueues as fast as one connection takes them: one job a request, hundreds under way.

Beside it, what bounds it: records of the same size synced one by one (group commit must beat
that), and a server that decodes and answers the same requests and does nothing else.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.rows import Row, Target, take_turns
from bench.service import ROOT, Place, Service
from queuectl.environment import caller_environment, pack_variables
from queuectl.framing import FrameReader, pack_frame
from queuectl.protocol import Enqueue, Enqueued, Hello, JobSpec, Welcome, decoder, encode

IN_FLIGHT = 500
RECORD_BYTES = 200
SYNC_COUNT = 2_000
_READ_BYTES = 256 << 10


def measure(place: Place) -> list[Row]:
    """
    Measure requests a second, ours and both peers in turn.
    """
    count = place.count(100_000)
    rounds = min(place.rounds, 3)
    with Service(place, slots=0) as service, Echo(place) as echo:
        ours, synced, echoed = take_turns(
            rounds,
            lambda: requests_per_s(service.socket, count),
            lambda: syncs_per_s(place.folder("sync") / "file", place.count(SYNC_COUNT)),
            lambda: requests_per_s(echo.path, count),
        )
    name = f"enqueue, one job a request, {IN_FLIGHT} in flight"
    return [
        Row(name, ours, "/s", synced, f"fdatasync of {RECORD_BYTES} B", Target(">=", 30_000)),
        Row(name, ours, "/s", echoed, "echo of the same requests"),
    ]


def requests_per_s(path: str, count: int, in_flight: int = IN_FLIGHT) -> float:
    """
    Enqueue *count* jobs at the socket *path*, one a request, as Client.enqueue() would ask.

    The frames are made before the clock starts: it is the daemon that is measured.
    """
    env, run = pack_variables(caller_environment(os.environ)), os.urandom(8).hex()
    frames = [
        pack_frame(
            encode(
                Enqueue(
                    call=number,
                    jobs=[JobSpec(command="true")],
                    env=env,
                    cwd="/tmp",
                    request_id=f"{run}{number:016x}",
                )
            )
        )
        for number in range(1, count + 1)
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(pack_frame(encode(Hello(protocol=1))))
        begin = time.monotonic()
        _exchange(connection, frames, in_flight)
        return count / (time.monotonic() - begin)


def _exchange(connection: socket.socket, frames: Sequence[bytes], in_flight: int) -> None:
    """
    Keep *in_flight* requests under way until each has its answer.
    """
    decode = decoder(Enqueued, Welcome).decode
    reader = FrameReader()
    sent = answered = 0
    while answered < len(frames):
        # Topped up by halves: a call for each request would measure calls.
        if sent < len(frames) and sent - answered <= in_flight // 2:
            upto = min(answered + in_flight, len(frames))
            connection.sendall(b"".join(frames[sent:upto]))
            sent = upto
        data = connection.recv(_READ_BYTES)
        if not data:
            raise RuntimeError("the server hung up")
        reader.feed(data)
        for frame in reader:
            answered += isinstance(decode(frame), Enqueued)


def syncs_per_s(path: Path, count: int) -> float:
    """
    Write records into zero-filled blocks, each synced before the next.
    """
    record = bytes(range(RECORD_BYTES))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.pwrite(fd, bytes(count * RECORD_BYTES), 0)
        os.fsync(fd)
        begin = time.monotonic()
        for index in range(count):
            os.pwrite(fd, record, index * RECORD_BYTES)
            os.fdatasync(fd)
        return count / (time.monotonic() - begin)
    finally:
        os.close(fd)


class Echo:
    """
    The process of echo.py.
    """

    def __init__(self, place: Place) -> None:
        self.path = place.socket()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.echo", self.path],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # It listens.

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()
