"""
GET /metrics: the daemon in numbers and, for admins, the gateway too, as Prometheus reads them, in
its text format or in OpenMetrics, whichever is asked for. Programs that ask for JSON get what an
older program of this name told.

Each scrape asks the daemon anew, as whoever scrapes: nothing is kept here. To write 100 queues down
takes longer than a browser's event may wait, so that is done on a thread.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from queuectl.errors import QueuectlError
from queuectl.measures import GetMetrics, HistogramView, Metrics, SeriesView
from queuectl.views import JOB_STATES
from queuectl.web.gateway import Gateway
from queuectl.web.operations import answer_json
from queuectl.web.problems import problem_of
from queuectl.web.visitor import visitor_of

MS = 1 / 1000
_PAIR = ("queue", "user")
#: The field of a SeriesView: its metric, and what that says.
_TOTALS = {
    "enqueued": ("queuectl_jobs_enqueued", "Jobs that were accepted."),
    "completed": ("queuectl_jobs_completed", "Jobs that ended with exit code 0."),
    "dead": ("queuectl_jobs_dead", "Jobs that came into the dead letter queue."),
    "cancelled": ("queuectl_jobs_cancelled", "Jobs that were cancelled."),
    "started": ("queuectl_attempts_started", "Attempts that were started."),
    "retried": ("queuectl_attempts_retried", "Attempts that were not their job's first."),
    "failed": (
        "queuectl_attempts_failed",
        "Attempts that failed, where the job is tried again or held.",
    ),
    "lost": ("queuectl_attempts_lost", "Attempts whose end nobody saw."),
}


def routes() -> list[BaseRoute]:
    """
    Return the route of the metrics.
    """
    return [Route("/metrics", show, methods=["GET"])]


async def show(request: Request) -> Response:
    """
    Answer with what the daemon counted for whoever asks.
    """
    visitor = visitor_of(request)
    try:
        metrics = await visitor.link.call(GetMetrics(), Metrics)
    except QueuectlError as error:
        return problem_of(error)
    accept = request.headers.get("accept", "")
    if wants_json(accept):
        return answer_json(summary(metrics))
    families = list(families_of_daemon(metrics))
    if visitor.admin:
        families += families_of_gateway(request.app.state.gateway)
    encode, media_type = choose_encoder(accept)
    body = await asyncio.to_thread(encode, Families(families))
    return Response(body, media_type=media_type)


def wants_json(accept: str) -> bool:
    """
    Whether JSON is what is asked for: of the formats that there are here, the first that is named.
    """
    for each in accept.split(","):
        media_type = each.partition(";")[0].strip()
        if media_type in ("application/openmetrics-text", "text/plain"):
            return False
        if media_type == "application/json":
            return True
    return False


def summary(metrics: Metrics) -> dict[str, Any]:
    """
    Return how long an attempt takes on average, in seconds, since the daemon started (None before
    the first), and how many jobs are in each state.
    """
    runs = sum(sum(series.run_counts) for series in metrics.series)
    run_ms = sum(series.run_sum_ms for series in metrics.series)
    states = {
        state: sum(each.jobs.get(state, 0) for each in metrics.series) for state in JOB_STATES
    }
    return {"average_execution_time": run_ms * MS / runs if runs else None, "jobs": states}


class Families(CollectorRegistry):
    """
    What an encoder is given: a registry whose metrics are there already.
    """

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """
        Yield every metric.
        """
        return iter(self._families)


# --- the daemon -----------------------------------------------------------------------------------


def families_of_daemon(metrics: Metrics) -> Iterator[Metric]:
    """
    Yield the daemon's metrics.
    """
    build = GaugeMetricFamily(
        "queuectl_build_info", "What runs, always 1.", labels=("version", "mode")
    )
    build.add_metric((metrics.version, metrics.mode), 1)
    yield build
    yield _gauge("queuectl_start_time_seconds", "When the daemon started.", metrics.started_at * MS)
    yield _gauge(
        "queuectl_runner_connected",
        "Whether the daemon is connected to its runner; nothing starts without.",
        metrics.runner_connected,
    )
    yield from _families_of_jobs(metrics)
    yield _labelled("queuectl_workers", "Workers by state.", "state", metrics.workers)
    yield from _families_of_journal(metrics)
    connections = metrics.connections
    yield _gauge("queuectl_connections", "Connections to the control socket.", connections.count)
    accepted = CounterMetricFamily("queuectl_connections_accepted", "Connections that were served.")
    accepted.add_metric((), connections.accepted)
    yield accepted
    refused = CounterMetricFamily(
        "queuectl_connections_refused", "Connections that were turned away.", labels=("code",)
    )
    for code in ("denied", "try_later"):
        refused.add_metric((code,), connections.refused.get(code, 0))
    yield refused
    yield _histogram(
        "queuectl_loop_turn_seconds",
        "What the daemon's loop took to decide and do what it had read.",
        metrics.turns,
        MS,
    )


def _families_of_jobs(metrics: Metrics) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("queuectl_jobs", "Jobs by state.", labels=("state", *_PAIR))
    for series in metrics.series:
        for state, count in series.jobs.items():
            jobs.add_metric((state, *_pair(series)), count)
    yield jobs
    for field, (name, text) in _TOTALS.items():
        total = CounterMetricFamily(name, text, labels=_PAIR)
        for series in metrics.series:
            total.add_metric(_pair(series), getattr(series, field))
        yield total
    bounds = metrics.span_bounds_ms
    waits = HistogramMetricFamily(
        "queuectl_job_wait_seconds", "How long jobs were pending before a start.", labels=_PAIR
    )
    runs = HistogramMetricFamily(
        "queuectl_attempt_run_seconds", "How long attempts ran.", labels=_PAIR
    )
    for series in metrics.series:
        pair = _pair(series)
        waits.add_metric(pair, _buckets(bounds, series.wait_counts, MS), series.wait_sum_ms * MS)
        runs.add_metric(pair, _buckets(bounds, series.run_counts, MS), series.run_sum_ms * MS)
    yield waits
    yield runs
    now = metrics.started_at + metrics.uptime_ms
    oldest_at = now if metrics.oldest_pending_at is None else metrics.oldest_pending_at
    yield _gauge(
        "queuectl_oldest_pending_age_seconds",
        "How long the job waits that is pending for longest; 0 if none is.",
        max(now - oldest_at, 0) * MS,
    )


def _families_of_journal(metrics: Metrics) -> Iterator[Metric]:
    journal = metrics.journal
    yield _gauge("queuectl_journal_size_bytes", "All files of the journal.", journal.size_bytes)
    yield _gauge("queuectl_journal_segments", "Segments of the journal.", journal.segment_count)
    yield _gauge(
        "queuectl_journal_full", "Whether the disk is full, and jobs are refused.", journal.full
    )
    snapshot = GaugeMetricFamily(
        "queuectl_journal_snapshot_time_seconds",
        "When this daemon last took a snapshot; missing before the first.",
    )
    if journal.snapshot_at is not None:
        snapshot.add_metric((), journal.snapshot_at * MS)
    yield snapshot
    yield _histogram(
        "queuectl_journal_commit_seconds",
        "What it took to write a batch and, with durability always, to sync it.",
        journal.commits,
        MS,
    )
    yield _histogram("queuectl_journal_batch_records", "Records in a batch.", journal.batches, 1)


# --- the gateway ----------------------------------------------------------------------------------


def families_of_gateway(gateway: Gateway) -> Iterator[Metric]:
    """
    Yield the gateway's own metrics.
    """
    answers = CounterMetricFamily(
        "queuectl_web_answers",
        "Requests that were answered, and WebSockets that were accepted, as status 101.",
        labels=("method", "route", "status"),
    )
    for kind, count in gateway.traffic.answers.items():
        answers.add_metric((kind.method, kind.route, str(kind.status)), count)
    yield answers
    yield _gauge("queuectl_web_streams", "Live streams.", gateway.hub.stream_count)
    yield _gauge("queuectl_web_sessions", "Sessions of browsers.", len(gateway.sessions))
    yield _gauge("queuectl_web_links", "Connections to the daemon for calls.", gateway.link_count)
    yield from ProcessCollector(namespace="queuectl_web", registry=None).collect()


# --- building -------------------------------------------------------------------------------------


def _pair(series: SeriesView) -> tuple[str, str]:
    return series.queue, series.user or ""


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric((), value)
    return family


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(name: str, text: str, view: HistogramView, unit: float) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric((), _buckets(view.bounds, view.counts, unit), view.sum * unit)
    return family


def _buckets(
    bounds: Sequence[float], counts: Sequence[int], unit: float
) -> list[tuple[str, float]]:
    """
    Return buckets as Prometheus has them: each counts all values up to its bound. *unit* is what
    the bounds are given in.
    """
    names = [*(str(round(float(bound * unit), 9)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts or [0] * len(names)), strict=True))
