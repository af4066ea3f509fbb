"""
How soon a line of a running job's output is on a screen: from the moment when the job writes it
until a WebSocket of the gateway has brought it. Beside it `tail -f`, which is woken by the kernel,
on the output of the same program. And what those who look cost the daemon.
"""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median, quantiles

from websockets.sync.client import connect

from bench.rows import Row, Target
from bench.servers import Gateway
from bench.service import Place, Service
from queuectl.client import Client
from queuectl.protocol import Act, Acted, JobSpec, Selection

LINES = 400
# Between two lines: in no step with anything that looks at times of its own.
PAUSE_S = 0.0237
# Jobs that are looked at while none of them writes anything, and how long the daemon is looked at.
QUIET_JOBS = 50
QUIET_S = 4.0

_WRITER = """
import sys, time
for _ in range({lines}):
    time.sleep({pause})
    print(time.monotonic_ns(), flush=True)
"""


def measure(place: Place) -> list[Row]:
    """
    Measure the 99th percentile and the median of a line's way, in ms, and the daemon's processor
    time for those who look at jobs that write nothing.
    """
    lines = place.count(LINES)
    program = [sys.executable, "-I", "-S", "-c", _WRITER.format(lines=lines, pause=PAUSE_S)]
    rounds = []
    jobs = place.count(QUIET_JOBS)
    with (
        Service(place, slots=jobs) as service,
        service.client() as client,
        Gateway(service, "read") as gateway,
    ):
        for _ in range(place.rounds):
            ours = _by_socket(client, gateway, program)
            theirs = _by_tail(place.folder("tail") / "out", program, lines)
            rounds.append((_p99(ours), _p99(theirs), median(ours), median(theirs)))
        quiet = _quiet_share(service, client, gateway, jobs)
    p99, tail_p99, middle, tail_middle = map(median, zip(*rounds, strict=True))
    return [
        Row("a line to a WebSocket, p99", p99, "ms", tail_p99, "tail -f", Target("<=", 50)),
        Row("the same, median", middle, "ms", tail_middle, "tail -f"),
        Row(f"daemon's time, {jobs} quiet jobs looked at", quiet, "%"),
    ]


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


def _by_socket(client: Client, gateway: Gateway, program: list[str]) -> list[float]:
    """
    Return how many ms each line of a job's output took to a WebSocket.
    """
    (job_id,) = client.enqueue([JobSpec(argv=program)], cwd="/").ids
    found: list[float] = []
    with _socket(gateway, job_id) as socket:
        for text in socket:
            now_ns = time.monotonic_ns()
            message = json.loads(text)
            if message["event"] == "output":
                stamps = message["data"]["text"].split()
                found += [(now_ns - int(stamp)) / 1e6 for stamp in stamps]
    return found


def _socket(gateway: Gateway, job_id: str | None) -> connect:
    address = f"{gateway.url}/api/v1/jobs/{job_id}/output/socket".replace("http", "ws", 1)
    headers = {"Authorization": f"Bearer {gateway.token}"}
    return connect(address, additional_headers=headers, proxy=None)


def _by_tail(out: Path, program: list[str], lines: int) -> list[float]:
    """
    Return the same for `tail -f` on the file that the program writes to.
    """
    tail = ["tail", "-c", "+1", "-f", str(out)]
    with (
        open(out, "wb") as file,
        subprocess.Popen(program, stdout=file),
        subprocess.Popen(tail, stdout=subprocess.PIPE) as reader,
    ):
        assert reader.stdout is not None
        stamps = islice(reader.stdout, lines)
        found = [(time.monotonic_ns() - int(line)) / 1e6 for line in stamps]
        reader.terminate()
    return found


def _quiet_share(service: Service, client: Client, gateway: Gateway, count: int) -> float:
    """
    Return the daemon's share of a processor, in percent, while *count* jobs are looked at.
    """
    jobs = [JobSpec(command="echo begun; exec sleep 60")] * count
    ids = [job_id for job_id in client.enqueue(jobs, cwd="/").ids if job_id is not None]
    try:
        with ExitStack() as looks:
            for job_id in ids:
                looks.enter_context(_socket(gateway, job_id)).recv()
            before_s, began_s = service.processor_s, time.monotonic()
            time.sleep(QUIET_S)
            return (service.processor_s - before_s) / (time.monotonic() - began_s) * 100
    finally:
        client.call(Act(action="cancel", select=Selection(ids=ids)), Acted)
