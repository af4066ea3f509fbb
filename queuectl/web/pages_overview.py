"""
The first page: whether all is well, what runs, what waits, and how the last hour or day went.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from queuectl.measures import GetHistory, GetMetrics, History, Metrics
from queuectl.protocol import Jobs, List, Status, StatusReport
from queuectl.views import JOB_STATES
from queuectl.web import rendering
from queuectl.web.gateway import Gateway
from queuectl.web.pages_answers import Answers, Rounds
from queuectl.web.pages_charts import SPANS, draw
from queuectl.web.pages_rendering import now_ms, shared_fragment, show
from queuectl.web.visitor import Visitor, visitor_of

TEMPLATE = "overview.html"
# Rows of workers and of jobs that ended last.
WORKERS_SHOWN_MAX = 12
RECENT_JOBS = 8
# A job that waits longer than this is worth a look.
LONG_WAIT_MS = 15 * 60_000

# How long what was measured is shown before it is asked for again: it is a long answer.
METRICS_KEEP_MS = 2_000

_answers = Answers()
_rounds: Rounds[tuple[StatusReport, Jobs]] = Rounds()


async def overview_page(request: Request) -> Response:
    """
    GET /. `span` is hour or day.
    """
    visitor = visitor_of(request)
    span = request.query_params.get("span", "hour")
    span = span if span in SPANS else "hour"
    gateway: Gateway = request.app.state.gateway
    looks = gateway.hub.looks_of(visitor)

    async def fragment() -> bytes:
        return shared_fragment(TEMPLATE, "/", **await _contents(visitor, span))

    if looks is not None and "fragment" in request.query_params:
        return rendering.answer(await looks.share(span, fragment))
    if looks is not None:
        looks.forget()
    return await show(request, TEMPLATE, **await _contents(visitor, span))


async def _contents(visitor: Visitor, span: str) -> dict[str, Any]:
    """
    Return what the page shows: the same for all visitors with the same key.
    """
    link = visitor.link
    now = now_ms()

    async def look() -> tuple[StatusReport, Jobs]:
        report = await link.call(Status(), StatusReport)
        return report, await link.call(List(limit=RECENT_JOBS), Jobs)

    report, recent = await _rounds.get(visitor.key, look)
    busy = [each for each in report.workers if each.state != "idle"]
    idle = [each for each in report.workers if each.state == "idle"]
    metrics = await _answers.get(visitor, "metrics", GetMetrics(), Metrics, METRICS_KEEP_MS)
    oldest_at = metrics.oldest_pending_at
    _, length_ms, _, keep_ms = SPANS[span]
    minutes = GetHistory(since_at=now - length_ms)
    history = await _answers.get(visitor, span, minutes, History, keep_ms)
    return {
        "report": report,
        "title": "Overview",
        "states": JOB_STATES,
        "charts": draw(history, span, now),
        "span": span,
        "spans": [(name, each[0]) for name, each in SPANS.items()],
        "workers": (busy + idle)[:WORKERS_SHOWN_MAX],
        "busy": len(busy),
        "oldest_at": oldest_at,
        "overdue": oldest_at is not None and now - oldest_at > LONG_WAIT_MS,
        "recent": recent.jobs,
    }
