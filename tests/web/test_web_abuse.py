"""
Requirement: what one visitor sends, or has sent a job, costs the gateway no more memory and time
than there is a limit for.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess

from queuectl.client import Client
from queuectl.protocol import (
    BATCH_JOBS_MAX,
    COMMAND_BYTES_MAX,
    Enqueue,
    Enqueued,
    JobDetail,
    JobSpec,
    List,
    Show,
)
from queuectl.web.link import Link
from queuectl.web.pages_job import TAIL_BYTES_MAX, TAIL_LINES, Tail, read_tail
from queuectl.web.pages_jobs import take
from queuectl.web.rendering import LISTED_CHARS_MAX
from queuectl.web.throttle import ADDRESS_FAILURES_MAX, TRIES_MAX


def test_tries_that_come_together_are_counted(
    web_daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    A burst of wrong tokens is not asked about before the first of them has failed.
    """
    gateway = gateways(web_daemon).start()
    count = 60

    async def burst() -> Counter[int]:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            asked = [
                client.get(
                    "/session", headers={"Authorization": f"Bearer qctl_{i:010x}_{43 * 'A'}"}
                )
                for i in range(count)
            ]
            return Counter(answer.status_code for answer in await asyncio.gather(*asked))

    found = asyncio.run(burst())
    assert ADDRESS_FAILURES_MAX <= found[401] <= ADDRESS_FAILURES_MAX + TRIES_MAX
    assert count == found[401] + found[429]


def test_lines_are_counted_before_they_are_read(client: httpx.Client) -> None:
    """
    Of millions of lines none is made an object of, whatever is wrong with the first.
    """
    body = b"{\n" + (BATCH_JOBS_MAX + 1) * b"1\n"
    headers = {"Content-Type": "application/x-ndjson"}
    answer = client.post("/api/v1/jobs", content=body, headers=headers)
    detail = f"a batch has at most {BATCH_JOBS_MAX} lines, not {BATCH_JOBS_MAX + 2}"
    assert (400, detail) == (answer.status_code, answer.json()["detail"])


def test_lists_hold_no_long_commands(web_daemon: DaemonProcess) -> None:
    """
    A list that is sorted here holds thousands of jobs: of their commands, what it shows.
    """
    long = ("true " + "x" * COMMAND_BYTES_MAX)[:COMMAND_BYTES_MAX]
    jobs = [JobSpec(argv=["/bin/sh", "-c", long], hold=True), JobSpec(argv=["true"], hold=True)]
    with Client(web_daemon.socket) as daemon:
        daemon.call(Enqueue(jobs=jobs, cwd="~"), Enqueued)

    async def look() -> list[tuple[int, list[str] | None]]:
        link = Link(web_daemon.socket)
        found, _ = await take(link, List(), 2)
        link.close()
        return [(len(job.command), job.argv) for job in found]

    assert [(len("true"), None), (LISTED_CHARS_MAX + 1, None)] == asyncio.run(look())


def tail_of(daemon: DaemonProcess, command: str) -> Tail:
    """
    Return what the page of a job that ran *command* holds of its output.
    """
    with Client(daemon.socket) as client:
        job_id = client.call(
            Enqueue(jobs=[JobSpec(argv=["/bin/sh", "-c", command])], cwd="~"), Enqueued
        ).ids[0]
        assert job_id is not None
        daemon.wait_for(job_id, "completed")
        job = client.call(Show(id=job_id), JobDetail).job

    async def look() -> Tail:
        return await read_tail(Link(daemon.socket), job, 1)

    return asyncio.run(look())


def test_a_page_reads_no_long_line(web_daemon: DaemonProcess) -> None:
    """
    The end of the output is found by bytes: of a line of megabytes only that is read.
    """
    size = 3_000_000
    tail = tail_of(web_daemon, f"head -c {size} /dev/zero | tr '\\0' a")
    assert Tail("a" * TAIL_BYTES_MAX, size - TAIL_BYTES_MAX, True) == tail


def test_a_page_begins_with_a_whole_line(web_daemon: DaemonProcess) -> None:
    """
    Lines that are few enough are there as a whole, of more the last, and where those begin.
    """
    assert Tail("a\nb\n", 0, False) == tail_of(web_daemon, "echo a; echo b")
    count = TAIL_LINES + 3
    lines = [f"{each}\n" for each in range(1, count + 1)]
    tail = tail_of(web_daemon, f"seq {count}")
    assert Tail("".join(lines[3:]), len("".join(lines[:3])), True) == tail
    long = [f"{each:0200}\n" for each in range(1, 101)]
    tail = tail_of(web_daemon, "seq -f %0200g 100")
    kept = TAIL_BYTES_MAX // 201
    assert Tail("".join(long[-kept:]), 201 * (100 - kept), True) == tail
