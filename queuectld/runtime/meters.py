"""
What the loop and the disk take, and the daemon in numbers for those who ask.

Nothing is measured for its own sake: the loop reads the clock anyway before and after a turn, the
committer before and after a task. What they read is noted, and sorted into histograms many at once.
"""

from typing import TYPE_CHECKING

from queuectl.measures import (
    ConnectionMeasures,
    HistogramView,
    JournalMeasures,
    Metrics,
)
from queuectld.core.measuring import oldest_pending_at, series_views
from queuectld.core.peer import Peer
from queuectld.core.tally import SPAN_BOUNDS_MS, Histogram

if TYPE_CHECKING:
    from queuectld.runtime.daemon import Daemon

# To write and sync a batch: from memory that pretends to be a disk to one that is about to fail.
COMMIT_BOUNDS_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)
BATCH_BOUNDS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
TURN_BOUNDS_MS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)
# How many are noted before they are sorted.
NOTED_MAX = 1_000


class Meters:
    """
    What was measured since the daemon started.
    """

    def __init__(self) -> None:
        #: Batches that are on disk and in no histogram: records, and seconds it took.
        self.committed: list[tuple[int, float]] = []
        self._turned: list[int] = []
        self._commits = Histogram(COMMIT_BOUNDS_MS)
        self._batches = Histogram(BATCH_BOUNDS)
        self._turns = Histogram(TURN_BOUNDS_MS)

    def turned(self, span_ms: int) -> None:
        """
        A turn of the loop took time on the clock. Most take none.
        """
        self._turned.append(span_ms)
        if len(self._turned) > NOTED_MAX or len(self.committed) > NOTED_MAX:
            self._sort()

    def _sort(self) -> None:
        self._batches.add([count for count, _ in self.committed])
        self._commits.add([span_s * 1000 for _, span_s in self.committed])
        self._turns.add(self._turned)
        self.committed.clear()
        self._turned.clear()

    def commits(self) -> HistogramView:
        """
        Return milliseconds that batches took.
        """
        self._sort()
        return _view(self._commits)

    def batches(self) -> HistogramView:
        """
        Return records in batches.
        """
        self._sort()
        return _view(self._batches)

    def turns(self, count: int) -> HistogramView:
        """
        Return milliseconds that turns took, *count* turns in all.
        """
        self._sort()
        view = _view(self._turns)
        view.counts[0] += max(count - sum(view.counts), 0)
        return view


def metrics(daemon: "Daemon", call: int, now: int, peer: Peer) -> Metrics:
    """
    Return the daemon in numbers, and what *peer* has in it.
    """
    queue, journal, server, meters = daemon.queue, daemon.journal, daemon.server, daemon.meters
    assert server is not None
    workers = dict.fromkeys(("idle", "busy", "draining"), 0)
    for slot in queue.state.slots.by_number.values():
        workers["draining" if slot.draining else "busy" if slot.job else "idle"] += 1
    return Metrics(
        call=call,
        version=daemon.version,
        mode=daemon.mode,
        epoch=queue.state.epoch,
        started_at=daemon.started_at,
        uptime_ms=now - daemon.started_at,
        runner_connected=daemon.runner is not None and daemon.runner.ready,
        series=series_views(queue.state, queue.tallies, peer),
        span_bounds_ms=list(SPAN_BOUNDS_MS),
        workers=workers,
        journal=JournalMeasures(
            size_bytes=journal.size_bytes,
            segment_count=journal.segment_count,
            durability=journal.durability,
            full=journal.full or daemon.housekeeping.waits_for_room,
            snapshot_at=daemon.housekeeping.snapshot_at,
            commits=meters.commits(),
            batches=meters.batches(),
        ),
        connections=ConnectionMeasures(
            count=server.connection_count,
            accepted=server.accepted_count,
            refused=dict(server.refused_counts),
        ),
        turns=meters.turns(server.turn_count),
        oldest_pending_at=oldest_pending_at(queue.state, peer),
    )


def _view(histogram: Histogram) -> HistogramView:
    return HistogramView(
        bounds=list(histogram.bounds), counts=list(histogram.counts), sum=histogram.sum
    )
