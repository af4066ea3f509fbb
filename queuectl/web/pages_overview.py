"""
The first page: whether all is well, what runs, what waits, and how the last hour or day went.
"""

from starlette.requests import Request
from starlette.responses import Response

from queuectl.measures import GetMetrics, Metrics
from queuectl.protocol import Jobs, List, Status, StatusReport
from queuectl.views import JOB_STATES
from queuectl.web.pages_charts import SPANS, Histories, draw
from queuectl.web.pages_rendering import now_ms, show
from queuectl.web.visitor import visitor_of

# Rows of workers and of jobs that ended last.
WORKERS_SHOWN_MAX = 12
RECENT_JOBS = 8
# A job that waits longer than this is worth a look.
LONG_WAIT_MS = 15 * 60_000

_histories = Histories()


async def overview_page(request: Request) -> Response:
    """
    GET /. `span` is hour or day.
    """
    visitor = visitor_of(request)
    link = visitor.link
    now = now_ms()
    span = request.query_params.get("span", "hour")
    span = span if span in SPANS else "hour"
    report = await link.call(Status(), StatusReport)
    recent = await link.call(List(limit=RECENT_JOBS), Jobs)
    busy = [each for each in report.workers if each.state != "idle"]
    idle = [each for each in report.workers if each.state == "idle"]
    metrics = await link.call(GetMetrics(), Metrics)
    oldest_at = metrics.oldest_pending_at
    history = await _histories.get(visitor, span, now)
    return await show(
        request,
        "overview.html",
        report=report,
        title="Overview",
        states=JOB_STATES,
        total=sum(report.jobs.values()),
        charts=draw(history, span, now),
        span=span,
        spans=[(name, each[0]) for name, each in SPANS.items()],
        workers=(busy + idle)[:WORKERS_SHOWN_MAX],
        busy=len(busy),
        oldest_at=oldest_at,
        overdue=oldest_at is not None and now - oldest_at > LONG_WAIT_MS,
        recent=recent.jobs,
    )
