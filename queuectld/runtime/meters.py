"""
What the loop and the disk take, and the daemon in numbers for those who ask.

Nothing is measured for its own sake: the loop reads the clock anyway before and after a turn, the
committer before and after a task.
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


class Meters:
    """
    What was measured since the daemon started.
    """

    def __init__(self) -> None:
        self.commits = Histogram(COMMIT_BOUNDS_MS)
        self.batches = Histogram(BATCH_BOUNDS)
        #: Of turns that took no time on the clock, which are most, only how many is known: it is
        #: the number of turns less these.
        self.turns = Histogram(TURN_BOUNDS_MS)

    def committed(self, record_count: int, span_s: float) -> None:
        """
        A batch is on disk.
        """
        self.commits.add(span_s * 1000)
        self.batches.add(record_count)


def metrics(daemon: "Daemon", call: int, now: int, peer: Peer) -> Metrics:
    """
    Return the daemon in numbers, and what *peer* has in it.
    """
    queue, journal, server, meters = daemon.queue, daemon.journal, daemon.server, daemon.meters
    assert server is not None
    workers = dict.fromkeys(("idle", "busy", "draining"), 0)
    for slot in queue.state.slots.by_number.values():
        workers["draining" if slot.draining else "busy" if slot.job else "idle"] += 1
    turns = _view(meters.turns)
    turns.counts[0] += max(server.turn_count - sum(turns.counts), 0)
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
            commits=_view(meters.commits),
            batches=_view(meters.batches),
        ),
        connections=ConnectionMeasures(
            count=server.connection_count,
            accepted=server.accepted_count,
            refused=dict(server.refused_counts),
        ),
        turns=turns,
        oldest_pending_at=oldest_pending_at(queue.state, peer),
    )


def _view(histogram: Histogram) -> HistogramView:
    return HistogramView(
        bounds=list(histogram.bounds), counts=list(histogram.counts), sum=histogram.sum
    )
