"""
The dead letter queue: jobs that were given up, grouped by why.

A group is a reason as the daemon words it. Acting on a group looks again for the jobs that have
this reason at that moment, so nothing depends on how much of the group the page showed.
"""

from typing import NamedTuple, cast

from starlette.requests import Request
from starlette.responses import Response

from queuectl.endings import ending
from queuectl.errors import RequestRefused, UsageError
from queuectl.protocol import SELECT_JOBS_MAX, Act, Action, List, Selection
from queuectl.selection import id_to_ask
from queuectl.views import JobView
from queuectl.web.pages_acting import Outcome, act, told
from queuectl.web.pages_forms import confirm, go, local_path, read_form
from queuectl.web.pages_jobs import take
from queuectl.web.pages_rendering import reason_of, show
from queuectl.web.rendering import counted
from queuectl.web.visitor import visitor_of

# Dead jobs that one look groups; the page says so where there are more.
GROUPED_JOBS_MAX = 5_000
# Groups, and jobs of a group, that are on the page.
GROUPS_MAX = 12
SHOWN_JOBS = 4
GROUP_JOBS_MAX = 50  # on the page of one group


class Group(NamedTuple):
    """
    Dead jobs with one reason, the newest first.
    """

    reason: str
    jobs: list[JobView]


def reason_of_death(job: JobView) -> str:
    """
    Return why a job was given up: how its last attempt ended.
    """
    return job.last_error or ending(job) or "no reason known"


def group(jobs: list[JobView]) -> list[Group]:
    """
    Return the jobs by reason, the largest group first.
    """
    by_reason: dict[str, list[JobView]] = {}
    for job in jobs:
        by_reason.setdefault(reason_of_death(job), []).append(job)
    return sorted((Group(*each) for each in by_reason.items()), key=lambda each: -len(each.jobs))


async def dead_page(request: Request) -> Response:
    """
    GET /dead. With `reason` the list of one group.
    """
    link = visitor_of(request).link
    reason = request.query_params.get("reason")
    jobs, before = await take(link, List(states=["dead"]), GROUPED_JOBS_MAX)
    groups = [each for each in group(jobs) if reason is None or each.reason == reason]
    return await show(
        request,
        "dead.html",
        title="Dead letters",
        groups=groups[:GROUPS_MAX],
        group_count=len(groups),
        count=len(jobs),
        partial=before is not None,
        reason=reason,
        shown=SHOWN_JOBS if reason is None else GROUP_JOBS_MAX,
    )


async def act_on_dead(request: Request) -> Response:
    """
    POST /dead/act: retry or purge a group, or all.
    """
    form = await read_form(request)
    action, back = form.text("action"), local_path(form.text("next"), "/dead")
    if action not in ("retry", "purge"):
        raise UsageError(f"no action {action!a} on dead jobs: retry or purge")
    link = visitor_of(request).link
    if form.flag("all"):
        select, what = Selection(states=["dead"]), "every dead job"
    else:
        reason = form.raw("reason")
        jobs, _ = await take(link, List(states=["dead"]), GROUPED_JOBS_MAX)
        ids = [id_to_ask(job) for job in jobs if reason_of_death(job) == reason]
        select = Selection(ids=ids[:SELECT_JOBS_MAX])
        what = f"{counted(len(ids), 'job')} that died of: {reason}"
        if not ids:
            return go(request, back, told(action, Outcome([], [])))
    if action == "purge" and not form.flag("confirmed"):
        details = "The jobs and their output are gone for good."
        return await confirm(
            request, form, f"Purge {what}?", yes="Yes, purge", back=back, details=details
        )
    try:
        done = await act(link, Act(action=cast(Action, action), select=select))
    except RequestRefused as error:
        return go(request, back, reason_of(error))
    return go(request, "/dead", told(action, done))
