"""
How an answer of the daemon becomes a page.

Templates escape everything (always, in every file) and refuse names that they were not given. No
markup is built here from anything that a stranger may have written: only the icons, which are
constants, are passed on as markup. Text of strangers goes through `printable` first, so that
control characters and changes of the reading order are seen rather than obeyed.

A page is rendered whole, or as a fragment (`?fragment=main`): the same template without the frame,
which the page's script asks for when something has changed and puts in the place of what is there.
"""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import quote

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from queuectl import __version__
from queuectl.durations import describe_duration, format_duration
from queuectl.endings import ending
from queuectl.errors import QueuectlError, RequestRefused
from queuectl.escape import printable
from queuectl.protocol import Status, StatusReport
from queuectl.selection import id_to_ask
from queuectl.setting_text import format_setting
from queuectl.sizes import describe_size
from queuectl.tables import brief, state_of
from queuectl.times import format_local, format_time
from queuectl.views import JobView, RunView
from queuectl.web.pages_icons import ICONS
from queuectl.web.pages_static import static_url
from queuectl.web.visitor import Visitor, visitor_of

Handler = Callable[[Request], Awaitable[Response]]

#: What was done by the request before, shown once by the page that it led to.
SAID_COOKIE = "queuectl_said"
THEME_COOKIE = "queuectl_theme"
THEMES = ("auto", "light", "dark")
# Characters of a command in lists: what fits on a wide screen. The job's page has it whole.
LISTED_CHARS_MAX = 160
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

#: The HTTP status of a page that says why there is nothing else to see.
_STATUS_CODES = {
    "usage": 422,
    "not_found": 404,
    "conflict": 409,
    "denied": 403,
    "try_later": 503,
    "unreachable": 503,
    "idle": 503,
    "unsupported": 501,
}


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
    html = environment().get_template(template).render(
        **frame(request, visitor, report), said=found, fragment=fragment, **context
    )
    response = HTMLResponse(html, status_code, headers={"Cache-Control": "no-store"})
    if not fragment and SAID_COOKIE in request.cookies:
        response.delete_cookie(SAID_COOKIE, path="/", samesite="strict", httponly=True)
    return response


def frame(request: Request, visitor: Visitor | None, report: StatusReport | None) -> dict[str, Any]:
    """
    Return what the frame around every page needs. Without a report it has no counts.
    """
    theme = request.cookies.get(THEME_COOKIE, "auto")
    session = visitor.session if visitor else None
    path = request.url.path
    query = "&".join(
        each for each in request.url.query.split("&") if each and not each.startswith("fragment=")
    )
    return {
        "now": now_ms(),
        "version": __version__,
        "places": PLACES,
        "place": "/" + path.split("/")[1],
        "here": f"{path}?{query}" if query else path,
        "theme": theme if theme in THEMES else "auto",
        "visitor": visitor,
        "csrf_token": session.csrf_token if session else "",
        "report": report,
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
    status_code = _STATUS_CODES.get(code, 500)
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
    html = environment().get_template("error.html").render(
        **frame(request, None, None),
        said=None,
        fragment="fragment" in request.query_params,
        title=title,
        message=message,
        away=away,
        status_code=status_code,
    )
    return HTMLResponse(html, status_code, headers={"Cache-Control": "no-store"})


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


def job_url(job: JobView | str) -> str:
    """
    Return the path of a job's page, by what the visitor calls it.
    """
    name = job if isinstance(job, str) else id_to_ask(job)
    if name in (".", "..") and not isinstance(job, str):
        name = str(job.number)  # A browser would take these for steps in the path.
    return f"/jobs/{quote(name, safe='')}"


def when(job: JobView) -> tuple[str, int]:
    """
    Return the one time that matters in the job's state, and how to tell it: ago, in or for.
    """
    if job.finished_at is not None and job.state in ("completed", "dead", "cancelled"):
        return "ago", job.finished_at
    if job.state == "processing" and job.started_at is not None:
        return "for", job.started_at
    if job.next_run_at is not None:
        return "in", job.next_run_at
    return "ago", job.updated_at if job.state == "cancelled" else job.created_at


def word_of(run: RunView) -> str:
    """
    Return the state whose colour and shape an attempt has: how it stands.
    """
    if run.ended_at is None:
        return "processing"
    if run.end == "exited" and run.exit_code == 0:
        return "completed"
    return "cancelled" if run.end == "cancelled" else "dead"


def relative(kind: str, at: int, now: int) -> str:
    """
    Return a time as the distance from *now*: `3m ago`, `in 3m` or, for one that passed, `due`;
    `3m` for what goes on. The script words it alike.
    """
    if kind == "in":
        return f"in {brief(at - now)}" if at > now else "due"
    return brief(now - at) + (" ago" if kind == "ago" else "")


def lines_printable(text: str) -> str:
    """
    Return *text* safe to show, with its line breaks and tabs.
    """
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def shortened(text: str) -> str:
    """
    Return the beginning of *text* on one line, safe to show.
    """
    cut = text[: LISTED_CHARS_MAX + 1]
    return printable(cut[:LISTED_CHARS_MAX]) + ("…" if len(cut) > LISTED_CHARS_MAX else "")


def counted(count: int, noun: str) -> str:
    """
    Return `1 job`, `1,200 jobs`.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


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


@cache
def environment() -> Environment:
    """
    Return the templates, with what they may use.
    """
    made = Environment(
        loader=PackageLoader("queuectl.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        printable=printable,
        lines=lines_printable,
        shortened=shortened,
        duration=describe_duration,
        exact=format_duration,
        size=describe_size,
        iso=format_time,
        local=format_local,
        counted=counted,
    )
    made.globals.update(
        icon=lambda name: Markup(ICONS[name]),  # noqa: S704 - constants of this package.
        static=static_url,
        job_url=job_url,
        name_of=id_to_ask,
        state_of=state_of,
        when=when,
        relative=relative,
        ending=ending,
        word_of=word_of,
        setting_text=format_setting,
    )
    return made
