"""
Running jobs: how many a second through two slots, and how soon the first one starts.
"""

import subprocess
import time
from pathlib import Path

from bench.rows import Row, Target, take_turns
from bench.service import Place, Service
from queuectl.client import Client
from queuectl.protocol import (
    JobSpec,
    LogEnd,
    Logs,
    Output,
    StartWorkers,
    StopWorkers,
    Wait,
    Waited,
    Workers,
)

SLOTS = 2
STARTS_PER_ROUND = 8


def measure_drain(place: Place) -> list[Row]:
    """
    Measure jobs a second from the moment the slots are there until the last job has ended.
    """
    count = place.count(2_000)
    loop = [place.compile("spawn_loop"), str(count), str(SLOTS)]
    with Service(place, slots=0) as service, service.client() as client:
        service.spread_output(place.rounds * count)
        ours, peer = take_turns(
            place.rounds, lambda: drain_per_s(client, count), lambda: _loop_per_s(loop, count)
        )
    name = f"drain of {count:,} jobs `true`, {SLOTS} slots"
    return [Row(name, ours, "/s", peer, "C posix_spawn loop", Target(">=", 0.45, "ratio"))]


def drain_per_s(admin: Client, count: int, submitter: Client | None = None) -> float:
    """
    Return jobs a second, from the first slot to the last end. There are no slots before and after.

    Asked for in the meantime are the ends of the last jobs only: an answer that shows all of them
    takes a hundredth of the time, and is no part of what is measured. They start in order, so when
    the last ones have ended there may be one that still runs, less than a job's time.
    """
    jobs = [JobSpec(command="true", max_retries=0)] * count
    ids = (submitter or admin).enqueue(jobs, cwd="/").ids
    begin = time.monotonic()
    admin.call(StartWorkers(count=SLOTS), Workers)
    admin.call(Wait(ids=[f"{ids[-SLOTS]}-{ids[-1]}"]), Waited)
    took_s = time.monotonic() - begin
    ended = admin.call(Wait(ids=[f"{ids[0]}-{ids[-1]}"]), Waited).jobs
    admin.call(StopWorkers(), Workers)
    assert all(job.state == "completed" for job in ended)
    return count / took_s


def _loop_per_s(loop: list[str], count: int) -> float:
    took_ns = int(subprocess.run(loop, check=True, capture_output=True).stdout)
    return count / took_ns * 1e9


def measure_latency(place: Place) -> list[Row]:
    """
    Measure ms from asking for a job until its first instruction, the daemon being idle.
    """
    command = place.compile("stamp")
    out = Path(place.folder("floor") / "out")
    with Service(place, slots=SLOTS) as service, service.client() as client:
        _start_ms(client, command)  # The first job makes the folder of the output.
        ours, peer = take_turns(
            place.rounds * STARTS_PER_ROUND,
            lambda: _start_ms(client, command),
            lambda: _floor_ms(command, out),
        )
    target = Target("<=", 2, "ratio")
    return [Row("enqueue to start, idle", ours, "ms", peer, "subprocess.run", target)]


def _start_ms(client: Client, command: str) -> float:
    begin_ns = time.monotonic_ns()
    (job,) = client.enqueue([JobSpec(command=command, max_retries=0)], cwd="/").ids
    assert job is not None
    client.call(Wait(ids=[job]), Waited)
    output = b"".join(
        answer.data
        for answer in client.stream(Logs(id=job), Output, LogEnd)
        if isinstance(answer, Output)
    )
    return (int(output) - begin_ns) / 1e6


def _floor_ms(command: str, out: Path) -> float:
    with out.open("wb") as file:
        begin_ns = time.monotonic_ns()
        subprocess.run(["/bin/sh", "-c", command], stdout=file, check=True)
    return (int(out.read_bytes()) - begin_ns) / 1e6
