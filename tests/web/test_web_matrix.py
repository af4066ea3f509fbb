"""
Requirement: a request that a page of another origin made a browser send, that names another host,
that comes from nobody, or whose body is none of ours, is refused before any handler runs.

Every combination of Host, Origin, Sec-Fetch-Site, method, sender and body is sent to the guard over
a connection, with a probe behind it that counts. What must come of each is said here by rules of
its own.
"""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from daemon_process import DaemonProcess
from guard_bench import PROBED, Bench, Cell

from queuectl.web.strictness import STRICT_HEADERS, UNSTORED

STRICT = STRICT_HEADERS | UNSTORED

HOSTS = ("127.0.0.1:8642", "queue.example.org", "evil.example:8642", "127.0.0.1")
GOOD_HOSTS = HOSTS[:2]
ORIGINS = (None, "own", "http://evil.example:8642", "null")
SITES = (None, "same-origin", "same-site", "cross-site")
METHODS = ("GET", "POST", "DELETE", "WEBSOCKET")
SENDERS = ("nobody", "token", "cookie", "cookie and CSRF token")
BODIES = (None, "application/json", "text/plain")


def cells() -> Iterator[Cell]:
    for each in itertools.product(HOSTS, ORIGINS, SITES, METHODS, SENDERS, BODIES):
        cell = Cell(*each)
        if cell.body is None or cell.method in ("POST", "DELETE"):
            yield cell


def expected(cell: Cell) -> set[int]:
    """
    Return the statuses of which the guard may choose one. 0: the handler runs.
    """
    wrong: set[int] = set()
    changes = cell.method != "GET"
    if cell.host not in GOOD_HOSTS:
        wrong.add(421)
    if changes and cell.origin not in (None, "own"):
        wrong.add(403)
    if cell.site in ("same-site", "cross-site"):
        wrong.add(403)
    if cell.body == "text/plain":
        wrong.add(415)
    if cell.sender == "nobody":
        wrong.add(401)
    if cell.sender == "cookie" and cell.method in ("POST", "DELETE"):
        wrong.add(403)
    if cell.sender.startswith("cookie") and cell.method == "WEBSOCKET" and cell.origin is None:
        wrong.add(401)
    return wrong or {0}


@pytest.fixture
def bench(daemon: DaemonProcess) -> Bench:
    return Bench(daemon)


def test_the_matrix(bench: Bench) -> None:
    """
    Each cell is refused with the status of one of its faults and the handler does not run; or it
    has no fault, and the handler runs once. All answers carry the strict headers, and once.
    """

    async def ask_all() -> list[str]:
        wrong = []
        async with bench.served(bench.guard) as port:
            for cell in cells():
                before = bench.run_count
                status, headers = await bench.ask(port, cell)
                ran = bench.run_count - before
                wanted = {PROBED} if expected(cell) == {0} else expected(cell)
                right = status in wanted and ran == (wanted == {PROBED})
                strict = all(headers.get(name.lower()) == STRICT[name] for name in STRICT)
                if not right or not strict:
                    wrong.append(f"{cell}: {status}, ran {ran} times, wanted {wanted}")
        bench.gateway.close()
        return wrong

    count = len(list(cells()))
    assert count >= 2_000
    assert [] == asyncio.run(ask_all())
    assert 0 < bench.run_count < count / 10
