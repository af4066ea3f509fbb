"""
One thing done to many jobs, from any page that lists some.

Jobs are named by the boxes that were ticked, or by a filter that the daemon applies at the moment
of acting. An action goes on until the daemon says that there is no more. What destroys something is
asked about first, unless the form says that it was confirmed.
"""

from typing import NamedTuple, cast

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from queuectl.editing import Edit
from queuectl.errors import RequestRefused, UsageError
from queuectl.jobspec import fields_of
from queuectl.protocol import Act, Acted, Action, Selection
from queuectl.views import JobError
from queuectl.web.link import Link
from queuectl.web.pages_forms import Form, confirm, go, local_path, read_form
from queuectl.web.pages_rendering import Said, reason_of
from queuectl.web.rendering import counted
from queuectl.web.visitor import visitor_of

#: What was done, and the question before it where one is asked.
_DONE: dict[str, str] = {
    "cancel": "Cancelled",
    "retry": "Retried",
    "hold": "Held",
    "release": "Released",
    "purge": "Purged",
    "prune": "Forgot",
    "priority": "Changed the priority of",
}
_QUESTIONS: dict[str, tuple[str, str, str]] = {
    "cancel": (
        "Cancel",
        "Yes, cancel",
        "A running job gets SIGTERM, with all its processes, and SIGKILL after its grace time.",
    ),
    "purge": ("Purge", "Yes, purge", "The jobs and their output are gone for good."),
    "prune": ("Forget", "Yes, forget", "The jobs and their output are gone for good."),
}
# Reasons why jobs were left out that one message repeats.
_REASONS_MAX = 3


class Outcome(NamedTuple):
    """
    What an action did, over all the answers that it took.
    """

    ids: list[str]
    errors: list[JobError]


async def act(link: Link, request: Act | Edit) -> Outcome:
    """
    Do what *request* says to all jobs that it selects. Raises what the link raises.
    """
    done = Outcome([], [])
    more: int | None = request.select.after
    while more is not None:
        step = replace(request, select=replace(request.select, after=more))
        answer = await link.call(step, Acted)
        done.ids.extend(answer.ids)
        done.errors.extend(answer.errors)
        more = answer.more
    return done


def told(action: str, done: Outcome) -> Said:
    """
    Return in one message what was done and what was not.
    """
    parts = []
    if done.ids:
        which = f"job {done.ids[0]}" if len(done.ids) == 1 else counted(len(done.ids), "job")
        parts.append(f"{_DONE[action]} {which}.")
    reasons = [error.message for error in done.errors]
    if reasons:
        more = len(reasons) - _REASONS_MAX
        shown = "; ".join(reasons[:_REASONS_MAX]) + (f"; and {more} more" if more > 0 else "")
        parts.append(f"Left out: {shown}.")
    return Said(" ".join(parts) or "No job matched: nothing was done.", good=not reasons)


async def act_on_jobs(request: Request) -> Response:
    """
    POST /jobs/act: do what the pressed button says to the jobs that were ticked.
    """
    form = await read_form(request)
    back = local_path(form.text("next"), "/jobs")
    action, ids = form.text("action"), form.all("id")
    if action not in _DONE:
        raise UsageError(f"no action {action!a}; one of {', '.join(_DONE)}")
    if not ids:
        return go(request, back, Said("No job is selected: tick some first.", good=False))
    question = _QUESTIONS.get(action)
    if question is not None and not form.flag("confirmed"):
        verb, yes, details = question
        what = f"job {ids[0]}" if len(ids) == 1 else counted(len(ids), "job")
        return await confirm(request, form, f"{verb} {what}?", yes=yes, back=back, details=details)
    link = visitor_of(request).link
    try:
        done = await act(link, _request(form, action, Selection(ids=ids)))
    except (RequestRefused, UsageError) as error:
        return go(request, back, reason_of(error))
    if action in ("purge", "prune") and done.ids and back.startswith("/jobs/"):
        back = "/jobs"  # The page of a job that is gone.
    return go(request, back, told(action, done))


def _request(form: Form, action: str, select: Selection) -> Act | Edit:
    if action != "priority":
        return Act(action=cast(Action, action), select=select)
    fields = fields_of({"priority": form.text("priority")}, 0)
    return Edit(select=select, priority=fields["priority"])
