"""
What open dashboards cost those who enqueue: the 99th percentile of an enqueue's answer while 100
browsers look at the first page, and while none does, in turn. And how much memory the gateway has
then, and how many bytes a browser loads.

A dashboard is stood in for by what its live.js does: it is told when to look, and then asks for the
page anew, at most once a second and less often when the answers take long. Like a browser it has
two connections: one that it is told on, and one on which it asks again and again.
"""

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import NoReturn, Self
from urllib.parse import urlsplit

from bench.rows import Row, Target
from bench.servers import Gateway
from bench.service import Place, Service, rss_bytes
from queuectl.client import Client
from queuectl.protocol import JobSpec

DASHBOARDS = 100
ENQUEUES = 2_000
# Between two enqueues, so that there is always something new to look at.
PAUSE_S = 0.003
# From one look to the next; of one that took long, so many times its span.
GAP_S = 1.0
SPANS_PER_LOOK = 5
PAGE = "/"
LOOKS = "/looks"


def measure(place: Place) -> list[Row]:
    """
    Measure the enqueue's 99th percentile in ms, the gateway's memory and a page's weight.
    """
    count = place.count(DASHBOARDS)
    enqueues = max(place.count(ENQUEUES), 100)
    rounds = []
    with (
        Service(place, slots=0) as service,
        service.client() as client,
        Gateway(service, "read") as gateway,
    ):
        url, token = gateway.url, gateway.token
        weight = asyncio.run(_page_bytes(url, token))
        for _ in range(place.rounds):
            alone = _p99_ms(client, enqueues)
            with _dashboards(url, token, count):
                rounds.append((_p99_ms(client, enqueues), alone))
                memory = rss_bytes(gateway.pid)
    ours, alone = map(median, zip(*rounds, strict=True))
    name = f"enqueue with {count} dashboards, p99"
    return [
        Row(name, ours, "ms", alone, "none", Target("<=", 1.5, "ratio")),
        Row("the gateway's memory then", memory / 1e6, "MB", target=Target("<=", 60)),
        Row("bytes of the first page, all in all", weight / 1e3, "kB", target=Target("<=", 100)),
    ]


def _p99_ms(client: Client, count: int) -> float:
    spans = []
    for _ in range(count):
        time.sleep(PAUSE_S)
        began_s = time.monotonic()
        client.enqueue([JobSpec(command="true", hold=True)], cwd="/")
        spans.append((time.monotonic() - began_s) * 1e3)
    return quantiles(spans, n=100)[98]


@contextmanager
def _dashboards(url: str, token: str, count: int) -> Iterator[None]:
    """
    Have *count* dashboards open, in a process of their own.
    """
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_look, args=(url, token, count, theirs))
    process.start()
    try:
        assert ours.poll(60), "the dashboards were not served"
        assert ours.recv() == "open"
        yield
    finally:
        process.terminate()
        process.join()


def _look(url: str, token: str, count: int, ready: Connection) -> None:
    # Browsers are on other machines: what they stand for here takes only what nobody else wants.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(_open_all(url, token, count, ready))


async def _open_all(url: str, token: str, count: int, ready: Connection) -> None:
    seen: list[asyncio.Event] = [asyncio.Event() for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        for each in seen:
            tasks.create_task(_dashboard(url, token, each))
        for each in seen:
            await each.wait()
        ready.send("open")


async def _dashboard(url: str, token: str, seen: asyncio.Event) -> NoReturn:
    """
    One browser, until it is ended.
    """
    page = await _Browser.open(url, token)
    await page.get(PAGE)
    events = await _Browser.open(url, token)
    await events.ask(LOOKS)
    seen.set()
    told = asyncio.Event()

    async def listen() -> None:
        async for line in events.reader:
            if line.startswith(b"event: look"):
                told.set()
        sys.exit("the gateway ended the events")

    listening = asyncio.create_task(listen())
    while not listening.done():
        await told.wait()
        told.clear()
        began_s = time.monotonic()
        await page.get(f"{PAGE}?fragment=main")
        took_s = time.monotonic() - began_s
        await asyncio.sleep(max(GAP_S, SPANS_PER_LOOK * took_s) - took_s)
    raise RuntimeError("the events ended")


class _Browser:
    """
    One connection of a browser, used for one request after the other.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: str
    ) -> None:
        self.reader = reader
        self._writer = writer
        self._headers = headers

    @classmethod
    async def open(cls, url: str, token: str) -> Self:
        """
        Connect.
        """
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        return cls(reader, writer, f"Host: {place.netloc}\r\nAuthorization: Bearer {token}\r\n")

    async def ask(self, path: str) -> bytes:
        """
        Send a request; return the head of its answer, which must be good.
        """
        head = f"GET {path} HTTP/1.1\r\n{self._headers}Accept: text/html, text/event-stream\r\n\r\n"
        self._writer.write(head.encode())
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), answer.partition(b"\r\n")[0]
        return answer

    async def get(self, path: str) -> bytes:
        """
        Return the body at *path*.
        """
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", await self.ask(path))
        assert length is not None
        return await self.reader.readexactly(int(length[1]))

    def close(self) -> None:
        """
        Hang up.
        """
        self._writer.close()


async def _page_bytes(url: str, token: str) -> int:
    """
    Return how many bytes a browser loads for the first page: what it names, and what that imports.
    """
    browser = await _Browser.open(url, token)
    page = await browser.get(PAGE)
    total_bytes = len(page)
    found = {each.decode() for each in re.findall(rb'(?:src|href)="(/static/[^"]+)"', page)}
    loaded: set[str] = set()
    while waiting := found - loaded:
        path = waiting.pop()
        loaded.add(path)
        body = await browser.get(path)
        total_bytes += len(body)
        folder = path.rpartition("/")[0]
        imported = re.findall(rb'from "\./([^"]+)"', body)
        found |= {f"{folder}/{each.decode()}" for each in imported}
    browser.close()
    return total_bytes
