"""
What holds between jobs and indices whatever happened.

- every job is counted once under its state: over all, for its account, and for that in its queue,
  which has no counts of an account that has no jobs there;
- every pending job has a live entry in the line of its account and queue, which counts it; no line
  is without jobs, and the accounts that wait are those with lines;
- every scheduled or failed job has a live timer, and so has a processing one with a deadline until
  SIGKILL was sent;
- a processing job has exactly one unended run, its last, and holds the slot that the run names;
- every environment is referred to by as many jobs as its count says;
- an account's bytes are those of its jobs and environments;
- every token is an account's, and on the clock if it expires.
"""

from queuectl.views import JOB_STATES, JobState
from queuectld.core.job import Job
from queuectld.core.peer import name_key
from queuectld.core.state import EXPIRING_STATES, State


def validate(state: State) -> None:
    """
    Assert every invariant between jobs and indices. Tests call it after each step.
    """
    counts: dict[JobState, int] = dict.fromkeys(JOB_STATES, 0)
    by_pair: dict[tuple[str, int | None, JobState], int] = {}
    env_jobs = dict.fromkeys(state.environments, 0)
    for job in state.jobs.values():
        counts[job.state] += 1
        key = (job.queue.name, job.owner, job.state)
        by_pair[key] = by_pair.get(key, 0) + 1
        spec = state.spec(job)
        assert spec.number == job.number
        env_jobs[spec.env_id] += 1
        assert spec.name is None or state.by_name[name_key(spec.uid, spec.name)] == job.number
        assert job.state == "pending" or job.number in state.members[job.state]
        _validate_job(state, job)
    assert counts == state.counts, (counts, state.counts)
    assert env_jobs == {key: env.jobs for key, env in state.environments.items()}
    for queue in state.queues.values():
        assert queue.listed or queue.counts_of, queue.name
        assert queue.running == queue.counts["processing"], queue.name
        for owner, in_state in queue.counts_of.items():
            assert any(in_state.values()), (queue.name, owner)
            for each in JOB_STATES:
                assert in_state[each] == by_pair.pop((queue.name, owner, each), 0), queue.name
    assert not by_pair, by_pair
    assert len(state.by_name) == sum(state.spec(j).name is not None for j in state.jobs.values())
    assert set(state.order) >= set(state.jobs)
    assert list(state.order) == sorted(set(state.order))
    for each, members in state.members.items():
        assert len(members) == counts[each], each
    state.tokens.validate()
    _validate_shares(state)
    _validate_heaps(state)
    _validate_slots(state)


def _validate_shares(state: State) -> None:
    counts: dict[tuple[int | None, JobState], int] = {}
    places: dict[tuple[int | None, str], set[tuple[int, int]]] = {}
    sizes: dict[int | None, int] = {}
    for environment in state.environments.values():
        sizes[environment.owner] = sizes.get(environment.owner, 0) + len(environment.packed)
    for job in state.jobs.values():
        sizes[job.owner] = sizes.get(job.owner, 0) + len(job.spec)
        counts[job.owner, job.state] = counts.get((job.owner, job.state), 0) + 1
        if job.state == "pending":
            place = places.setdefault((job.owner, job.queue.name), set())
            place.add((job.priority, job.number))
    for owner, share in state.shares.by_owner.items():
        assert owner == share.owner
        assert share.size_bytes == sizes.pop(owner, 0), owner
        for each in JOB_STATES:
            assert share.counts[each] == counts.pop((owner, each), 0), (owner, each)
        for name, line in share.lines.items():
            assert line.queue is state.queues[name], name
            assert line.count == len(places[owner, name]), (owner, name)
            assert places.pop((owner, name)) <= set(line.ready.entries()), (owner, name)
        assert (state.shares.waiting.get(owner) is share) == bool(share.lines), owner
    assert not counts, counts
    assert not sizes, sizes
    assert not places, places
    assert state.shares.waiting.keys() <= state.shares.by_owner.keys()


def _validate_job(state: State, job: Job) -> None:
    assert job.queue is state.queues[job.queue.name]
    running = [run for run in job.runs or () if not run.ended_at]
    if job.state == "processing":
        assert [job.runs[-1] if job.runs else None] == running, job.number
        assert state.slots.by_number[running[0].slot].job == job.number
    else:
        assert not running, job.number
        assert job.stop is None, job.number
        assert job.number not in state.pids
    attempts = [run.attempt for run in job.runs or ()]
    assert attempts == sorted(set(attempts))
    assert 0 <= job.attempts_before <= job.attempt


def _validate_heaps(state: State) -> None:
    timers = set(state.timers.entries())
    finished = set(state.finished.entries())
    for job in state.jobs.values():
        number = job.number
        if job.state in ("scheduled", "failed"):
            assert job.due_at, number
            assert (job.due_at, number) in timers, number
        elif job.state == "processing" and job.due_at and job.stop is None:
            assert (job.due_at, number) in timers, number
        elif job.state in EXPIRING_STATES:
            assert (job.updated_at, number) in finished, number


def _validate_slots(state: State) -> None:
    for slot in state.slots.by_number.values():
        assert slot.job or not slot.draining, slot.number
        if slot.job:
            assert state.jobs[slot.job].state == "processing", slot.number
    idle = [s.number for s in state.slots.by_number.values() if not s.job]
    assert state.slots.first_idle() == (min(idle) if idle else None)
