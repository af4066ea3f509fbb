"""
Which jobs a request is about.
"""

from queuectl.protocol import SELECT_JOBS_MAX, Selection
from queuectl.views import JobError, JobState
from queuectld.core.admission import excerpt, shorten
from queuectld.core.job import Job
from queuectld.core.peer import Peer
from queuectld.core.refusal import Refusal
from queuectld.core.state import State

# Jobs that one request may look at before it answers with what it has: about 10 ms.
SCAN_JOBS_MAX = 20_000
# A state with at most this many jobs is listed from its own index, not by looking at all jobs.
INDEX_JOBS_MAX = 10_000
# What the jobs of one page were asked with, together, before the page ends: it must fit into a
# frame, where arguments appear twice, once of them quoted for a shell.
PAGE_BYTES_MAX = 512 << 10


def pick(state: State, peer: Peer, ids: list[str]) -> tuple[list[Job], list[JobError]]:
    """
    Return the jobs that *ids* name, each once, in that order, and an error for each that is not.

    An id is a job's id, a number, a range of numbers (of which those that exist count) or `last`.
    """
    jobs: dict[int, Job] = {}
    errors: list[JobError] = []
    found_count = 0
    for text in ids:
        job = find(state, peer, text)
        found = [job] if job is not None else _pick_range(state, peer, text)
        jobs.update((each.number, each) for each in found)
        found_count += max(len(found), 1)
        if found_count > SELECT_JOBS_MAX:
            # Repeats count too: it is the looking that must stay within bounds.
            raise Refusal("usage", f"ids must name at most {SELECT_JOBS_MAX} jobs; split", "ids")
        if not found:
            message = f"no job {shorten(text)}"
            errors.append(JobError(code="not_found", message=message, id=excerpt(text)))
    return list(jobs.values()), errors


def _pick_range(state: State, peer: Peer, text: str) -> list[Job]:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and len(text) < 32):
        return []
    low, high = int(first), int(last)
    jobs: list[Job] = []
    for looked, job in enumerate(state.oldest_first(low - 1)):
        if job.number > high or len(jobs) > SELECT_JOBS_MAX or looked > SCAN_JOBS_MAX:
            break
        if peer.sees(job):
            jobs.append(job)
    return jobs


def find(state: State, peer: Peer, text: str) -> Job | None:
    """
    Return the job that *text* names to *peer*; None if there is none that exists for it.
    """
    if text == "last":
        for looked, job in enumerate(state.newest_first()):
            if peer.owns(job):
                return job
            if looked >= SCAN_JOBS_MAX:
                break
        return None
    named = state.find(text, peer.uid)
    return named if named is not None and peer.sees(named) else None


def one(state: State, peer: Peer, text: str) -> Job:
    """
    Return the one job that *text* names, or refuse.
    """
    job = find(state, peer, text)
    if job is None:
        raise Refusal("not_found", f"no job {shorten(text)}", "id")
    return job


def matching(
    state: State, peer: Peer, selection: Selection, states: frozenset[JobState]
) -> tuple[list[Job], int | None]:
    """
    Return jobs in one of *states* that pass the selection's filters, by ascending number from
    `after` on, and the number to go on after if that was not all.
    """
    wanted = states & frozenset(selection.states) if selection.states else states
    jobs: list[Job] = []
    total = sum(state.counts[each] for each in wanted)
    if total <= INDEX_JOBS_MAX and "pending" not in wanted:
        for each in wanted:
            jobs += [state.jobs[n] for n in state.members[each] if n > selection.after]
        jobs.sort(key=lambda job: job.number)
        mine = [job for job in jobs if peer.sees(job)]
        return [job for job in mine if selection.queue in (None, job.queue.name)], None
    for looked, job in enumerate(state.oldest_first(selection.after)):
        if looked >= SCAN_JOBS_MAX or len(jobs) >= SELECT_JOBS_MAX:
            return jobs, job.number - 1
        if job.state in wanted and selection.queue in (None, job.queue.name) and peer.sees(job):
            jobs.append(job)
    return jobs, None


def page(
    state: State,
    peer: Peer,
    states: list[JobState],
    queue: str | None,
    before: int | None,
    limit: int,
) -> tuple[list[Job], int | None]:
    """
    Return up to *limit* jobs, newest first, below number *before*, and the number to go on below.
    """
    wanted = frozenset(states)
    jobs: list[Job] = []
    if wanted and "pending" not in wanted:
        total = sum(state.counts[each] for each in wanted)
        if total <= INDEX_JOBS_MAX:
            for each in wanted:
                jobs += [state.jobs[n] for n in state.members[each] if before is None or n < before]
            jobs = [job for job in jobs if queue in (None, job.queue.name) and peer.sees(job)]
            jobs.sort(key=lambda job: -job.number)
            return _within(jobs, limit)
    size_bytes = 0
    for looked, job in enumerate(state.newest_first(before)):
        if looked >= SCAN_JOBS_MAX or len(jobs) >= limit or size_bytes > PAGE_BYTES_MAX:
            return jobs, job.number + 1
        wanted_here = not wanted or job.state in wanted
        if wanted_here and queue in (None, job.queue.name) and peer.sees(job):
            jobs.append(job)
            size_bytes += len(job.spec)
    return jobs, None


def _within(jobs: list[Job], limit: int) -> tuple[list[Job], int | None]:
    size_bytes = 0
    for count, job in enumerate(jobs):
        if count >= limit or size_bytes > PAGE_BYTES_MAX:
            return jobs[:count], job.number + 1
        size_bytes += len(job.spec)
    return jobs, None
