"""
How soon one user is served while others crowd the socket: a thousand clients of many accounts that
say a byte a second, and one account that tries to have two thousand connections.
"""

import os
import pwd
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.accounts import SystemService
from bench.rows import Row, Target
from bench.service import ROOT, Place
from queuectl.client import Client
from queuectl.protocol import Status, StatusReport

SLOW_CLIENTS = 1_000
CONNECTIONS_OF_ONE = 2_000
ASKS = 1_000
# How many of these connect anew, as a command does.
FRESH_ASKS = 400
# Between two of them: together they see the crowd for some seconds, in all that it does.
PAUSE_S = 0.004
_OVERFLOW_UID = 65534


def measure(place: Place) -> list[Row]:
    """
    Measure the 99th percentile of an answer to `status`, over one connection and over a new one
    for each, in ms; and what the crowd adds to the daemon's memory.
    """
    if os.geteuid() != 0:
        sys.stderr.write("crowd: skipped: only root can connect as several accounts\n")
        return []
    honest, greedy, *slow = members()
    slow_count, one_count = place.count(SLOW_CLIENTS), place.count(CONNECTIONS_OF_ONE)
    rounds: list[tuple[float, float, float, float, float]] = []
    with SystemService(place) as service:
        for _ in range(place.rounds):
            alone = _asking(place, service, honest)
            before = service.rss_bytes()
            with (
                crowd(service.socket, slow_count, *slow),
                crowd(service.socket, one_count, greedy),
            ):
                crowded = _asking(place, service, honest)
                grown = service.rss_bytes() - before
            rounds.append((*alone, *crowded, grown / (1 << 20)))
    columns = zip(*rounds, strict=True)
    kept, fresh, kept_crowded, fresh_crowded, grown_mib = map(statistics.median, columns)
    name = f"status among {slow_count:,} slow clients and {one_count:,} of one uid, p99"
    return [
        Row(name, kept_crowded, "ms", kept, "nobody else", Target("<=", 50)),
        Row("the same, a connection each", fresh_crowded, "ms", fresh, "nobody else"),
        Row("memory for the crowd", grown_mib, "MiB"),
    ]


def members() -> list[str]:
    """
    Return the names of accounts that are not root, one for each id.
    """
    names = {each.pw_uid: each.pw_name for each in pwd.getpwall()}
    return [names[uid] for uid in sorted(names.keys() - {0, _OVERFLOW_UID})]


@contextmanager
def crowd(path: str, count: int, *accounts: str) -> Iterator[None]:
    """
    Have *count* slow clients of these accounts around the daemon at *path*.
    """
    command = [sys.executable, "-P", "-m", "bench.slow_clients", path, str(count)]
    with subprocess.Popen(
        [*command, *(str(pwd.getpwnam(each).pw_uid) for each in accounts)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"there\n":
            raise RuntimeError("the crowd did not come")
        # What it says from now on is not read, and small enough for the pipe.
        yield


def _asking(place: Place, service: SystemService, account: str) -> tuple[float, float]:
    with service.member(account) as client:
        kept = [_ask_ms(client) for _ in range(place.count(ASKS))]
    fresh = []
    for _ in range(place.count(FRESH_ASKS)):
        time.sleep(PAUSE_S)
        begin = time.monotonic()
        with service.member(account) as client:
            client.call(Status(), StatusReport)
        fresh.append((time.monotonic() - begin) * 1000)
    return _p99(kept), _p99(fresh)


def _ask_ms(client: Client) -> float:
    time.sleep(PAUSE_S)
    begin = time.monotonic()
    client.call(Status(), StatusReport)
    return (time.monotonic() - begin) * 1000


def _p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]
