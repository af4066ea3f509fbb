"""
Which jobs a request is about.
"""

from collections.abc import Iterable

from queuectl.protocol import LIST_JOBS_MAX, SELECT_JOBS_MAX, List, Selection
from queuectl.views import JobError, JobState
from queuectld.core.admission import excerpt, shorten
from queuectld.core.job import Job
from queuectld.core.peer import Peer
from queuectld.core.refusal import Refusal
from queuectld.core.state import State
from queuectld.core.views import command_text

# Jobs that one request may look at before it answers with what it has: about 10 ms.
SCAN_JOBS_MAX = 20_000
# A state with at most this many jobs is listed from its own index, not by looking at all jobs.
INDEX_JOBS_MAX = 10_000
# What the jobs of one page were asked with, together, before the page ends: it must fit into a
# frame, where arguments appear twice, once of them quoted for a shell.
PAGE_BYTES_MAX = 512 << 10
# What the jobs were asked with that one request may search: about 10 ms, for 5,000 jobs or one.
SEARCH_BYTES_MAX = 1 << 20


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
            message = _no_job(peer, text)
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
        raise Refusal("not_found", _no_job(peer, text), "id")
    return job


def _no_job(peer: Peer, text: str) -> str:
    """
    Say that there is no such job. An admin may have meant somebody else's.
    """
    message = f"no job {shorten(text)}"
    is_number = text.replace("-", "", 1).isdecimal()  # Or a range of them.
    if peer.uid is not None and peer.admin and not is_number:
        message += " of yours; name the jobs of others by number"
    return message


def matching(
    state: State, peer: Peer, selection: Selection, states: frozenset[JobState]
) -> tuple[list[Job], int | None]:
    """
    Return jobs in one of *states* that pass the selection's filters, by ascending number from
    `after` on, and the number to go on after if that was not all.
    """
    wanted = states & frozenset(selection.states) if selection.states else states
    jobs: list[Job] = []
    counts = state.counts
    total = sum(counts[each] for each in wanted)
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
    state: State, peer: Peer, request: List, before: int | None
) -> tuple[list[Job], int | None]:
    """
    Return up to `limit` jobs that pass the filters of *request*, newest first, below number
    *before*, and the number to go on below if that was not all.
    """
    limit = min(max(request.limit, 1), LIST_JOBS_MAX)
    states = frozenset(request.states)
    owners = None if request.user is None else state.shares.owners_called(request.user)
    text = None if request.search is None else request.search.casefold()
    jobs: list[Job] = []
    size_bytes = searched_bytes = 0
    for looked, job in enumerate(_newest_first(state, states, before)):
        if (
            looked >= SCAN_JOBS_MAX
            or len(jobs) >= limit
            or size_bytes > PAGE_BYTES_MAX
            or searched_bytes > SEARCH_BYTES_MAX
        ):
            return jobs, job.number + 1
        if states and job.state not in states:
            continue
        if request.queue not in (None, job.queue.name) or not peer.sees(job):
            continue
        if owners is not None and job.owner not in owners:
            continue
        if text is not None:
            searched_bytes += len(job.spec)
            if not _says(state, peer, job, text):
                continue
        jobs.append(job)
        size_bytes += len(job.spec)
    return jobs, None


def _newest_first(state: State, states: frozenset[JobState], before: int | None) -> Iterable[Job]:
    """
    Return the jobs below *before* by descending number: those in *states*, or where that would not
    be faster, all.
    """
    counts = state.counts
    total = sum(counts[each] for each in states)
    if not states or "pending" in states or total > INDEX_JOBS_MAX:
        return state.newest_first(before)
    numbers = [number for each in states for number in state.members[each]]
    below = numbers if before is None else [number for number in numbers if number < before]
    return map(state.jobs.__getitem__, sorted(below, reverse=True))


def _says(state: State, peer: Peer, job: Job, text: str) -> bool:
    """
    Whether *text*, case folded, is in what *peer* is shown of a job: its id, and what it runs.
    """
    spec = state.spec(job)
    if text in spec.id.casefold():
        return True
    return peer.owns(job) and text in command_text(spec).casefold()
