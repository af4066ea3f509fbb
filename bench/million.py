"""
A million queued jobs: what they cost to hold, and what it costs to ask among them.

An empty daemon runs beside the full one; both are asked in turn. What grows with the request and
not with the queue stays near a ratio of 1.
"""

import subprocess
import time
from collections.abc import Callable

from bench.rows import Row, Target, take_turns
from bench.service import Place, Service
from queuectl.client import Client
from queuectl.protocol import Jobs, JobSpec, List, Message, Status, StatusReport
from queuectld.journal.journal import Journal
from queuectld.runtime.clock import wall_ms

JOBS_PER_REQUEST = 1_000
ASKS_PER_ROUND = 20
LIST_JOBS = 100


def measure(place: Place) -> list[Row]:
    """
    Fill, ask, restart. Memory in bytes a job, answers in ms at the socket, the rest in seconds.
    """
    count = place.count(1_000_000)
    with Service(place, slots=0) as empty, Service(place, slots=0) as full:
        with empty.client() as empty_client, full.client() as client:
            fill_s = _fill(client, count)
            job_bytes = (full.rss_bytes() - empty.rss_bytes()) / count
            asked = _ask(place.rounds, client, empty_client)
        full.stop()
        full.start()
        segments_s = full.start_s
        full.stop()
        snapshot_s = _snapshot_s(full.journal)
        full.start()
        with full.client() as client:
            queued = client.call(Status(), StatusReport).jobs["pending"]
            assert count == queued, queued
    what = f"{count:,} queued"
    rows = [Row(f"memory per job, {what}", job_bytes, "B", target=Target("<=", 500))]
    rows += [
        Row(f"{name}, {what}", ours, "ms", peer, "none queued", target)
        for name, ours, peer, target in asked
    ]
    rows.append(Row(f"enqueue by {JOBS_PER_REQUEST:,}, {what}", count / fill_s, "/s"))
    rows.append(Row(f"restart from segments, {what}", segments_s, "s"))
    rows.append(Row(f"restart from a snapshot, {what}", full.start_s, "s"))
    rows.append(Row(f"writing a snapshot, niced, {what}", snapshot_s, "s"))
    return rows


def _fill(client: Client, count: int) -> float:
    begin = time.monotonic()
    for first in range(0, count, JOBS_PER_REQUEST):
        jobs = [JobSpec(command=f"true {n}") for n in range(first, min(first + 1000, count))]
        client.enqueue(jobs, cwd="/tmp")
    return time.monotonic() - begin


def _ask(
    rounds: int, client: Client, empty_client: Client
) -> list[tuple[str, float, float, Target | None]]:
    asks: list[tuple[str, Message, type[Message], Target | None]] = [
        ("status", Status(), StatusReport, Target("<=", 2)),
        (f"list --limit {LIST_JOBS}", List(limit=LIST_JOBS), Jobs, Target("<=", 10)),
        ("list --state dead", List(states=["dead"]), Jobs, None),
        ("list --queue absent, one page", List(queue="absent"), Jobs, None),
    ]
    answers = []
    for name, request, response, target in asks:
        ours, peer = take_turns(
            rounds * ASKS_PER_ROUND,
            _asking_ms(client, request, response),
            _asking_ms(empty_client, request, response),
        )
        answers.append((name, ours, peer, target))
    return answers


def _asking_ms(client: Client, request: Message, response: type[Message]) -> Callable[[], float]:
    def ask_ms() -> float:
        begin = time.monotonic()
        client.call(request, response)
        return (time.monotonic() - begin) * 1000

    return ask_ms


def _snapshot_s(directory: str) -> float:
    """
    Return how long the process ran that wrote a snapshot of everything. No daemon may be there.
    """
    journal = Journal(directory, now=wall_ms, version="bench")
    journal.open(lambda _: None)
    try:
        journal.rotate()
        command = journal.snapshot_command()
        begin = time.monotonic()
        subprocess.run(command, check=True)
        took_s = time.monotonic() - begin
        journal.finish_snapshot()
        return took_s
    finally:
        journal.close()
