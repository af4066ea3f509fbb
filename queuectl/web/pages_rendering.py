"""
How an answer of the daemon becomes a page of the dashboard: the frame around it, what the action
before has to say, and what there is to see where the daemon refuses or does not answer.

A page is rendered whole, or as a fragment (`?fragment=main`): the same template without the frame,
which the page's script asks for when something has changed and puts in the place of what is there.
What is shared among visitors who see the same is such a fragment, made without anybody's request.
"""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from queuectl import __version__
from queuectl.errors import QueuectlError, RequestRefused
from queuectl.protocol import Status, StatusReport
from queuectl.web import rendering
from queuectl.web.problems import STATUSES
from queuectl.web.visitor import VISITOR, Visitor, visitor_of

Handler = Callable[[Request], Awaitable[Response]]

#: What was done by the request before, shown once by the page that it led to.
SAID_COOKIE = "queuectl_said"
THEME_COOKIE = "queuectl_theme"
THEMES = ("auto", "light", "dark")
# What one message may say: it travels in a cookie.
SAID_CHARS_MAX = 600

#: Path, title, icon and the letter that, after `g`, goes there.
PLACES = (
    ("/", "Overview", "overview", "o"),
    ("/jobs", "Jobs", "jobs", "j"),
    ("/schedule", "Schedule", "schedule", "s"),
    ("/dead", "Dead letters", "dead", "d"),
    ("/workers", "Workers", "workers", "w"),
    ("/queues", "Queues", "queues", "q"),
    ("/settings", "Settings", "settings", "c"),
    ("/tokens", "Tokens", "tokens", "t"),
)


class Said(msgspec.Struct, frozen=True):
    """
    One message to whoever acted: what was done, and what could not be.
    """

    text: str
    good: bool = True


def now_ms() -> int:
    """
    Return the time: what "3 minutes ago" on a page counts from.
    """
    return time.time_ns() // 1_000_000


async def show(
    request: Request,
    template: str,
    /,
    *,
    report: StatusReport | None = None,
    status_code: int = 200,
    said: Said | None = None,
    **context: Any,
) -> HTMLResponse:
    """
    Return the page that *template* makes of *context*, whole or the fragment that was asked for.

    *report* is passed by pages that have asked for it anyway. Raises what the link raises.
    """
    visitor = visitor_of(request)
    if report is None:
        report = await visitor.link.call(Status(), StatusReport)
    fragment = "fragment" in request.query_params
    found = said or (None if fragment else _read_said(request))
    around = frame(request, visitor, report)
    response = rendering.page(
        template, status=status_code, **around, said=found, fragment=fragment, **context
    )
    if not fragment and SAID_COOKIE in request.cookies:
        response.delete_cookie(SAID_COOKIE, path="/", samesite="strict", httponly=True)
    return response


def with_seen_counts(report: StatusReport) -> StatusReport:
    """
    Return *report* with jobs counted as its reader's lists show them: those that one may see.
    """
    if report.seen_jobs is None:
        return report
    return msgspec.structs.replace(report, jobs=report.seen_jobs, dlq=report.seen_jobs["dead"])


def shared_fragment(template: str, place: str, report: StatusReport, **context: Any) -> bytes:
    """
    Return the fragment of the page at *place* for everybody who sees the same. It knows no request,
    session or CSRF token: a template that wants one of them fails.
    """
    around = _around(place, report)
    return rendering.text(template, **around, said=None, fragment=True, **context).encode()


def frame(request: Request, visitor: Visitor | None, report: StatusReport | None) -> dict[str, Any]:
    """
    Return what the frame around every page needs. Without a report it has no counts.
    """
    theme = request.cookies.get(THEME_COOKIE, "auto")
    session = visitor.session if visitor else None
    path = request.url.path
    query = "&".join(
        each
        for each in request.url.query.split("&")
        if each and not each.startswith(("fragment=", "size="))
    )
    return _around("/" + path.split("/")[1], report) | {
        "here": f"{path}?{query}" if query else path,
        "theme": theme if theme in THEMES else "auto",
        "visitor": visitor,
        "csrf_token": session.csrf_token if session else "",
        "may_manage": visitor is not None and visitor.admin and "manage" in visitor.scopes,
    }


def _around(place: str, report: StatusReport | None) -> dict[str, Any]:
    """
    Return what is around a page whoever looks at it.
    """
    return {
        "now": now_ms(),
        "version": __version__,
        "places": PLACES,
        "place": place,
        "report": report and with_seen_counts(report),
    }


def page(handler: Handler) -> Handler:
    """
    Return *handler* with every refusal, and a daemon that does not answer, shown as a page.
    """

    async def shown(request: Request) -> Response:
        try:
            return await handler(request)
        except QueuectlError as error:
            return explain(request, error)

    return shown


def explain(request: Request, error: QueuectlError) -> HTMLResponse:
    """
    Return the page that says what went wrong, as well as one can say it.
    """
    code = error.code if isinstance(error.code, str) else "unsupported"
    status_code = STATUSES.get(code, 500)
    away = code in ("unreachable", "try_later", "idle")
    response = error_page(request, status_code, str(error), away=away)
    if away:
        response.headers["Retry-After"] = "5"
    return response


def error_page(
    request: Request, status_code: int, message: str, *, away: bool = False
) -> HTMLResponse:
    """
    Return a page with a message and nothing of the daemon's; *away* says that it may come back.
    """
    titles = {403: "Not permitted", 404: "Not found", 405: "Not possible", 409: "Not in this state"}
    title = "The daemon does not answer" if away else titles.get(status_code, "Not done")
    return rendering.page(
        "error.html",
        status=status_code,
        **frame(request, request.scope.get(VISITOR), None),
        said=None,
        fragment="fragment" in request.query_params,
        title=title,
        message=message,
        away=away,
    )


def say(response: Response, said: Said, *, secure: bool) -> Response:
    """
    Have the next page say what was done.
    """
    text = said.text
    if len(text) > SAID_CHARS_MAX:
        text = text[: SAID_CHARS_MAX - 1] + "…"
    data = base64.urlsafe_b64encode(msgspec.json.encode(Said(text, said.good))).decode()
    response.set_cookie(
        SAID_COOKIE, data, max_age=60, path="/", samesite="strict", httponly=True, secure=secure
    )
    return response


def _read_said(request: Request) -> Said | None:
    try:
        data = base64.urlsafe_b64decode(request.cookies.get(SAID_COOKIE, ""))
        return msgspec.json.decode(data, type=Said)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None


def reason_of(error: Exception) -> Said:
    """
    Return a refusal as a message.
    """
    return Said(str(error), good=False)


def field_of(error: RequestRefused) -> str | None:
    """
    Return the form's name for the field of a refusal: the wire's, without its unit.
    """
    return error.field.removesuffix("_ms") if error.field else None
