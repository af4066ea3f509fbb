"""
One job: what it is, why it is in its state and until when, its attempts, its output.

The output's end is in the page itself, without colours, so that it can be read before, or without,
any script. The script then takes over at the offset where that part began.
"""

import re
from contextlib import aclosing
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from queuectl.errors import RequestRefused
from queuectl.protocol import JobDetail, LogEnd, Logs, Output, Show
from queuectl.selection import id_to_ask
from queuectl.views import FINISHED_STATES, JobView, RunView
from queuectl.web.link import Link
from queuectl.web.pages_rendering import now_ms, show
from queuectl.web.rendering import word_of
from queuectl.web.visitor import visitor_of

# Lines of output in the page, and how many bytes of them at most.
TAIL_LINES = 200
TAIL_BYTES_MAX = 16 << 10
# Attempts drawn on the line of time; earlier ones are in the table.
DRAWN_RUNS_MAX = 60
# Attempts in the table. A job that was retried for months has hundreds, and a page has its weight.
LISTED_RUNS_MAX = 50

# Of what runs and of its variables: a script may have 256 kB, and so may they.
TEXT_CHARS_MAX = 8 << 10
VARIABLES_CHARS_MAX = 4 << 10
# A command that still fits into an address, where each byte may need three.
COPIED_CHARS_MAX = 600

#: What moves the cursor or changes colours: CSI, OSC and two-character sequences.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
#: Controls that are left then, but for the ends of lines and tabs.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Tail(NamedTuple):
    """
    The end of an attempt's output. `offset` is where `text` begins, `cut` says that more is before.
    """

    text: str
    offset: int
    cut: bool


class Mark(NamedTuple):
    """
    An attempt on the line of time, which is 1000 long.
    """

    x: float
    width: float
    word: str


async def job_page(request: Request) -> Response:
    """
    GET /jobs/ID. `attempt=N` chooses whose output is shown.
    """
    link = visitor_of(request).link
    detail = await link.call(Show(id=request.path_params["id"]), JobDetail)
    job, runs = detail.job, detail.runs
    now = now_ms()
    what = detail.script or job.command
    chosen = _chosen(request.query_params.get("attempt"), runs)
    fragment = "fragment" in request.query_params
    tail = None if fragment or chosen is None else await read_tail(link, job, chosen)
    return await show(
        request,
        "job.html",
        title=f"Job {job.id}",
        detail=detail,
        job=job,
        runs=list(reversed(runs[-LISTED_RUNS_MAX:])),
        run_count=len(runs),
        marks=marks(job, runs[-DRAWN_RUNS_MAX:], now),
        attempt=chosen,
        tail=tail,
        live=job.state not in FINISHED_STATES,
        actions=actions(job),
        what=what[:TEXT_CHARS_MAX],
        cut=max(len(what) - TEXT_CHARS_MAX, 0),
        variables=some_variables(detail.env),
        again=prefilled(detail),
    )


def some_variables(env: dict[str, str]) -> list[tuple[str, str]]:
    """
    Return as many variables as a page has room for, by name.
    """
    room = VARIABLES_CHARS_MAX
    shown = []
    for name in sorted(env):
        room -= len(name) + len(env[name])
        if room < 0:
            break
        shown.append((name, env[name]))
    return shown


def prefilled(detail: JobDetail) -> dict[str, str]:
    """
    Return the fields of a form that would make such a job; none where an address cannot say it, or
    what runs is not shown.
    """
    job = detail.job
    if detail.script or job.cwd is None or len(job.command) + len(job.cwd) > COPIED_CHARS_MAX:
        return {}
    return {"command": job.command, "queue": job.queue, "cwd": job.cwd}


def actions(job: JobView) -> list[str]:
    """
    Return what can be done to a job in its state.
    """
    if job.state in ("dead", "cancelled"):
        return ["retry", "purge" if job.state == "dead" else "prune"]
    if job.state == "completed":
        return ["prune"]
    if job.state == "processing":
        return ["cancel"]
    return {
        "held": ["release", "cancel"],
        "failed": ["retry", "hold", "cancel"],
    }.get(job.state, ["hold", "cancel"])


def marks(job: JobView, runs: list[RunView], now: int) -> list[Mark]:
    """
    Return where attempts lie between the job's first moment and its last, or now.
    """
    if not runs:
        return []
    start = min(job.created_at, runs[0].started_at)
    if len(runs) >= DRAWN_RUNS_MAX:
        start = runs[0].started_at
    end = now if job.state not in FINISHED_STATES else runs[-1].ended_at or now
    scale = 1000 / max(end - start, 1)
    drawn = []
    for run in runs:
        x = (run.started_at - start) * scale
        width = max(((run.ended_at or now) - run.started_at) * scale, 4)
        drawn.append(Mark(round(min(x, 996), 1), round(width, 1), word_of(run)))
    return drawn


async def read_tail(link: Link, job: JobView, attempt: int) -> Tail:
    """
    Return the end of an attempt's output; an empty one where there is none to read.
    """
    # By bytes: the last lines may be long, and the daemon would read all of them for it.
    request = Logs(id=id_to_ask(job), attempt=attempt, tail_bytes=TAIL_BYTES_MAX)
    data, offset = b"", None
    try:
        async with aclosing(link.stream(request, Output, LogEnd)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Output):
                    offset = piece.offset if offset is None else offset
                    data += piece.data
                    if len(data) >= TAIL_BYTES_MAX:
                        break  # What the job writes meanwhile is for the script to bring.
    except RequestRefused:
        pass  # Its file may be gone: the attempt could not start, or output was pruned.
    start = offset or 0
    cut = data.find(b"\n") + 1 if start else 0
    before, *lines = data[cut:].rsplit(b"\n", TAIL_LINES + 1)
    if len(lines) > TAIL_LINES:
        cut += len(before) + 1
    start, data = start + cut, data[cut:]
    return Tail(plain(data.decode(errors="replace")), start, start > 0)


def plain(text: str) -> str:
    """
    Return output without what a terminal would obey; of lines drawn anew, their last form.
    """
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(_CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines)


def _chosen(text: str | None, runs: list[RunView]) -> int | None:
    if not runs:
        return None
    last = runs[-1].attempt
    if text and text.isascii() and text.isdecimal() and len(text) < 7:
        return min(max(int(text), 1), last)
    return last
