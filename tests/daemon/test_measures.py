"""
The daemon in numbers, over its socket: what it measures of itself, beside what the core counts.
"""

import socket
from itertools import pairwise

import msgspec
from daemon_process import DaemonProcess, wait_until

from queuectl.client import Client
from queuectl.measures import (
    MINUTE_MS,
    GetHistory,
    GetMetrics,
    HistogramView,
    History,
    Metrics,
    MinuteView,
    merge,
    quantile,
)


def metrics(daemon: DaemonProcess) -> Metrics:
    with Client(daemon.socket) as client:
        return client.call(GetMetrics(), Metrics)


def history(daemon: DaemonProcess) -> History:
    with Client(daemon.socket) as client:
        return client.call(GetHistory(), History)


def value_count(histogram: HistogramView) -> int:
    assert len(histogram.counts) == len(histogram.bounds) + 1
    assert histogram.bounds == sorted(set(histogram.bounds))
    return sum(histogram.counts)


def test_metrics_of_a_daemon_at_work(daemon: DaemonProcess) -> None:
    """
    Every batch, turn and connection is counted, and what runs is where it runs.
    """
    (job_id,) = daemon.enqueue("exit 0")
    daemon.wait_for(job_id)
    daemon.enqueue("sleep 1000", queue="other")
    wait_until(lambda: metrics(daemon).workers["busy"])

    found = metrics(daemon)
    assert found.mode == "user"
    assert found.runner_connected
    assert sum(found.workers.values()) == found.workers["idle"] + 1
    assert found.oldest_pending_at is None
    journal = found.journal
    # At least: the start, an enqueue with its start, its end, and another enqueue with its start.
    assert value_count(journal.commits) == value_count(journal.batches) >= 4
    assert journal.batches.sum >= 6
    assert 0 < journal.commits.sum < found.uptime_ms
    assert journal.size_bytes > 0
    assert not journal.full
    assert value_count(found.turns) > 6
    assert found.connections.count == 1
    assert found.connections.accepted > 3
    by_queue = {view.queue: view for view in found.series}
    assert by_queue["default"].completed == 1
    assert sum(by_queue["default"].run_counts) == 1
    assert by_queue["other"].jobs["processing"] == 1
    assert by_queue["other"].run_counts == []
    assert {len(by_queue[name].wait_counts) for name in by_queue} == {len(found.span_bounds_ms) + 1}


def test_totals_grow_from_answer_to_answer(daemon: DaemonProcess) -> None:
    """
    No number that counts ever goes back while the daemon runs.
    """
    answers = []
    for _ in range(4):
        daemon.enqueue("exit 0", "exit 1")
        answers.append(metrics(daemon))

    for before, after in pairwise(answers):
        assert before.connections.accepted < after.connections.accepted
        assert sum(before.journal.batches.counts) < sum(after.journal.batches.counts)
        assert sum(before.turns.counts) < sum(after.turns.counts)
        (was,), (then,) = before.series, after.series
        assert then.enqueued == was.enqueued + 2
        for name in ("started", "completed", "failed", "run_sum_ms"):
            assert getattr(was, name) <= getattr(then, name)


def test_history_over_a_restart(daemon: DaemonProcess) -> None:
    """
    The charts of the day do not begin anew with a daemon.
    """
    (job_id,) = daemon.enqueue("exit 0")
    daemon.wait_for(job_id)
    before = history(daemon)
    daemon.stop()
    daemon.start()
    after = history(daemon)

    assert sum(minute.completed for minute in before.minutes) == 1
    assert sum(minute.completed for minute in after.minutes) == 1
    assert sum(minute.enqueued for minute in after.minutes) == 1
    assert after.counted_since_at > before.counted_since_at
    assert [series.enqueued for series in metrics(daemon).series] == [0]


def test_a_whole_day_fits_into_an_answer(daemon: DaemonProcess) -> None:
    """
    However much happened in each minute.
    """
    large = 1 << 40
    spans = history(daemon).span_bounds_ms
    counts = [large] * (len(spans) + 1)
    names = [name for name in MinuteView.__struct_fields__ if not name.endswith("_counts")]
    numbers = dict.fromkeys(names, large)
    minute = MinuteView(**numbers, wait_counts=counts, run_counts=counts)  # type: ignore[arg-type]
    answer = History(
        minutes=[minute] * 1442, span_bounds_ms=spans, counted_since_at=0, known_since_at=0
    )
    assert len(msgspec.msgpack.encode(answer)) < 4 << 20


def test_a_connection_that_is_turned_away_is_counted(daemon: DaemonProcess) -> None:
    """
    Who is refused for the number of connections shows in the numbers.
    """
    crowd = []
    try:
        with Client(daemon.socket) as client:
            while not (refused := client.call(GetMetrics(), Metrics).connections.refused):
                for _ in range(64):
                    crowd.append(socket.socket(socket.AF_UNIX))
                    crowd[-1].connect(daemon.socket)
                assert len(crowd) < 2_000
    finally:
        for each in crowd:
            each.close()
    assert set(refused) == {"try_later"}


def test_a_quantile_lies_between_the_bounds() -> None:
    """
    As evenly as the values are taken to lie; above the last bound nobody knows.
    """
    assert quantile([10, 20], [0, 0, 0], 0.5) is None
    assert quantile([10, 20], [], 0.5) is None
    assert quantile([10, 20], [4, 0, 0], 0.5) == 5
    assert quantile([10, 20], [2, 2, 0], 0.5) == 10
    assert quantile([10, 20], [2, 2, 0], 0.75) == 15
    assert quantile([10, 20], [2, 2, 0], 1) == 20
    assert quantile([10, 20], [0, 0, 5], 0.95) == 20


def test_minutes_are_merged_into_spans_that_stay() -> None:
    """
    Spans begin at multiples of their length, so that a bar of a chart grows but never moves; jobs
    are those at the end of a span, all else is added up.
    """
    minutes = [
        MinuteView(at=n * MINUTE_MS, enqueued=1, pending=n, wait_counts=[n, 1] if n % 2 else [])
        for n in range(4, 11)
    ]
    spans = merge(minutes, 5)

    assert [(each.at, each.enqueued, each.pending) for each in spans] == [
        (4 * MINUTE_MS, 1, 4),
        (5 * MINUTE_MS, 5, 9),
        (10 * MINUTE_MS, 1, 10),
    ]
    assert [each.wait_counts for each in spans] == [[], [21, 3], []]
    assert merge(minutes, 1) == minutes
    assert merge([], 5) == []
