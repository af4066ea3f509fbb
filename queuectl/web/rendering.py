"""
The templates, and the words in them.

Templates escape everything (always, in every file) and refuse names that they were not given. No
markup is built here from anything that a stranger may have written: only the icons, which are
constants, are passed on as markup. Text of strangers goes through `printable` first, so that
control characters and changes of the reading order are seen rather than obeyed.
"""

from functools import cache
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from queuectl.durations import describe_duration, format_duration
from queuectl.endings import ending
from queuectl.escape import printable
from queuectl.selection import id_to_ask, is_anothers, job_to_ask
from queuectl.setting_text import format_setting
from queuectl.sizes import describe_size
from queuectl.tables import brief, state_of
from queuectl.times import format_local, format_time
from queuectl.views import JobView, RunView, WorkerView
from queuectl.web.pages_icons import ICONS
from queuectl.web.pages_static import static_url

# Characters of a command in lists: what fits on a wide screen. The job's page has it whole.
LISTED_CHARS_MAX = 120


def page(template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """
    Return the page that *template* makes of *values*. It is not to be kept by anybody.
    """
    return answer(text(template, **values), status=status)


def answer(content: str | bytes, *, status: int = 200) -> HTMLResponse:
    """
    Return what is rendered as a page that is not to be kept by anybody.
    """
    return HTMLResponse(content, status_code=status, headers={"Cache-Control": "no-store"})


def text(template: str, **values: object) -> str:
    """
    Return what *template* makes of *values*.
    """
    return environment().get_template(template).render(**values)


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
        what_runs=what_runs,
        when=when,
        relative=relative,
        ending=ending,
        word_of=word_of,
        setting_text=format_setting,
    )
    return made


def job_url(job: JobView | WorkerView | str) -> str:
    """
    Return the path of a job's page, by what the visitor calls it; of a worker, that of its job.
    """
    if isinstance(job, str):
        name = job
    else:
        name = id_to_ask(job) if isinstance(job, JobView) else job_to_ask(job) or ""
        if name in (".", ".."):
            name = str(job.number)  # A browser would take these for steps in the path.
    return f"/jobs/{quote(name, safe='')}"


def what_runs(view: JobView | WorkerView) -> str:
    """
    Return the command of a job, or of the one in a slot, as a list shows it. What another account
    runs is not shown to admins: there it is whose it is.
    """
    shown = not is_anothers(view) if isinstance(view, JobView) else view.command is not None
    if shown:
        return shortened(view.command or "")
    return f"({printable(view.user)}'s)" if view.user is not None else ""


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
