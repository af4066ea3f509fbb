"""
The dashboard: which address is which page.

Pages are clients of the daemon like everybody else: each asks it, over the visitor's own link, for
what it shows, and leaves every decision to it. All of them work without a script; the script keeps
them up to date and saves loading whole pages. What changes something is a POST that is answered
with 303, so that a reload does nothing again.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from queuectl.web.pages_acting import act_on_jobs
from queuectl.web.pages_dead import act_on_dead, dead_page
from queuectl.web.pages_enqueue import enqueue_page, make_jobs
from queuectl.web.pages_forms import go, local_path, read_form
from queuectl.web.pages_job import job_page
from queuectl.web.pages_jobs import list_page
from queuectl.web.pages_overview import overview_page
from queuectl.web.pages_rendering import THEME_COOKIE, THEMES, page
from queuectl.web.pages_schedule import schedule_page
from queuectl.web.pages_settings import change_setting, settings_page
from queuectl.web.pages_static import serve_static
from queuectl.web.pages_tokens import act_on_tokens, tokens_page
from queuectl.web.pages_workers import act_on_queue, act_on_workers, queues_page, workers_page

_YEAR_SECONDS = 365 * 86_400

_LOOKS = {
    "/": overview_page,
    "/jobs": list_page,
    "/jobs/{id}": job_page,
    "/schedule": schedule_page,
    "/dead": dead_page,
    "/workers": workers_page,
    "/queues": queues_page,
    "/settings": settings_page,
    "/tokens": tokens_page,
    "/enqueue": enqueue_page,
}
_CHANGES = {
    "/jobs/act": act_on_jobs,
    "/dead/act": act_on_dead,
    "/workers/act": act_on_workers,
    "/queues/act": act_on_queue,
    "/settings": change_setting,
    "/tokens": act_on_tokens,
    "/enqueue": make_jobs,
}


def routes() -> list[BaseRoute]:
    """
    Return the routes of every page, and of what pages are made of.
    """
    found: list[BaseRoute] = [Route("/static/{version}/{name}", serve_static, methods=["GET"])]
    found += [Route(path, page(each), methods=["POST"]) for path, each in _CHANGES.items()]
    found += [Route(path, page(each), methods=["GET"]) for path, each in _LOOKS.items()]
    found.append(Route("/theme", page(_choose_theme), methods=["POST"]))
    found.append(Route("/dashboard", _lead_to_overview, methods=["GET"]))
    return found


async def _lead_to_overview(request: Request) -> Response:
    """
    GET /dashboard: where older programs had it.
    """
    return go(request, "/")


async def _choose_theme(request: Request) -> Response:
    """
    POST /theme: keep in a cookie whether the pages are light or dark, so that each comes right.
    """
    form = await read_form(request)
    theme = form.text("theme")
    response = go(request, local_path(form.text("next"), "/"))
    response.set_cookie(
        THEME_COOKIE,
        theme if theme in THEMES else THEMES[0],
        max_age=_YEAR_SECONDS,
        path="/",
        samesite="strict",
        httponly=True,
        secure=request.url.scheme == "https",
    )
    return response
