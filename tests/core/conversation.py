"""
A conversation with the core: events go in, and after each one the whole queue is checked.

After every step
- validate() holds;
- every record survives its own bytes;
- a refusal recorded nothing;
- no attempt was handed out twice, unless the runner said that the first never reached it;
- replaying all records, and replaying what a snapshot keeps of them, gives the same picture, with
  a different random source.

Time stands still until advance().
"""

import random
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from queuectl import protocol
from queuectl.protocol import Act, Enqueue, Enqueued, JobSpec, Refused, Selection, Show
from queuectl.views import JobState, JobView, RunView
from queuectld.core import views
from queuectld.core.effects import Effect, Reply, SignalRun, StartRun
from queuectld.core.events import (
    ClockStepped,
    DaemonBegan,
    Event,
    Requested,
    RunExited,
    RunnerGone,
    RunnerReady,
    StartRefused,
    StorageChanged,
    TimerFired,
)
from queuectld.core.host import NOTHING, Host
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.core.queue import Queue
from queuectld.core.records import FORGET, Record, Stored, TokenMade, load, store

START_AT = 1_700_000_000_000
CLIENT = 7
# More timers than any conversation has at a time: one that does not go out would ring forever.
TURNS_MAX = 1_000


def kept_by_snapshot(stored: Iterable[Stored]) -> list[Stored]:
    """
    Return the records that a snapshot keeps: of each (key, part) the last, of a forgotten key none.
    """
    kept: dict[tuple[int, int], Stored] = {}
    for each in stored:
        if each.flags & FORGET:
            for part in [place for place in kept if place[0] == each.key]:
                del kept[part]
        else:
            kept.pop((each.key, each.part), None)
            kept[each.key, each.part] = each
    return list(kept.values())


def replayed(stored: Iterable[Stored], seed: int = 99) -> Queue:
    """
    Return a fresh queue to which the records were applied from their bytes.
    """
    queue = Queue(random=random.Random(seed).random)
    for each in stored:
        queue.apply(load(each.kind, each.body), each.body)
    return queue


class Picture(Struct):
    """
    All of a queue that can be seen, now or later.
    """

    jobs: list[Any]
    order: list[int]
    lines: dict[str, list[tuple[int, int]]]
    timers: list[tuple[int, int]]
    finished: list[tuple[int, int]]
    queues: list[Any]
    workers: list[Any]
    settings: list[Any]
    by_hand: bool
    environments: dict[int, dict[str, str]]
    tokens: list[TokenMade]
    next_number: int
    epoch: int


def picture(queue: Queue, now: int) -> Picture:
    """
    Look at everything.
    """
    state = queue.state
    return Picture(
        jobs=[views.detail(queue, job, EVERYBODY, 0) for job in state.oldest_first(0)],
        order=[job.number for job in state.newest_first()],
        lines={
            f"{owner}/{name}": sorted({e for e in line.ready.entries() if state.is_ready(*e)})
            for owner, share in state.shares.waiting.items()
            for name, line in share.lines.items()
        },
        timers=sorted(
            {(at, n) for at, n in state.timers.entries() if at > now and state.is_due(at, n)}
        ),
        finished=sorted({entry for entry in state.finished.entries() if state.is_finished(*entry)}),
        queues=[
            (views.queue_view(each), each.listed)
            for each in sorted(state.queues.values(), key=lambda each: each.name)
        ],
        workers=views.worker_views(queue, now, EVERYBODY),
        settings=views.setting_views(queue),
        by_hand=state.slots.by_hand,
        environments={env_id: state.env(env_id) for env_id in sorted(state.environments)},
        tokens=list(state.tokens),
        next_number=state.next_number,
        epoch=state.epoch,
    )


class Conversation:
    """
    A queue with a clock, all its records, and the effects of the last step.

    `replay_every` is how often, in steps, the replays are compared; 0: only when restarting.
    """

    def __init__(
        self, *, workers: int = 2, seed: int = 1, replay_every: int = 1, runner: bool = True
    ) -> None:
        self.now = START_AT
        self.cpu_count = workers
        self.seed = seed
        self.replay_every = replay_every
        self.stored: list[Stored] = []
        self.records: list[Record] = []
        self.effects: list[Effect] = []
        #: Every attempt that was handed to the runner, in order.
        self.started: list[tuple[int, int]] = []
        self._call = 0
        self._steps = 0
        self._begin(Queue(random=random.Random(seed).random), runner=runner)

    def _begin(self, queue: Queue, *, runner: bool) -> None:
        self.queue = queue
        began = DaemonBegan(queue.state.epoch + 1, "1.0", self.cpu_count)
        self.handle(began)
        if runner:
            self.runner_ready()

    # --- events -----------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Effect]:
        """
        Have one event decided, check everything, and return the effects.
        """
        self.records, self.effects = self.queue.handle(event, self.now)
        for record, each in zip(self.records, self.queue.stored, strict=True):
            assert store(record) == each
            assert record == load(each.kind, each.body)
            self.stored.append(each)
        for effect in self.effects:
            if isinstance(effect, StartRun):
                again = isinstance(event, RunnerReady)
                assert again or (effect.number, effect.attempt) not in self.started
                self.started.append((effect.number, effect.attempt))
            if isinstance(effect, Reply) and isinstance(effect.response, Refused):
                assert self.records == []
        self.queue.validate()
        self._steps += 1
        if self.replay_every and self._steps % self.replay_every == 0:
            self.check_replay()
        return self.effects

    def check_replay(self) -> None:
        """
        Compare the queue with one made of all records, and one made of a snapshot of them.
        """
        expected = picture(self.queue, self.now)
        for stored in (self.stored, kept_by_snapshot(self.stored)):
            twin = replayed(stored)
            twin.validate()
            self._tell_passing_facts(twin)
            actual = picture(twin, self.now)
            for field in Picture.__struct_fields__:
                assert getattr(expected, field) == getattr(actual, field), field

    def _tell_passing_facts(self, twin: Queue) -> None:
        # What is not recorded, because it can be seen again after a restart.
        twin.state.pids = self.queue.state.pids
        twin.state.configure(self.queue.state.configured, self.queue.state.configured_by)
        for name in ("cpu_count", "version", "runner_ready", "storage_full", "wall_offset_ms"):
            setattr(twin, name, getattr(self.queue, name))

    def restart(
        self, *, snapshot: bool = False, runner: bool = True, known: Iterable[int] | None = None
    ) -> list[Effect]:
        """
        Crash and come back from the records. The runner knows the running jobs *known*, or all.
        """
        stored = kept_by_snapshot(self.stored) if snapshot else self.stored
        self.seed += 1
        self._begin(replayed(stored, self.seed), runner=False)
        return self.runner_ready(known) if runner else self.effects

    def runner_ready(
        self,
        known: Iterable[int] | None = None,
        ledger_epoch: int = 0,
        unsent: frozenset[tuple[int, int]] = frozenset(),
    ) -> list[Effect]:
        """
        Connect the runner. It knows the running attempts of the jobs with the numbers *known*.
        """
        numbers = list(self.queue.state.members["processing"] if known is None else known)
        jobs = [self.queue.state.jobs[number] for number in numbers]
        runs = frozenset((job.number, job.attempt) for job in jobs)
        return self.handle(RunnerReady(runs, ledger_epoch, unsent))

    def runner_gone(self) -> None:
        """
        Lose the runner.
        """
        self.handle(RunnerGone())

    def exit(self, job_id: str, code: int | None = 0, signal: int | None = None) -> list[Effect]:
        """
        Have the running attempt of a job end. Neither code nor signal: nobody saw how.
        """
        job = self.job(job_id)
        return self.handle(RunExited(job.number, job.attempt, exit_code=code, signal=signal))

    def refuse_start(
        self, job_id: str, *, passing: bool = False, final: bool = False
    ) -> list[Effect]:
        """
        Have the runner say that it could not start the job.
        """
        job = self.job(job_id)
        return self.handle(StartRefused(job.number, job.attempt, "no luck", None, passing, final))

    def storage(self, *, full: bool) -> None:
        """
        Fill the disk, or make room.
        """
        self.handle(StorageChanged(full))

    def step_clock(self, offset_ms: int) -> list[Effect]:
        """
        Set the wall clock to this far ahead of the queue's time.
        """
        return self.handle(ClockStepped(offset_ms))

    def advance(self, ms: int) -> list[Effect]:
        """
        Let time pass, firing every timer at its time. Return the effects of all of them.
        """
        until = self.now + ms
        effects: list[Effect] = []
        turns_left = TURNS_MAX
        while (at := self.queue.next_deadline()) is not None and at <= until:
            assert turns_left, f"the timer at {at} fires again and again"
            turns_left -= 1
            self.now = max(self.now, at)
            effects += self.handle(TimerFired())
        self.now = until
        self.effects = effects
        return effects

    # --- requests ---------------------------------------------------------------------------

    def request(self, request: Any, peer: Peer = EVERYBODY, host: Host = NOTHING) -> Any:
        """
        Ask for something and return the effect or response that answers it.
        """
        self._call += 1
        self.handle(Requested(CLIENT, request, peer, host))
        answers = [effect for effect in self.effects if getattr(effect, "client", 0) == CLIENT]
        assert len(answers) == 1, answers
        answer = answers[0]
        return answer.response if isinstance(answer, Reply) else answer

    def enqueue(self, command: str | None = "true", **fields: Any) -> str:
        """
        Make one job and return its id.
        """
        if "argv" in fields or "script" in fields:
            command = None
        response = self.request(Enqueue(jobs=[JobSpec(command=command, **fields)]))
        assert isinstance(response, Enqueued), response
        (job_id,) = response.ids
        assert job_id is not None
        return job_id

    def refused(self, request: Any) -> Refused:
        """
        Ask for what must be refused.
        """
        response = self.request(request)
        assert isinstance(response, Refused), response
        assert "\n" not in response.message
        return response

    def act(self, action: protocol.Action, *ids: str, **filters: Any) -> protocol.Acted:
        """
        Do something to jobs, all of which must be able to take it.
        """
        acted = self.try_to(action, *ids, **filters)
        assert acted.errors == []
        return acted

    def try_to(self, action: protocol.Action, *ids: str, **filters: Any) -> protocol.Acted:
        """
        Do something to jobs.
        """
        older_than_ms = filters.pop("older_than_ms", None)
        select = Selection(ids=list(ids), **filters)
        acted = self.request(Act(action=action, select=select, older_than_ms=older_than_ms))
        assert isinstance(acted, protocol.Acted), acted
        return acted

    def set(self, key: str, value: Any = None, *, unset: bool = False) -> None:
        """
        Change a setting.
        """
        response = self.request(protocol.SetConfig(key=key, value=value, unset=unset))
        assert isinstance(response, protocol.Config), response

    def set_queue(self, name: str, **changes: Any) -> None:
        """
        Change a named queue.
        """
        response = self.request(protocol.SetQueue(name=name, **changes))
        assert isinstance(response, protocol.Queues), response

    # --- looking ----------------------------------------------------------------------------

    def job(self, job_id: str) -> Any:
        """
        Return the core's own job.
        """
        job = self.queue.state.find(job_id)
        assert job is not None, job_id
        return job

    def view(self, job_id: str) -> JobView:
        """
        Return a job as people see it.
        """
        return views.job_view(self.queue, self.job(job_id), EVERYBODY)

    def detail(self, job_id: str) -> protocol.JobDetail:
        """
        Return all about a job.
        """
        detail = self.request(Show(id=job_id))
        assert isinstance(detail, protocol.JobDetail), detail
        return detail

    def runs(self, job_id: str) -> list[RunView]:
        """
        Return a job's attempts.
        """
        return self.detail(job_id).runs

    def state(self, job_id: str) -> JobState:
        """
        Return a job's state.
        """
        return self.view(job_id).state

    def states(self, *ids: str) -> list[JobState]:
        """
        Return the states of jobs.
        """
        return [self.state(job_id) for job_id in ids]

    def processing(self) -> list[str]:
        """
        Return the ids of the running jobs, those that started first first.
        """
        state = self.queue.state
        return [state.spec(state.jobs[number]).id for number in state.members["processing"]]

    def signals(self) -> list[tuple[int, int]]:
        """
        Return (number, signal) of each signal that the last step sent.
        """
        return [
            (effect.number, effect.signal)
            for effect in self.effects
            if isinstance(effect, SignalRun)
        ]

    def slots(self) -> list[tuple[int, str]]:
        """
        Return (number, state) of each worker.
        """
        return [
            (view.slot, view.state) for view in views.worker_views(self.queue, self.now, EVERYBODY)
        ]
