"""
Tables and pages for people.

A table is a list of rows of plain text. On a terminal rich lays it out, so that long commands are
cut at the edge and states have colors; anywhere else columns are padded with spaces and nothing is
cut, for grep and awk. Every cell is escaped: what a stranger named a job stays inside its cell.
"""

import os
import sys
from collections.abc import Callable, Sequence

from queuectl.durations import describe_duration
from queuectl.escape import printable
from queuectl.selection import id_to_ask, is_anothers
from queuectl.session import Session
from queuectl.times import format_local
from queuectl.views import JobView

_STYLES = {
    "completed": "green",
    "dead": "red",
    "failed": "yellow",
    "processing": "cyan",
    "busy": "cyan",
    "draining": "yellow",
    "cancelled": "dim",
    "held": "magenta",
    "paused": "yellow",
}

#: Spaces between columns.
_GAP = 2
#: A last column is not cut shorter than this; rather the line is too long.
_LAST_COLUMN_MIN = 8

Row = Sequence[str]


def print_table(session: Session, header: Row, rows: Sequence[Row]) -> None:
    """
    Write a table to stdout. The last column is the one that may be cut on a terminal.
    """
    safe = [[printable(cell) for cell in row] for row in rows]
    if session.on_terminal or session.colored:
        try:
            _print_rich(session, header, safe)
        except ImportError:
            pass
        else:
            return
    session.print("\n".join(plain_table(header, safe)))


def plain_table(header: Row, rows: Sequence[Row]) -> list[str]:
    """
    Return the lines of a table whose columns are padded with spaces.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def print_pairs(session: Session, pairs: Sequence[tuple[str, str]]) -> None:
    """
    Write names and values under each other; a value of several lines goes on under itself.
    """
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        first, *others = value.split("\n")
        session.print(f"{name.ljust(width)}  {printable(first)}".rstrip())
        for other in others:
            session.print(f"{'':{width}}  {printable(other)}")


def job_rows(jobs: Sequence[JobView], now: int) -> tuple[Row, list[Row]]:
    """
    Return the header and rows of a list of jobs.
    """
    # Whose they are is worth a column where they are several people's.
    mixed = any(map(is_anothers, jobs))
    whose = ("USER",) if mixed else ()
    header = ("ID", "STATE", "TRIES", "PRI", "QUEUE", "WHEN", *whose, "COMMAND")
    return header, [
        (
            id_to_ask(job),
            state_of(job),
            f"{job.attempts}/{job.max_retries + 1}",
            str(job.priority),
            job.queue,
            when(job, now),
            *((text_or_dash(job.user),) if mixed else ()),
            job.command,
        )
        for job in jobs
    ]


def state_of(job: JobView) -> str:
    """
    Return the job's state in a word, `stopping` while its attempt is being ended.
    """
    return "stopping" if job.stopping else job.state


def when(job: JobView, now: int) -> str:
    """
    Return the one time that matters in the job's state, relative to *now*.
    """
    if job.finished_at is not None:
        return ago(job.finished_at, now)
    if job.state == "processing" and job.started_at is not None:
        return f"for {brief(now - job.started_at)}"
    if job.next_run_at is not None:
        wait_ms = job.next_run_at - now
        return f"in {brief(wait_ms)}" if wait_ms > 0 else "due"
    return ago(job.created_at, now)


def brief(span_ms: int) -> str:
    """
    Return a span in its largest unit, for narrow columns: `3m`, `12d`.
    """
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if span_ms >= size_ms:
            return f"{span_ms // size_ms}{unit}"
    return f"{max(span_ms, 0) // 1000}s"


def ago(at: int, now: int) -> str:
    """
    Return how long ago *at* was, for narrow columns.
    """
    return f"{brief(now - at)} ago"


def moment(at: int | None, now: int) -> str:
    """
    Return a time for people: local, with the distance from *now*; `-` for none.
    """
    if at is None:
        return "-"
    distance_ms = now - at
    relative = (
        f"{describe_duration(distance_ms)} ago"
        if distance_ms >= 0
        else f"in {describe_duration(-distance_ms)}"
    )
    return f"{format_local(at)} ({relative})"


def text_or_dash(value: object, shape: Callable[[int], str] | None = None) -> str:
    """
    Return *value* as text, through *shape* if it is a number; `-` for None.
    """
    if value is None:
        return "-"
    return shape(value) if shape is not None and isinstance(value, int) else str(value)


def _print_rich(session: Session, header: Row, rows: Sequence[Row]) -> None:
    # A tenth of a second to import: only when somebody looks. Its own tables narrow every column
    # alike until they fit; here the last one gives way, so that ids stay whole.
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=sys.stdout, no_color=not session.colored, force_terminal=True, highlight=False
    )
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)][:-1]
    taken = sum(widths) + _GAP * len(widths)
    room = max(_terminal_width() - taken, _LAST_COLUMN_MIN) if session.on_terminal else None
    for row in (header, *rows):
        line = Text(style="bold" if row is header else "")
        for cell, width in zip(row, widths, strict=False):
            line.append(cell, style=_STYLES.get(cell, ""))
            line.append(" " * (width + _GAP - cell_len(cell)))
        last = Text(row[-1])
        if room is not None:
            last.truncate(room, overflow="ellipsis")
        console.print(line.append_text(last), soft_wrap=True)


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80
