"""
GET /metrics where there are a thousand named queues, which is as many as there may be, and what it
takes of the daemon, which serves nobody else meanwhile; the last day by the minute, too.
"""

import time
from collections.abc import Callable
from urllib.request import Request, urlopen

from bench.rows import Row, Target, take_turns
from bench.servers import Gateway
from bench.service import Place, Service
from queuectl.client import Client
from queuectl.measures import GetHistory, GetMetrics, History, Metrics
from queuectl.protocol import QUEUES_MAX, JobSpec, Message

# Of a daemon that is asked nothing else; a scraper comes every 15 s or so.
ASKED_MS_MAX = 10
SCRAPES_PER_ROUND = 5


def measure(place: Place) -> list[Row]:
    """
    Milliseconds; beside it a queue with one named queue.
    """
    queue_count = min(place.count(QUEUES_MAX), QUEUES_MAX) - 1  # One is there already.
    with (
        Service(place, slots=0) as small,
        Service(place, slots=0) as large,
        small.client() as few,
        large.client() as many,
    ):
        few.enqueue([JobSpec(command="true")], cwd="/tmp")
        many.enqueue([JobSpec(command="true", queue=f"q{n}") for n in range(queue_count)])
        rounds = place.rounds * SCRAPES_PER_ROUND
        asked = [
            (name, *take_turns(rounds, _asking_ms(many, *each), _asking_ms(few, *each)))
            for name, each in (
                ("metrics_get", (GetMetrics(), Metrics)),
                ("history_get", (GetHistory(), History)),
            )
        ]
        with Gateway(small, "read") as few_web, Gateway(large, "read") as many_web:
            scraped = take_turns(rounds, _scraping_ms(many_web), _scraping_ms(few_web))
    target = Target("<=", ASKED_MS_MAX)
    what = f"{queue_count + 1:,} queues"
    rows = [Row(f"{name}, {what}", *_of(pair), target) for name, *pair in asked]
    return [*rows, Row(f"GET /metrics, {what}", *_of(scraped))]


def _of(pair: tuple[float, ...] | list[float]) -> tuple[float, str, float, str]:
    ours, peer = pair
    return ours, "ms", peer, "one queue"


def _asking_ms(client: Client, request: Message, response: type[Message]) -> Callable[[], float]:
    def ask_ms() -> float:
        begin = time.monotonic()
        client.call(request, response)
        return (time.monotonic() - begin) * 1000

    return ask_ms


def _scraping_ms(gateway: Gateway) -> Callable[[], float]:
    headers = {"Authorization": f"Bearer {gateway.token}"}
    request = Request(f"{gateway.url}/metrics", headers=headers)

    def scrape_ms() -> float:
        begin = time.monotonic()
        with urlopen(request) as answer:
            answer.read()
        return (time.monotonic() - begin) * 1000

    return scrape_ms
