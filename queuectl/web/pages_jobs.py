"""
The list of jobs: filtered, searched, sorted, page by page.

Newest first, the daemon pages by number, and so does the list: its rows are appended as one
scrolls, and a row's place never depends on how many there are. Any other order needs all jobs at
hand, so it is made here from the newest SORTED_JOBS_MAX that match, and the page says so where
there are more.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from queuectl.errors import UsageError
from queuectl.protocol import (
    LIST_JOBS_MAX,
    Jobs,
    List,
    ListQueues,
    Queues,
    Status,
    StatusReport,
)
from queuectl.views import JOB_STATES, JobState, JobView
from queuectl.web.link import Link
from queuectl.web.pages_rendering import now_ms, show
from queuectl.web.rendering import LISTED_CHARS_MAX
from queuectl.web.visitor import visitor_of

# Rows of one page: some screens. With their commands they stay well below what a page may weigh.
PAGE_JOBS = 50
# Rows that the script may ask for at once when it brings a part of a long list up to date.
ROWS_MAX = 200
# Jobs that are sorted by something else than their number: they are all in memory for a moment.
SORTED_JOBS_MAX = 5_000
# Short pages in a row that one look at the list waits for: each is a turn of the daemon that looked
# at thousands of jobs and found none.
SHORT_PAGES_MAX = 20

_Key = Callable[[JobView, int], Any]

#: Orders by name: their title, and what is sorted by (ascending). None is the daemon's own.
ORDERS: dict[str, tuple[str, _Key | None]] = {
    "newest": ("Newest first", None),
    "oldest": ("Oldest first", lambda job, now: job.number),
    "priority": ("Highest priority", lambda job, now: (-job.priority, job.number)),
    "longest": ("Longest running", lambda job, now: -_run_ms(job, now)),
    "changed": ("Last changed", lambda job, now: -job.updated_at),
    "attempts": ("Most attempts", lambda job, now: (-job.attempts, -job.number)),
}


class Filter(NamedTuple):
    """
    What a list shows, as its address says it.
    """

    states: list[JobState]
    queue: str
    user: str
    search: str
    order: str
    before: int | None
    size: int

    def query(self, **changes: Any) -> str:
        """
        Return the address of the same list with some of it changed, from its start.
        """
        chosen = self._replace(**{"before": None, **changes})
        pairs: list[tuple[str, str]] = [("state", each) for each in chosen.states]
        named = [(name, getattr(chosen, name)) for name in ("queue", "user", "search")]
        pairs += [(name, value) for name, value in named if value]
        if chosen.order != "newest":
            pairs.append(("order", chosen.order))
        if chosen.before is not None:
            pairs.append(("before", str(chosen.before)))
        return "/jobs" + ("?" + urlencode(pairs) if pairs else "")

    @property
    def narrow(self) -> bool:
        """
        Whether jobs are left out.
        """
        return bool(self.states or self.queue or self.user or self.search)


class Found(NamedTuple):
    """
    The jobs of a page; where the next one begins; whether an order left some out.
    """

    jobs: list[JobView]
    before: int | None
    partial: bool


async def list_page(request: Request) -> Response:
    """
    GET /jobs. With `fragment=rows` the rows alone.
    """
    link = visitor_of(request).link
    chosen = read_filter(request)
    found = await find(link, chosen)
    if request.query_params.get("fragment") == "rows":
        report = await link.call(Status(), StatusReport)
        return await show(request, "rows.html", report=report, found=found, filter=chosen)
    queues = (await link.call(ListQueues(), Queues)).queues
    return await show(
        request,
        "jobs.html",
        title="Jobs",
        found=found,
        filter=chosen,
        queues=[queue.name for queue in queues],
        states=JOB_STATES,
        orders=[(name, title) for name, (title, _) in ORDERS.items()],
        sorted_max=SORTED_JOBS_MAX,
    )


def read_filter(request: Request) -> Filter:
    """
    Return the filter of an address. Raises UsageError.
    """
    query = request.query_params
    states = [each for value in query.getlist("state") for each in value.split(",") if each]
    for state in states:
        if state not in JOB_STATES:
            raise UsageError(f"state: {state!a} is none; one of {', '.join(JOB_STATES)}")
    order = query.get("order") or "newest"
    if order not in ORDERS:
        raise UsageError(f"order: {order!a} is none; one of {', '.join(ORDERS)}")
    return Filter(
        states=cast(list[JobState], states),
        queue=query.get("queue", ""),
        user=query.get("user", ""),
        search=query.get("search", "").strip(),
        order=order,
        before=_number(query.get("before")),
        size=min(_number(query.get("size")) or PAGE_JOBS, ROWS_MAX),
    )


async def find(link: Link, chosen: Filter) -> Found:
    """
    Return the page of the list. Raises what the link raises.
    """
    key = ORDERS[chosen.order][1]
    if key is None:
        jobs, before = await take(link, wanted(chosen), chosen.size)
        return Found(jobs, before, False)
    jobs, before = await take(link, wanted(chosen), SORTED_JOBS_MAX)
    now = now_ms()
    jobs.sort(key=lambda job: key(job, now))
    # Here `before` counts rows: there is no number below which the next ones are.
    start = chosen.before or 0
    end = start + chosen.size
    return Found(jobs[start:end], end if end < len(jobs) else None, before is not None)


def wanted(chosen: Filter) -> List:
    """
    Return the request for the jobs of a filter.
    """
    newest = chosen.order == "newest"
    return List(
        states=chosen.states,
        queue=chosen.queue or None,
        user=chosen.user or None,
        search=chosen.search or None,
        before_number=chosen.before if newest else None,
    )


async def take(link: Link, request: List, count: int) -> tuple[list[JobView], int | None]:
    """
    Return up to *count* jobs of a listing, newest first, and where it goes on; None at its end.

    A listing that finds nothing for long is left where it is: whoever looks can go on from there.
    Of each command there is what a list shows: thousands of whole ones would be a lot of memory.
    """
    jobs: list[JobView] = []
    short = 0
    while True:
        limit = min(count - len(jobs), LIST_JOBS_MAX)
        page = await link.call(replace(request, limit=limit), Jobs)
        jobs += map(_listed, page.jobs)
        short = 0 if page.jobs else short + 1
        if page.next_before is None or len(jobs) >= count or short >= SHORT_PAGES_MAX:
            return jobs, page.next_before
        request = replace(request, before_number=page.next_before)


def _listed(job: JobView) -> JobView:
    # One character more than is shown, which says that there are more.
    command = job.command[: LISTED_CHARS_MAX + 1]
    cut = job.argv is not None or len(job.command) > len(command)
    return replace(job, command=command, argv=None) if cut else job


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


def _run_ms(job: JobView, now: int) -> int:
    if job.started_at is None:
        return -1
    ended_at = now if job.state == "processing" else job.finished_at or job.started_at
    return ended_at - job.started_at
