"""
What is due later: jobs scheduled for a time, and failed ones that wait for their next attempt.
"""

from starlette.requests import Request
from starlette.responses import Response

from queuectl.protocol import List
from queuectl.web.pages_jobs import take
from queuectl.web.pages_rendering import show
from queuectl.web.visitor import visitor_of

# Jobs that one look sorts by when they are due, and rows of the page.
SCHEDULED_JOBS_MAX = 5_000
SHOWN_JOBS = 60


async def schedule_page(request: Request) -> Response:
    """
    GET /schedule.
    """
    link = visitor_of(request).link
    jobs, before = await take(link, List(states=["scheduled", "failed"]), SCHEDULED_JOBS_MAX)
    jobs.sort(key=lambda job: (job.next_run_at or 0, job.number))
    return await show(
        request,
        "schedule.html",
        title="Schedule",
        jobs=jobs[:SHOWN_JOBS],
        count=len(jobs),
        partial=before is not None,
    )
