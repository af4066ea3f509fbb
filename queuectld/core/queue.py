"""
The whole queue as a value: events in, records and effects out.

Rules
1. No clock, file, socket, process or log: `now` is an argument, randomness is injected.
2. State changes only through record(), which is State.apply() behind the table of moves.
3. The caller syncs the records before it performs any of the effects.

Theory of operation. Whatever happens (a request, an exit, a deadline) first changes the state of
the jobs it concerns and then fills the slots: while a slot is idle and the runner is there, the
pending job whose turn it is (shares.py) is recorded as started and handed out as StartRun.
A run ends by RunExited or StartRefused, or is found to be lost when the runner, after a new
connection, does not know it. Timeouts and cancellations are a StopRequested with a deadline; the
end of the run then says what it was.
"""

import signal
from collections.abc import Callable, Iterable
from typing import Any

from queuectl.views import JobState, RunEnd
from queuectld.core import requests, token_requests
from queuectld.core.effects import AckExit, DeleteOutput, Effect, Reply, SignalRun, TellForgotten
from queuectld.core.ending import describe_end, end_of, ended
from queuectld.core.events import (
    ClockStepped,
    Configured,
    DaemonBegan,
    Event,
    Requested,
    RunExited,
    RunnerGone,
    RunnerReady,
    RunSpawned,
    StartRefused,
    StorageChanged,
    TimerFired,
)
from queuectld.core.host import NOTHING
from queuectld.core.invariants import validate
from queuectld.core.job import TRANSITIONS, Job
from queuectld.core.peer import EVERYBODY
from queuectld.core.records import (
    ATTEMPTS_MAX,
    DaemonStarted,
    EnvironmentForgotten,
    JobForgotten,
    JobMoved,
    NumbersUsed,
    Record,
    RunEnded,
    RunStarted,
    SlotsChanged,
    StopRequested,
    Stored,
    store,
)
from queuectld.core.refusal import Refusal
from queuectld.core.retention import next_expiry, take_expired
from queuectld.core.retry import backoff_ms
from queuectld.core.starting import start_run
from queuectld.core.state import State
from queuectld.core.tallies import Tallies
from queuectld.core.timers import earliest

# Timers handled in one turn: 100,000 jobs due at once must not stall requests. The next turn
# follows at once.
DUE_JOBS_MAX = 1_000
# Jobs that follow the wall clock in one turn: all of a turn's records are one batch of the journal.
FOLLOW_JOBS_MAX = 10_000
# The wait after the runner could not start anything for want of memory, processes or disk.
START_AGAIN_MS = 5_000
# Records that move a job which was there before.
_MOVES = frozenset({JobMoved, RunStarted, RunEnded})


class Queue:
    """
    Decides what each event means. `state` is all it knows; `durable` is told to clients.
    """

    def __init__(self, *, random: Callable[[], float], durable: bool = True) -> None:
        self.state = State()
        self.tallies = Tallies()
        self.durable = durable
        self.cpu_count = 1
        self.version = ""
        #: Whether runs can be started: false until the runner told what it knows.
        self.runner_ready = False
        self.storage_full = False
        #: How far the wall clock is ahead of `now`.
        self.wall_offset_ms = 0
        #: Jobs to look at since the wall clock was set. No timer fires before that.
        self._to_follow: list[int] = []
        #: Who sent the request that is being answered, or was the last.
        self.peer = EVERYBODY
        #: What was looked up for it.
        self.host = NOTHING
        self._random = random
        #: The records that handle() returned last, as the journal takes them.
        self.stored: list[Stored] = []
        self._records: list[Record] = []
        self._effects: list[Effect] = []
        self._handlers: dict[type[Event], Callable[[Any, int], None]] = {
            Configured: self._configured,
            DaemonBegan: self._daemon_began,
            Requested: self._requested,
            RunSpawned: self._run_spawned,
            RunExited: self._run_exited,
            StartRefused: self._start_refused,
            RunnerReady: self._runner_ready,
            RunnerGone: self._runner_gone,
            TimerFired: self._timer_fired,
            ClockStepped: self._clock_stepped,
            StorageChanged: self._storage_changed,
        }

    # --- the three entrances ----------------------------------------------------------------

    def handle(self, event: Event, now: int) -> tuple[list[Record], list[Effect]]:
        """
        Decide what *event* means at *now* (ms since the epoch, never decreasing).

        State is already changed when this returns, but only through apply(). The caller must sync
        the records before performing any of the effects.
        """
        self._records, self._effects, self.stored = [], [], []
        if now >= self.tallies.minute_ends_at:
            self.tallies.end_minutes(self.state, now)
        self._handlers[type(event)](event, now)
        self._fill_slots(now)
        return self._records, self._effects

    def apply(self, record: Record, body: bytes) -> None:
        """
        Change state by one durable fact, *body* in the journal: replay.
        """
        self.state.apply(record, body)

    def next_deadline(self) -> int | None:
        """
        When to call handle(TimerFired(), now) if nothing else happens first; ms since the epoch.
        """
        if self._to_follow:
            return 0
        due = self.state.timers.head(self.state.is_due)
        due_at = None if due is None else due[0]
        return earliest(due_at, next_expiry(self.state), self.state.tokens.next_expiry())

    def validate(self) -> None:
        """
        Assert every invariant. Tests call it after each step.
        """
        validate(self.state)

    # --- remembering and doing, used by requests.py too -------------------------------------

    def record(self, record: Record, stored: Stored | None = None) -> None:
        """
        Remember a fact. A move that the table of moves does not have is a bug.

        Each is encoded once: here, unless the caller did and gives it as *stored*.
        """
        if type(record) in _MOVES:
            self._check_move(record)
        if stored is None:
            stored = store(record)
        self.state.apply(record, stored.body)
        self._records.append(record)
        self.stored.append(stored)

    def _check_move(self, record: Any) -> None:
        job = self.state.jobs[record.number]
        target = "processing" if isinstance(record, RunStarted) else record.state
        assert target in TRANSITIONS[job.state], (job.number, job.state, target, job.runs)

    def do(self, effect: Effect) -> None:
        """
        Have something done once all records so far are synced.
        """
        self._effects.append(effect)

    def move(
        self,
        job: Job,
        state: JobState,
        now: int,
        *,
        due_at: int = 0,
        priority: int | None = None,
        attempts_before: int | None = None,
        why: str | None = None,
    ) -> None:
        """
        Move a job that does not run.
        """
        priority = job.priority if priority is None else priority
        if attempts_before is None:
            attempts_before = job.attempts_before
        if state == "cancelled":
            self.tallies.cancelled(job)
        self.record(JobMoved(job.number, now, state, due_at, priority, attempts_before, why))

    def stop(self, job: Job, why: RunEnd, now: int) -> None:
        """
        Ask a running attempt to end: SIGTERM now, SIGKILL after the job's grace time.
        """
        assert job.state == "processing", (job.number, job.state)
        grace_ms = self.state.spec(job).kill_after_ms
        if grace_ms is None:
            grace_ms = self.state.setting("kill_after")
        kill_at = now + grace_ms
        if job.stop is not None:
            # Cancelled while it is timing out: that must not give it more time.
            kill_at = min(kill_at, job.stop.kill_at)
        self.record(StopRequested(job.number, now, job.attempt, why, kill_at))
        first = signal.SIGTERM if grace_ms else signal.SIGKILL
        self.do(SignalRun(job.number, job.attempt, first))

    def set_slots(self, numbers: Iterable[int], now: int, *, by_hand: bool) -> None:
        """
        Make *numbers* the slots that take jobs. Busy ones that are not among them drain.
        """
        slots = self.state.slots.by_number
        taking = {n: slots[n].since_at if n in slots else now for n in numbers}
        draining = {
            slot.number: slot.since_at
            for slot in slots.values()
            if slot.job and slot.number not in taking
        }
        self.record(SlotsChanged(now, taking, draining, by_hand))

    def forget(self, jobs: list[Job]) -> None:
        """
        Drop finished jobs from the history, with their output and the environments they leave.
        """
        if not jobs:
            return
        # A number is never given twice, even when its job is gone from the journal.
        self.record(NumbersUsed(self.state.next_number))
        for job in jobs:
            env_id = self.state.spec(job).env_id
            attempts = [run.attempt for run in job.runs or ()]
            self.tallies.forgotten(job)
            self.record(JobForgotten(job.number))
            if attempts:
                self.do(DeleteOutput(job.number, attempts))
            if not self.state.environments[env_id].jobs:
                self.record(EnvironmentForgotten(env_id))
        self.do(TellForgotten(jobs))

    def max_retries(self, job: Job) -> int:
        """
        Return how many retries the job has, by its own word or the setting.
        """
        own = self.state.spec(job).max_retries
        return int(self.state.setting("max_retries")) if own is None else own

    def workers_setting(self) -> int:
        """
        Return how many slots the setting `workers` asks for.
        """
        workers = self.state.setting("workers")
        return self.cpu_count if workers is None else int(workers)

    # --- starting ---------------------------------------------------------------------------

    def _fill_slots(self, now: int) -> None:
        if not self.runner_ready or self.storage_full:
            return
        while (slot := self.state.slots.first_idle()) is not None:
            job = self.state.take_pending()
            if job is None:
                return
            self._start(job, slot, now)

    def _start(self, job: Job, slot: int, now: int) -> None:
        spec = self.state.spec(job)
        timeout_ms = spec.timeout_ms or self.state.setting("job_timeout")
        due_at = now + timeout_ms if timeout_ms else 0
        attempt = job.attempt + 1
        self.tallies.started(job, now)
        self.record(RunStarted(job.number, now, attempt, slot, self.state.epoch, due_at))
        self.do(start_run(self.state, job, spec))

    # --- ending -----------------------------------------------------------------------------

    def _running(self, number: int, attempt: int) -> Job | None:
        """
        Return the job if this very attempt of it runs.
        """
        job = self.state.jobs.get(number)
        if job is None or job.state != "processing" or job.attempt != attempt:
            return None
        return job

    def _run_spawned(self, event: RunSpawned, now: int) -> None:
        if self._running(event.number, event.attempt):
            self.state.pids[event.number] = event.pid

    def _run_exited(self, event: RunExited, now: int) -> None:
        self.do(AckExit(event.number, event.attempt))
        job = self._running(event.number, event.attempt)
        if job is None:
            return  # Recorded before, but the runner had not heard so.
        self._end_run(job, end_of(job.stop, event), now, event)

    def _start_refused(self, event: StartRefused, now: int) -> None:
        job = self._running(event.number, event.attempt)
        if job is None:
            return
        exited = RunExited(event.number, event.attempt, exit_code=event.exit_code)
        if job.stop is not None:
            self._end_run(job, job.stop.why, now, exited)
        else:
            self._end_run(job, "could_not_start", now, exited, event)

    def _end_run(
        self,
        job: Job,
        end: RunEnd,
        now: int,
        event: RunExited,
        refused: StartRefused | None = None,
    ) -> None:
        """
        Record how the running attempt ended, or that it was not started, and what becomes of its
        job.
        """
        assert job.runs
        run = job.runs[-1]
        counts = refused is None or not refused.passing
        state: JobState = "dead"
        due_at = 0
        if refused is None or not (refused.passing or refused.final):
            state, due_at = self._state_after(job, end, event.exit_code, now)
        elif refused.passing and job.attempt < ATTEMPTS_MAX:
            state, due_at = "failed", now + START_AGAIN_MS
        error = refused.error if refused else describe_end(end, event, now - run.started_at)
        self.tallies.ended(job, end, state, now - run.started_at)
        outcome = (state, due_at, job.attempts_before + (not counts))
        self.record(ended(job.number, run, now, end, outcome, event, error))

    def _state_after(
        self, job: Job, end: RunEnd, exit_code: int | None, now: int
    ) -> tuple[JobState, int]:
        """
        Return the state of a job whose attempt ended like this, and when it is due again.
        """
        if end == "cancelled":
            return "cancelled", 0
        if end == "exited" and exit_code == 0:
            return "completed", 0
        if job.attempt >= ATTEMPTS_MAX:
            return "dead", 0
        if end == "lost":
            policy = self.state.spec(job).on_lost or self.state.setting("on_lost")
            if policy == "dead":
                return "dead", 0
            if policy == "hold":
                return "held", 0
        if job.attempts > self.max_retries(job):
            return "dead", 0
        wait_ms = backoff_ms(
            job.attempts,
            self.state.setting("backoff_base"),
            self.state.setting("backoff_max"),
            self.state.setting("backoff_jitter"),
            self._random,
        )
        return "failed", now + max(wait_ms, 1)

    # --- the runner, the clock, the disk ----------------------------------------------------

    def _daemon_began(self, event: DaemonBegan, now: int) -> None:
        self.cpu_count, self.version = event.cpu_count, event.version
        self.record(DaemonStarted(now, event.epoch, event.version))
        self._follow_workers_setting(now)
        self._clock_stepped(ClockStepped(0), now)

    def _configured(self, event: Configured, now: int) -> None:
        self.state.configure(event.values, event.sources)
        if self.version:  # Before DaemonBegan the number of CPUs is not known.
            self._follow_workers_setting(now)

    def _follow_workers_setting(self, now: int) -> None:
        slots = self.state.slots
        wanted = list(range(1, self.workers_setting() + 1))
        if not slots.by_hand and slots.numbers() != wanted:
            self.set_slots(wanted, now, by_hand=False)

    def _runner_ready(self, event: RunnerReady, now: int) -> None:
        """
        Compare what the journal and the runner know of each running attempt.

        Known to the runner: it goes on, or its exit is on its way. Unknown, though the runner
        remembers every start since before it: it never got there, so it is started now, unless it
        was to be stopped. Unknown otherwise: nobody saw its end.
        """
        self.runner_ready = True
        for number in list(self.state.members["processing"]):
            job = self.state.jobs[number]
            assert job.runs
            run = job.runs[-1]
            key = (number, run.attempt)
            if key in event.known:
                if job.stop is not None:
                    late = now >= job.stop.kill_at
                    again = signal.SIGKILL if late else signal.SIGTERM
                    self.do(SignalRun(number, run.attempt, again))
            elif key not in event.unsent and not 0 < event.ledger_epoch <= run.epoch:
                unseen = RunExited(number, run.attempt)
                self._end_run(job, end_of(job.stop, unseen), now, unseen)
            elif job.stop is not None:
                self._end_run(job, job.stop.why, now, RunExited(number, run.attempt))
            else:
                self.do(start_run(self.state, job, self.state.spec(job)))

    def _runner_gone(self, event: RunnerGone, now: int) -> None:
        self.runner_ready = False
        self.state.pids.clear()

    def _clock_stepped(self, event: ClockStepped, now: int) -> None:
        """
        Jobs asked for by wall clock follow the wall clock; delays, backoff and timeouts do not.
        """
        self.wall_offset_ms = event.offset_ms
        members = self.state.members
        self._to_follow = [*members["scheduled"], *members["held"]]
        self._follow_clock(now)

    def _follow_clock(self, now: int) -> None:
        numbers = self._to_follow[-FOLLOW_JOBS_MAX:]
        del self._to_follow[-FOLLOW_JOBS_MAX:]
        for number in numbers:
            job = self.state.jobs.get(number)
            # One that made an attempt, and one that was retried by hand, has its run_at behind it.
            if job is None or not job.due_at or job.state not in ("scheduled", "held"):
                continue
            run_at = self.state.spec(job).run_at
            if run_at is None or job.attempt:
                continue
            due_at = max(run_at - self.wall_offset_ms, 1)
            if job.due_at != due_at:
                self.move(job, job.state, now, due_at=due_at, why=job.why)

    def _storage_changed(self, event: StorageChanged, now: int) -> None:
        self.storage_full = event.full

    # --- deadlines --------------------------------------------------------------------------

    def _timer_fired(self, event: TimerFired, now: int) -> None:
        self._follow_clock(now)
        if self._to_follow:
            return
        timers = self.state.timers
        for _ in range(DUE_JOBS_MAX):
            head = timers.head(self.state.is_due)
            if head is None or head[0] > now:
                break
            timers.pop()
            job = self.state.jobs[head[1]]
            if job.state in ("scheduled", "failed"):
                self.move(job, "pending", now)
            elif job.stop is None:
                assert job.state == "processing"
                self.stop(job, "timeout", now)
            else:
                self.do(SignalRun(job.number, job.attempt, signal.SIGKILL))
        self.forget(take_expired(self.state, now, DUE_JOBS_MAX))
        token_requests.expire(self, now)

    # --- requests ---------------------------------------------------------------------------

    def _requested(self, event: Requested, now: int) -> None:
        self.peer, self.host = event.peer, event.host
        try:
            requests.answer(self, event.client, event.request, now)
        except Refusal as refusal:
            self.do(Reply(event.client, requests.refused(event.request.call, refusal)))
