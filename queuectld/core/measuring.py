"""
The counts as answers show them: to everybody what concerns their own jobs, to admins all.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from queuectl.measures import (
    MINUTE_MS,
    OTHER_QUEUES,
    OTHER_USERS,
    SERIES_USERS_MAX,
    GetHistory,
    History,
    MinuteView,
    SeriesView,
)
from queuectl.views import JobState
from queuectld.core.admission import shorten
from queuectld.core.effects import Reply
from queuectld.core.history import Bucket, Minute, Owner
from queuectld.core.job import no_jobs
from queuectld.core.peer import Peer
from queuectld.core.ready import unpack
from queuectld.core.refusal import Refusal
from queuectld.core.state import State
from queuectld.core.tallies import Tallies, Total
from queuectld.core.tally import SPAN_BOUNDS_MS

if TYPE_CHECKING:
    from queuectld.core.queue import Queue

# Of no more pending jobs than these, the one that waits longest is looked for among all of them:
# it takes 2 ms.
PENDING_LOOK_MAX = 10_000


# --- totals -------------------------------------------------------------------------------------


def series_views(state: State, tallies: Tallies, peer: Peer) -> list[SeriesView]:
    """
    Return what *peer* has in each queue; for admins, what everybody has.

    Queues and accounts without totals of their own are summed up, see Tallies.
    """
    tallies.settle(state)
    rest = {
        owner: dict(share.counts)
        for owner, share in state.shares.by_owner.items()
        if peer.admin or owner == peer.uid
    }
    names = _names(state)
    views = []
    for (name, owner), total in tallies.totals.items():
        if name == OTHER_QUEUES or owner not in rest:
            continue
        queue = state.queues.get(name)
        counts = (queue.counts_of.get(owner) if queue is not None else None) or no_jobs()
        for each, count in counts.items():
            rest[owner][each] -= count
        views.append(_series_view(name, names[owner], counts, total))
    views += _rest_views(tallies, rest, names)
    return views


def _rest_views(
    tallies: Tallies, rest: dict[Owner, dict[JobState, int]], names: dict[Owner, str | None]
) -> Iterator[SeriesView]:
    """
    Yield what is left of each account, and the sum of what is left of accounts beyond the limit.
    """
    for owner, counts in rest.items():
        if any(counts.values()):
            tallies.totals.setdefault((OTHER_QUEUES, owner), Total())
    owners = [owner for name, owner in tallies.totals if name == OTHER_QUEUES and owner in rest]
    for owner in owners[:SERIES_USERS_MAX]:
        total = tallies.totals[OTHER_QUEUES, owner]
        yield _series_view(OTHER_QUEUES, names[owner], rest[owner], total)
    if len(owners) > SERIES_USERS_MAX:
        sums, all_of_them = no_jobs(), Total()
        for owner in owners[SERIES_USERS_MAX:]:
            for each, count in rest[owner].items():
                sums[each] += count
            total = tallies.totals[OTHER_QUEUES, owner]
            all_of_them.add(total)
            all_of_them.jobs_before += total.jobs_before
        yield _series_view(OTHER_QUEUES, OTHER_USERS, sums, all_of_them)


def _names(state: State) -> dict[Owner, str | None]:
    """
    Return what to call each account: its name, and where two had the same, since one was renamed,
    the uid too. No two series may have the same labels.
    """
    shares = state.shares.by_owner
    called = Counter(share.user for share in shares.values())
    return {
        owner: share.user if called[share.user] == 1 else f"{share.user} {owner}"
        for owner, share in shares.items()
        if owner is not None
    } | {None: None}


def _series_view(
    queue: str, user: str | None, counts: dict[JobState, int], total: Total
) -> SeriesView:
    return SeriesView(
        queue=queue,
        user=user,
        jobs=dict(counts.items()),
        enqueued=sum(counts.values()) + total.forgotten - total.jobs_before,
        started=total.started,
        retried=total.retried,
        completed=total.completed,
        failed=total.failed,
        dead=total.dead,
        cancelled=total.cancelled,
        lost=total.lost,
        wait_counts=_counts(total.wait_counts),
        wait_sum_ms=total.wait_sum_ms,
        run_counts=_counts(total.run_counts),
        run_sum_ms=total.run_sum_ms,
    )


def _counts(counts: list[int]) -> list[int]:
    """
    Return a histogram as answers have it: empty without values.
    """
    return list(counts) if any(counts) else []


def oldest_pending_at(state: State, peer: Peer) -> int | None:
    """
    Return since when the job is pending that is so for longest. Of more than PENDING_LOOK_MAX jobs,
    only the next one of each line is looked at.
    """
    jobs = state.jobs
    oldest_at = None
    look_at_all = state.counts["pending"] <= PENDING_LOOK_MAX
    for share in state.shares.waiting.values():
        if not peer.admin and share.owner != peer.uid:
            continue
        for line in share.lines.values():
            if look_at_all:
                numbers = line.ready.numbers()
            else:
                head = line.ready.head(state.is_ready)
                numbers = [] if head is None else [unpack(head)[1]]
            for number in numbers:
                job = jobs.get(number)
                if job is None or job.state != "pending":
                    continue  # A stale entry.
                if oldest_at is None or job.updated_at < oldest_at:
                    oldest_at = job.updated_at
    return oldest_at


# --- minutes ------------------------------------------------------------------------------------


def show_history(queue: "Queue", client: int, request: GetHistory, now: int) -> None:
    """
    Answer with the minutes asked for. Raises Refusal for an account that is not the peer's to see.
    """
    tallies, peer = queue.tallies, queue.peer
    owner = peer.uid if request.user is None else _owner_called(queue.state, peer, request.user)
    of_all = peer.admin and request.user is None
    minutes = [*tallies.history.minutes, tallies.current(queue.state)]
    response = History(
        call=request.call,
        minutes=[
            _minute_view(minute, minute.whole if of_all else minute.by_owner.get(owner))
            for minute in minutes
            if minute.at + MINUTE_MS > request.since_at
        ],
        span_bounds_ms=list(SPAN_BOUNDS_MS),
        counted_since_at=tallies.started_at,
        known_since_at=tallies.known_since_at if of_all else tallies.users_known_since_at,
    )
    queue.do(Reply(client, response))


def _owner_called(state: State, peer: Peer, user: str) -> Owner:
    """
    Return the account of that name. Two had it only if one of them was renamed: then one of them.
    """
    for owner in state.shares.owners_called(user):
        if peer.admin or owner == peer.uid:
            return owner
    raise Refusal("not_found", f"no jobs of user {shorten(user)}", "user")


def _minute_view(minute: Minute, bucket: Bucket | None) -> MinuteView:
    if bucket is None:
        return MinuteView(at=minute.at)
    return MinuteView(
        at=minute.at,
        enqueued=bucket.enqueued,
        started=bucket.started,
        retried=bucket.retried,
        completed=bucket.completed,
        failed=bucket.failed,
        dead=bucket.dead,
        cancelled=bucket.cancelled,
        lost=bucket.lost,
        pending=bucket.pending,
        processing=bucket.processing,
        wait_counts=_counts(bucket.wait_counts),
        wait_sum_ms=bucket.wait_sum_ms,
        run_counts=_counts(bucket.run_counts),
        run_sum_ms=bucket.run_sum_ms,
    )
