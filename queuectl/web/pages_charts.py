"""
Charts of the last hour or day, drawn here as SVG: what they show is there before any script runs.

A chart is 600 by 120 without a unit of its own: the page stretches it. All of a series is one path,
so that a chart weighs little. Its numbers are in a table under it as well, which is what who cannot
see it reads, and what the script shows beside the pointer.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from queuectl.durations import describe_duration
from queuectl.measures import History, MinuteView, merge, quantile

WIDTH, HEIGHT = 600, 120
HOUR_MS = 3_600_000

#: Spans by name: title, length, minutes of one column, and how long an answer of the daemon is
#: shown before it is asked again: the minutes of a whole day are a long answer.
SPANS = {
    "hour": ("Last hour", HOUR_MS, 1, 2_000),
    "day": ("Last day", 24 * HOUR_MS, 15, 30_000),
}


class Series(NamedTuple):
    """
    One thing drawn: its name, its class in the style sheet, and the drawing; of a line also the
    points that have none beside them.
    """

    name: str
    look: str
    path: str
    points: str = ""


class Chart(NamedTuple):
    """
    A drawing: its series, what its top stands for, and in words what it shows.
    """

    title: str
    top: str
    series: list[Series]
    summary: str


class Charts(NamedTuple):
    """
    All charts of a span, and the table of their numbers, the newest row first.
    """

    throughput: Chart
    times: Chart
    header: list[str]
    rows: list[list[str]]
    labels: list[str]


def draw(history: History, span: str, now: int) -> Charts:
    """
    Return the charts of *span*, which ends *now*.
    """
    _, length_ms, minutes, _ = SPANS[span]
    step_ms = minutes * 60_000
    first = (now - length_ms) // step_ms + 1
    count = length_ms // step_ms
    by_column = {each.at // step_ms - first: each for each in merge(history.minutes, minutes)}
    columns = [by_column.get(index) for index in range(count)]
    bounds = history.span_bounds_ms
    waits = [_quantiles(bounds, each.wait_counts if each else []) for each in columns]
    runs = [_quantiles(bounds, each.run_counts if each else []) for each in columns]
    rows = []
    for index, each in enumerate(columns):
        at = (first + index) * step_ms
        ended = [str(value) for value in _ends(each)]
        spans = [_words(value) for value in (*waits[index], *runs[index])]
        rows.append([_clock(at), *ended, *spans])
    rows.reverse()
    return Charts(
        throughput=_throughput(columns, span),
        times=_times(waits, runs, span),
        header=["", "Completed", "Retried", "Dead", "Wait p50", "p95", "Run p50", "p95"],
        rows=rows,
        labels=[_clock((first + count * part // 4) * step_ms) for part in range(4)] + ["now"],
    )


def _ends(each: MinuteView | None) -> tuple[int, int, int]:
    return (each.completed, each.failed, each.dead) if each else (0, 0, 0)


def _throughput(columns: Sequence[MinuteView | None], span: str) -> Chart:
    ends = [_ends(each) for each in columns]
    top = _round_up(max((sum(each) for each in ends), default=0) or 1)
    width = WIDTH / len(ends)
    bar = width * 0.72
    looks = (("Completed", "completed"), ("Retried", "failed"), ("Dead", "dead"))
    paths: list[list[str]] = [[], [], []]
    for index, values in enumerate(ends):
        y = float(HEIGHT)
        for part, value in enumerate(values):
            if value:
                height = max(value / top * HEIGHT, 1.5)
                y -= height
                x = index * width + (width - bar) / 2
                paths[part].append(f"M{x:.5g} {y:.4g}h{bar:.4g}v{height:.4g}h-{bar:.4g}z")
    totals = [sum(each[part] for each in ends) for part in range(3)]
    said = ", ".join(f"{n:,} {name.lower()}" for n, (name, _) in zip(totals, looks, strict=True))
    return Chart(
        title="Throughput",
        top=f"{top:,}",
        series=[
            Series(f"{name} {total:,}", look, "".join(path))
            for (name, look), path, total in zip(looks, paths, totals, strict=True)
        ],
        summary=f"Attempts that ended in the {SPANS[span][0].lower()}: {said}.",
    )


_Pair = tuple[float | None, float | None]


def _times(waits: Sequence[_Pair], runs: Sequence[_Pair], span: str) -> Chart:
    named = (
        ("Wait p50", "l-pending", [each[0] for each in waits]),
        ("Wait p95", "l-pending dash", [each[1] for each in waits]),
        ("Run p50", "l-processing", [each[0] for each in runs]),
        ("Run p95", "l-processing dash", [each[1] for each in runs]),
    )
    largest = max((v for _, _, values in named for v in values if v is not None), default=0)
    top_ms = max(largest, 10)
    said = []
    series = []
    for name, look, values in named:
        known = [value for value in values if value is not None]
        if known:
            said.append(f"{name} up to {_words(max(known))}")
        series.append(Series(name if "p50" in name else "p95", look, *_line(values, top_ms)))
    summary = "; ".join(said) or "nothing ran"
    return Chart(
        title="Wait and run",
        top=f"{_words(top_ms)} (log)",
        series=series,
        summary=f"How long jobs waited and ran in the {SPANS[span][0].lower()}: {summary}.",
    )


def _line(values: Sequence[float | None], top: float) -> tuple[str, str]:
    """
    Return a path through the values, interrupted where there is none, and one of the values that
    stand alone. On a logarithmic scale from 1 ms, for spans go from milliseconds to hours.
    """
    width = WIDTH / len(values)
    line, points = "", ""
    before = None
    for index, value in enumerate(values):
        if value is not None:
            share = math.log(max(value, 1)) / math.log(max(top, 2))
            at = f"{(index + 0.5) * width:.5g} {HEIGHT - share * (HEIGHT - 4):.4g}"
            if before is not None:
                line += f"L{at}"
            elif index + 1 < len(values) and values[index + 1] is not None:
                line += f"M{at}"
            else:
                points += f"M{at}h0"
        before = value
    return line, points


def _quantiles(bounds: Sequence[float], counts: Sequence[int]) -> _Pair:
    return quantile(bounds, counts, 0.5), quantile(bounds, counts, 0.95)


def _words(span_ms: float | None) -> str:
    return "-" if span_ms is None else describe_duration(round(span_ms))


def _round_up(value: int) -> int:
    """
    Return the next of 1, 2, 3, 5, 10, 20, 30 …
    """
    size: int = 10 ** (len(str(value)) - 1)
    return next(size * step for step in (1, 2, 3, 5, 10) if size * step >= value)


def _clock(at: int) -> str:
    return time.strftime("%H:%M", time.localtime(at / 1000))
