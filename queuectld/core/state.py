"""
All that the queue knows, and the only way to change it: apply(record).

Live operation and replay run the same lines, so recovered state equals lived state. Two things are
not recorded: what the runner can tell again after a restart (process ids, in `pids`), and whose
turn it is among the accounts, which begins anew (shares.py).

The invariants between jobs and indices are in invariants.py.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from queuectl.protocol import DEFAULT_QUEUE
from queuectl.settings import SETTINGS, check
from queuectl.views import FINISHED_STATES, JOB_STATES, JobState, SettingValue
from queuectld.core.job import Environment, Job, Made, NamedQueue, Run, Stop, no_jobs
from queuectld.core.limits import Slots
from queuectld.core.peer import name_key
from queuectld.core.records import (
    DaemonStarted,
    EnvironmentForgotten,
    EnvironmentStored,
    JobEnqueued,
    JobForgotten,
    JobMoved,
    NumbersUsed,
    QueuesChanged,
    Record,
    RunEnded,
    RunStarted,
    SettingsChanged,
    SlotsChanged,
    StopRequested,
    TokenForgotten,
    TokenMade,
)
from queuectld.core.shares import Share, Shares
from queuectld.core.timers import Timers
from queuectld.core.tokens import TokenTable

# Request ids remembered for repeated enqueues: at least this many, at most twice as many.
REQUESTS_MAX = 50_000

#: States in which a job's due_at is waited for.
TIMED_STATES: frozenset[JobState] = frozenset({"scheduled", "failed", "processing"})
#: States that retention ends. Dead jobs stay until somebody says otherwise.
EXPIRING_STATES: frozenset[JobState] = FINISHED_STATES - {"dead"}

# What happens to a job asks for its spec several times in a row, and two of them take turns: one
# ends, the next starts. A spec may hold a script, so few are kept.
_decode_spec = lru_cache(maxsize=8)(Decoder(JobEnqueued).decode)
_decode_env = Decoder(dict[str, str]).decode
_encode_env = Encoder(order="sorted").encode


class State:
    """
    The jobs and every index over them.
    """

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        #: Numbers of all jobs, ascending; those of forgotten jobs stay until enough have gone.
        self.order = array("Q")
        #: The jobs whose submitter gave an id, by name_key().
        self.by_name: dict[str, int] = {}
        self.queues: dict[str, NamedQueue] = {}
        self.shares = Shares(self.is_ready)
        #: For every state but pending (those are in the lines, see shares.py): the jobs in it.
        self.members: dict[JobState, dict[int, None]] = {
            state: {} for state in JOB_STATES if state != "pending"
        }
        #: When to look at a job again: see Job.due_at.
        self.timers = Timers()
        #: When completed and cancelled jobs finished: retention takes the earliest.
        self.finished = Timers()
        self.slots = Slots()
        self.settings: dict[str, SettingValue] = {}
        #: Beneath those, what files and the like give, and from where. Not durable: given anew at
        #: each start, and no record needs it to be applied.
        self.configured: dict[str, SettingValue] = {}
        self.configured_by: dict[str, str] = {}
        #: Of every setting the value in force, which those two and the defaults make.
        self._in_force: dict[str, SettingValue] = {}
        self._put_in_force()
        self.tokens = TokenTable()
        self.environments: dict[int, Environment] = {}
        self._env_ids: dict[tuple[int | None, bytes], int] = {}
        #: Stored variables as a request brought them: bytes, owner, id. The last ones that did.
        self.env_seen: tuple[Raw, int | None, int] | None = None
        #: Request id -> the jobs it made. Two generations.
        self._requests: dict[str, list[Made]] = {}
        self._requests_before: dict[str, list[Made]] = {}
        self.next_number = 1
        self.next_env_id = 1
        self.epoch = 0
        #: Latest time in any record: the queue's time never runs backwards, not over restarts.
        self.latest_at = 0
        #: Process ids of running attempts, as the runner told them.
        self.pids: dict[int, int] = {}
        self._appliers: dict[type[Record], Callable[[Any], None]] = {
            JobMoved: self._job_moved,
            StopRequested: self._stop_requested,
            RunStarted: self._run_started,
            RunEnded: self._run_ended,
            JobForgotten: self._job_forgotten,
            EnvironmentStored: self._environment_stored,
            EnvironmentForgotten: self._environment_forgotten,
            SettingsChanged: self._settings_changed,
            QueuesChanged: self._queues_changed,
            SlotsChanged: self._slots_changed,
            DaemonStarted: self._daemon_started,
            NumbersUsed: self._numbers_used,
            TokenMade: self._token_made,
            TokenForgotten: self._token_forgotten,
        }
        self.queue_named(DEFAULT_QUEUE).listed = True

    # --- reading ----------------------------------------------------------------------------

    def setting(self, key: str) -> Any:
        """
        Return a setting's value in force.
        """
        return self._in_force[key]

    def spec(self, job: Job) -> JobEnqueued:
        """
        Return what was asked for.
        """
        return _decode_spec(job.spec)

    def find(self, text: str, owner: int | None = None) -> Job | None:
        """
        Return the job with this id: a submitter's id first, *owner*'s, else a number.
        """
        number = self.by_name.get(name_key(owner, text))
        if number is None and text.isdecimal() and text.isascii() and len(text) < 16:
            number = int(text)
        return None if number is None else self.jobs.get(number)

    def is_named(self, owner: int | None, number: int) -> bool:
        """
        Whether an account gave this number as an id to a job of its own.
        """
        return bool(self.by_name) and name_key(owner, str(number)) in self.by_name

    @property
    def counts(self) -> dict[JobState, int]:
        """
        How many jobs are in each state.
        """
        counts = no_jobs() | {state: len(members) for state, members in self.members.items()}
        counts["pending"] = len(self.jobs) - sum(counts.values())
        return counts

    @property
    def expiring_count(self) -> int:
        """
        Jobs that retention may forget: finished ones except the dead.
        """
        return len(self.members["completed"]) + len(self.members["cancelled"])

    def take_pending(self) -> Job | None:
        """
        Return the pending job that is to start now, and count the turn: see shares.py.
        """
        number = self.shares.take_turn(self.setting)
        return None if number is None else self.jobs[number]

    def newest_first(self, before: int | None = None) -> Iterator[Job]:
        """
        Yield jobs by descending number, those below *before*.
        """
        start = len(self.order) if before is None else bisect_left(self.order, before)
        for index in range(start - 1, -1, -1):
            job = self.jobs.get(self.order[index])
            if job is not None:
                yield job

    def oldest_first(self, after: int) -> Iterator[Job]:
        """
        Yield jobs by ascending number, those above *after*.
        """
        for index in range(bisect_left(self.order, after + 1), len(self.order)):
            job = self.jobs.get(self.order[index])
            if job is not None:
                yield job

    def env_id(self, env: dict[str, str], owner: int | None = None) -> int | None:
        """
        Return the id under which exactly these variables of an account are stored, if they are.
        """
        return self._env_ids.get((owner, _encode_env(env)))

    def env(self, env_id: int) -> dict[str, str]:
        """
        Return stored variables.
        """
        return _decode_env(self.environments[env_id].packed)

    def made_by(self, request_id: str, owner: int | None = None) -> list[tuple[int, int]] | None:
        """
        Return (index, number) of the jobs that an account's request made, None if not remembered.
        """
        key = name_key(owner, request_id)
        made = self._requests.get(key) or self._requests_before.get(key)
        if made is None:
            return None
        return [(each.index + n, each.number + n) for each in made for n in range(each.count)]

    def queue_named(self, name: str) -> NamedQueue:
        """
        Return the named queue, made unlisted if it is not there.
        """
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = NamedQueue(name)
        return queue

    def is_ready(self, priority: int, number: int) -> bool:
        """
        Whether an entry of a line is live.
        """
        job = self.jobs.get(number)
        return job is not None and job.state == "pending" and job.priority == priority

    def is_due(self, at: int, number: int) -> bool:
        """
        Whether an entry of the timers is live.
        """
        job = self.jobs.get(number)
        # A held job keeps the time for which it was scheduled, but does not wait for it.
        return job is not None and job.due_at == at and job.state in TIMED_STATES

    def is_finished(self, at: int, number: int) -> bool:
        """
        Whether an entry of the finished jobs is live.
        """
        job = self.jobs.get(number)
        return job is not None and job.updated_at == at and job.state in EXPIRING_STATES

    # --- changing ---------------------------------------------------------------------------

    def configure(self, values: dict[str, SettingValue], sources: dict[str, str]) -> None:
        """
        Take the values that files and the like give, and where from; all of them each time.
        """
        self.configured, self.configured_by = dict(values), dict(sources)
        self._put_in_force()

    def _put_in_force(self) -> None:
        defaults = {setting.key: setting.default for setting in SETTINGS.values()}
        self._in_force = {**defaults, **self.configured, **self.settings}

    def apply(self, record: Record, body: bytes) -> None:
        """
        Change state by one durable fact. The only mutator, live and on replay.

        *body* is the record as the journal has it: that of a job's JobEnqueued is kept.
        """
        if type(record) is JobEnqueued:
            self._job_enqueued(record, body)
        else:
            self._appliers[type(record)](record)

    def _move(self, job: Job, state: JobState, at: int, due_at: int) -> None:
        """
        Put a job into a state, and into the indices that the state asks for.
        """
        share = self.shares.by_owner[job.owner]
        self._leave(job, share)
        job.state, job.updated_at, job.due_at = state, at, due_at
        self._enter(job, share)
        if at > self.latest_at:
            self.latest_at = at

    def _leave(self, job: Job, share: Share) -> None:
        """
        Take a job out of the indices that its state asked for.
        """
        state, queue = job.state, job.queue
        queue.counts_of[job.owner][state] -= 1
        share.counts[state] -= 1
        if state == "pending":
            self.shares.leave(share, queue)
            return
        del self.members[state][job.number]
        if state == "processing":
            queue.running -= 1

    def _enter(self, job: Job, share: Share) -> None:
        state, queue, number = job.state, job.queue, job.number
        queue.counts_of[job.owner][state] += 1
        share.counts[state] += 1
        if state == "pending":
            self.shares.join(share, queue, job.priority, number)
            return
        self.members[state][number] = None
        if state in FINISHED_STATES:
            job.due_at = 0
            if state in EXPIRING_STATES:
                self.finished.push(job.updated_at, number)
                if len(self.finished) > 2 * self.expiring_count + 1024:
                    self.finished.rebuild(self.is_finished)
            return
        if state == "processing":
            queue.running += 1
        if job.due_at and state in TIMED_STATES:
            self._watch(job)

    def _watch(self, job: Job) -> None:
        self.timers.push(job.due_at, job.number)
        if len(self.timers) > 2 * sum(len(self.members[state]) for state in TIMED_STATES) + 1024:
            self.timers.rebuild(self.is_due)

    def _job_enqueued(self, record: JobEnqueued, body: bytes) -> None:
        # A million of these are replayed at a start, and each request of a pipeline is one.
        number = record.number
        job = Job(
            number,
            body,
            self.queues.get(record.queue) or self.queue_named(record.queue),
            record.state,
            record.priority,
            record.at,
            record.due_at,
            record.uid,
        )
        self.jobs[number] = job
        self.order.append(number)
        if number >= self.next_number:
            self.next_number = number + 1
        if record.at > self.latest_at:
            self.latest_at = record.at
        if record.name is not None:
            self.by_name[name_key(record.uid, record.name)] = number
        if record.request_id is not None:
            asker = record.uid if record.by_uid is None else record.by_uid
            key = name_key(asker, record.request_id)
            self._remember_request(key, record.request_index, number)
        environment = self.environments.get(record.env_id)
        if environment is not None:
            environment.jobs += 1
        share = self.shares.of(record.uid)
        share.user = record.user or ""
        share.size_bytes += len(body)
        self._enter(job, share)

    def _remember_request(self, request_id: str, index: int, number: int) -> None:
        made = self._requests.get(request_id)
        if made is None:
            if len(self._requests) >= REQUESTS_MAX:
                self._requests_before, self._requests = self._requests, {}
            self._requests[request_id] = [Made(index, number, 1)]
            return
        last = made[-1]
        count = last.count
        if index == last.index + count and number == last.number + count:
            last.count = count + 1
        else:
            made.append(Made(index, number, 1))

    def _job_moved(self, record: JobMoved) -> None:
        job = self.jobs[record.number]
        job.priority = record.priority
        job.attempts_before = record.attempts_before
        job.why = record.why
        self._move(job, record.state, record.at, record.due_at)

    def _stop_requested(self, record: StopRequested) -> None:
        self.latest_at = max(self.latest_at, record.at)
        job = self.jobs[record.number]
        if job.state != "processing":
            return  # In a snapshot: the run has ended, and the record of its end is still to come.
        assert job.attempt == record.attempt, (record, job.attempt)
        job.stop = Stop(record.why, record.kill_at)
        job.updated_at, job.due_at = record.at, record.kill_at
        self._watch(job)

    def _run_started(self, record: RunStarted) -> None:
        job = self.jobs[record.number]
        if job.runs is None:
            job.runs = []
        job.runs.append(Run(record.attempt, record.slot, record.epoch, record.at))
        self.slots.occupy(record.slot, record.number, record.at)
        self._move(job, "processing", record.at, record.due_at)

    def _run_ended(self, record: RunEnded) -> None:
        job = self.jobs[record.number]
        if job.runs is None:
            job.runs = []
        if not job.runs or job.runs[-1].attempt < record.attempt:
            # A snapshot keeps only the end of an attempt.
            job.runs.append(Run(record.attempt, record.slot, 0, record.started_at))
        run = job.runs[-1]
        run.ended_at, run.end, run.error = record.at, record.end, record.error
        run.exit_code, run.signal = record.exit_code, record.signal
        run.user_ms, run.system_ms = record.user_ms, record.system_ms
        run.memory_max_bytes = record.memory_max_bytes
        job.stop, job.attempts_before = None, record.attempts_before
        job.why = record.error if record.state == "held" else None
        self.slots.free(record.slot, record.number)
        self.pids.pop(record.number, None)
        self._move(job, record.state, record.at, record.due_at)

    def _job_forgotten(self, record: JobForgotten) -> None:
        job = self.jobs.pop(record.number)
        spec = self.spec(job)
        if spec.name is not None:
            del self.by_name[name_key(spec.uid, spec.name)]
        share = self.shares.by_owner[job.owner]
        share.size_bytes -= len(job.spec)
        self._leave(job, share)
        environment = self.environments.get(spec.env_id)
        if environment is not None:
            environment.jobs -= 1
        if not any(job.queue.counts_of[job.owner].values()):
            del job.queue.counts_of[job.owner]
        self._drop_if_unused(job.queue)
        if len(self.order) > 2 * len(self.jobs) + 1024:
            self.order = array("Q", (number for number in self.order if number in self.jobs))

    def _environment_stored(self, record: EnvironmentStored) -> None:
        packed = _encode_env(record.env)
        self.environments[record.env_id] = Environment(packed, record.uid)
        self._env_ids[record.uid, packed] = record.env_id
        self.shares.of(record.uid).size_bytes += len(packed)
        self.next_env_id = max(self.next_env_id, record.env_id + 1)

    def _environment_forgotten(self, record: EnvironmentForgotten) -> None:
        environment = self.environments.pop(record.env_id)
        self.env_seen = None
        del self._env_ids[environment.owner, environment.packed]
        self.shares.by_owner[environment.owner].size_bytes -= len(environment.packed)

    def _settings_changed(self, record: SettingsChanged) -> None:
        # What this release does not know belongs to a newer one: kept out of the way.
        self.settings = {
            key: value
            for key, value in record.values.items()
            if key in SETTINGS and check(key, value) is None
        }
        self._put_in_force()

    def _queues_changed(self, record: QueuesChanged) -> None:
        for queue in self.queues.values():
            queue.listed, queue.concurrency, queue.paused = False, 0, False
        for name, (concurrency, paused) in record.queues.items():
            queue = self.queue_named(name)
            queue.listed, queue.concurrency, queue.paused = True, concurrency, paused
        for queue in [each for each in self.queues.values() if not each.listed]:
            self._drop_if_unused(queue)

    def _drop_if_unused(self, queue: NamedQueue) -> None:
        # Listing them looks at every queue, so deleted ones must not pile up.
        if not queue.listed and not queue.counts_of:
            del self.queues[queue.name]

    def _slots_changed(self, record: SlotsChanged) -> None:
        self.latest_at = max(self.latest_at, record.at)
        self.slots.set(record.slots, record.draining)
        self.slots.by_hand = record.by_hand

    def _daemon_started(self, record: DaemonStarted) -> None:
        self.epoch = record.epoch
        self.latest_at = max(self.latest_at, record.at)

    def _numbers_used(self, record: NumbersUsed) -> None:
        self.next_number = max(self.next_number, record.next_number)

    def _token_made(self, record: TokenMade) -> None:
        self.latest_at = max(self.latest_at, record.at)
        self.tokens.add(record)

    def _token_forgotten(self, record: TokenForgotten) -> None:
        self.latest_at = max(self.latest_at, record.at)
        self.tokens.remove(record)
