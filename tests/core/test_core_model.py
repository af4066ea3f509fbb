"""
The core against a naive model of it, with steps of all kinds in any order.

QUEUECTL_EXAMPLES is how many runs are made; QUEUECTL_SEED makes other runs than the usual ones.
"""

import os
from typing import Any

from conversation import Conversation
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from naive_model import Model, ModelJob

from queuectl.editing import Edit
from queuectl.protocol import Enqueue, JobSpec, Selection, StartWorkers, StopWorkers
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.core.views import worker_views

QUEUES = ("default", "a", "b")
GRACE_MS = 3_000
#: The accounts of system mode; in user mode there is one.
MEMBERS = tuple(Peer(1001 + n, user) for n, user in enumerate(("alice", "bob", "carol")))

picks = st.integers(0, 1_000_000)
small = st.integers(0, 3)


class Machine(RuleBasedStateMachine):
    """
    One conversation and one model, told the same.
    """

    @initialize(
        cpu_count=small,
        retention_s=st.sampled_from([5, 600]),
        keep=st.sampled_from([2, 99]),
        system=st.booleans(),
    )
    def begin(self, cpu_count: int, retention_s: int, keep: int, system: bool) -> None:
        self.peers = MEMBERS if system else (EVERYBODY,)
        self.talk = Conversation(workers=max(cpu_count, 1), replay_every=11)
        self.talk.set("kill_after", GRACE_MS)
        self.talk.set("retention", retention_s * 1000)
        self.talk.set("retention_count", keep)
        self.model = Model(self.talk.now, self.talk.cpu_count)
        self.model.user_queued_max = 100_000
        self.model.set_slots(set(range(1, self.talk.cpu_count + 1)))
        self.model.retention_ms, self.model.retention_count = retention_s * 1000, keep
        self.model.queues["default"] = (0, False)

    # --- requests ---------------------------------------------------------------------------

    @rule(
        queue=st.sampled_from(QUEUES),
        priority=st.integers(-1, 1),
        delay_ms=st.sampled_from([0, 0, 0, 1, 700, 5000]),
        hold=st.sampled_from([False, False, False, True]),
        max_retries=st.integers(0, 2),
        timeout_ms=st.sampled_from([None, 1000, 4000]),
        on_lost=st.sampled_from(["retry", "dead", "hold"]),
        grace_ms=st.sampled_from([None, 0, 500]),
        who=small,
    )
    def enqueue(self, **fields: Any) -> None:
        kill_after_ms, who = fields.pop("grace_ms"), fields.pop("who")
        self.make(self.peers[who % len(self.peers)], kill_after_ms, **fields)

    @rule(whose=st.lists(small, min_size=2, max_size=6), queue=st.sampled_from(QUEUES))
    def enqueue_many(self, whose: list[int], queue: str) -> None:
        plain = {"priority": 0, "delay_ms": 0, "hold": False, "max_retries": 0}
        for who in whose:
            peer = self.peers[who % len(self.peers)]
            self.make(peer, None, queue=queue, timeout_ms=None, on_lost="dead", **plain)

    def make(self, peer: Peer, kill_after_ms: int | None, **fields: Any) -> None:
        if not peer.admin:
            fields["priority"] = min(fields["priority"], 0)
        request = Enqueue(jobs=[JobSpec(command="x", kill_after_ms=kill_after_ms, **fields)])
        user = peer.user or None
        limit = self.model.user_queued_max
        crowded = user is not None and limit is not None and self.model.kept(user) >= limit
        if self.model.full or crowded:
            assert "try_later" == self.talk.request(request, peer).code
            return
        assert [str(self.model.next_number)] == self.talk.request(request, peer).ids
        due_at = self.model.now + fields["delay_ms"] if fields["delay_ms"] else 0
        state = "held" if fields["hold"] else "scheduled" if due_at else "pending"
        self.model.enqueue(
            ModelJob(
                number=self.model.next_number,
                queue=fields["queue"],
                priority=fields["priority"],
                state=state,
                updated_at=self.model.now,
                due_at=due_at,
                max_retries=fields["max_retries"],
                timeout_ms=fields["timeout_ms"] or 0,
                grace_ms=GRACE_MS if kill_after_ms is None else kill_after_ms,
                on_lost=fields["on_lost"],
                user=user,
            )
        )
        self.settle()

    @precondition(lambda self: self.model.jobs)
    @rule(
        verb=st.sampled_from(["cancel", "retry", "hold", "hold", "release", "purge", "prune"]),
        pick=picks,
    )
    def act(self, verb: Any, pick: int) -> None:
        numbers = sorted(self.model.jobs)
        number = numbers[pick % len(numbers)]
        acted = self.talk.try_to(verb, str(number))
        assert self.model.works(verb, number) == (acted.ids == [str(number)])
        assert bool(acted.ids) != bool(acted.errors)
        if acted.ids:
            self.model.act(verb, number)
        self.settle()

    @rule(verb=st.sampled_from(["cancel", "hold", "release"]), queue=st.sampled_from(QUEUES))
    def act_on_many(self, verb: Any, queue: str) -> None:
        meant = [
            number
            for number, job in sorted(self.model.jobs.items())
            if job.queue == queue and self.model.works(verb, number)
        ]
        assert [str(number) for number in meant] == self.talk.act(verb, queue=queue).ids
        for number in meant:
            self.model.act(verb, number)
        self.settle()

    @precondition(lambda self: self.model.jobs)
    @rule(priority=st.integers(-1, 2), pick=picks)
    def edit(self, priority: int, pick: int) -> None:
        numbers = sorted(self.model.jobs)
        number = numbers[pick % len(numbers)]
        select = Selection(ids=[str(number)])
        acted = self.talk.request(Edit(select=select, priority=priority))
        assert self.model.works("edit", number) == (acted.ids == [str(number)])
        if acted.ids:
            self.model.edit(number, priority)
        self.settle()

    @rule(queue=st.sampled_from(QUEUES), limit=small)
    def limit_queue(self, queue: str, limit: int) -> None:
        self.talk.set_queue(queue, concurrency=limit)
        self.model.queues[queue] = (limit, self.model.queues.get(queue, (0, False))[1])
        self.settle()

    @rule(pick=picks, paused=st.booleans())
    def pause_queue(self, pick: int, paused: bool) -> None:
        names = sorted(self.model.queues)
        name = names[pick % len(names)]
        self.talk.set_queue(name, paused=paused)
        self.model.queues[name] = (self.model.queues[name][0], paused)
        self.settle()

    @rule(weights=st.dictionaries(st.sampled_from(("alice", "bob")), st.sampled_from((1, 2, 3))))
    def weigh_users(self, weights: dict[str, int]) -> None:
        text = ",".join(f"{user}={weight}" for user, weight in weights.items())
        self.talk.set("user_weights", text or None)
        self.model.weights = {**weights}
        self.settle()

    @rule(running=st.sampled_from([None, 1, 2]), queued=st.sampled_from([None, 4, 10]))
    def limit_users(self, running: int | None, queued: int | None) -> None:
        self.talk.set("user_running_max", running)
        self.settle_with(user_running_max=running)
        self.talk.set("user_queued_max", queued)
        self.settle_with(user_queued_max=queued)

    def settle_with(self, **limits: int | None) -> None:
        for name, limit in limits.items():
            setattr(self.model, name, limit)
        self.settle()

    @rule(count=st.integers(1, 2))
    def add_workers(self, count: int) -> None:
        if len(self.model.slots) > 5:
            return
        added = self.talk.request(StartWorkers(count=count)).added
        free = [number for number in range(1, 20) if number not in self.model.slots]
        assert free[:count] == added
        self.model.set_slots((self.model.slots.keys() - self.model.draining) | set(added))
        self.settle()

    @rule(now=st.booleans())
    def stop_workers(self, now: bool) -> None:
        self.talk.request(StopWorkers(cancel_running=now))
        self.model.set_slots(set())
        for number in self.running() if now else []:
            if self.model.works("cancel", number):
                self.model.act("cancel", number)
        self.settle()

    @rule(count=small)
    def set_workers(self, count: int) -> None:
        self.talk.set("workers", count)
        self.model.set_slots(set(range(1, count + 1)))
        self.settle()

    # --- what runs do -----------------------------------------------------------------------

    def running(self) -> list[int]:
        return sorted(n for n, job in self.model.jobs.items() if job.state == "processing")

    @precondition(lambda self: self.running())
    @rule(
        end=st.sampled_from(["completed", "failed", "failed", "lost", "passing", "final"]),
        pick=picks,
    )
    def end_run(self, end: str, pick: int) -> None:
        number = self.running()[pick % len(self.running())]
        if end in ("passing", "final"):
            refusal = {end: True}
            self.talk.refuse_start(str(number), **refusal)
        else:
            code = {"completed": 0, "failed": 1}.get(end)
            self.talk.exit(str(number), code)
        self.model.end(number, end)
        self.settle()

    @rule(picks=st.lists(picks, max_size=6))
    def complete_many(self, picks: list[int]) -> None:
        for pick in picks:
            if self.running():
                self.end_run("completed", pick)

    @rule(ms=st.sampled_from([1, 500, 2000, 5000, 60_000]))
    def pass_time(self, ms: int) -> None:
        self.talk.advance(ms)
        self.model.advance(ms)

    # --- what hosts do ----------------------------------------------------------------------

    @rule(full=st.booleans())
    def fill_disk(self, full: bool) -> None:
        self.talk.storage(full=full)
        self.model.full = full
        self.settle()

    @precondition(lambda self: self.model.full or not self.model.runner or not self.model.slots)
    @rule()
    def mend(self) -> None:
        """
        Let nothing but the queue itself keep jobs from starting.
        """
        self.fill_disk(full=False)
        self.set_workers(3)
        self.find_runner(set(), None)

    @rule()
    def lose_runner(self) -> None:
        self.talk.runner_gone()
        self.model.runner = False
        self.settle()

    @rule(lost=st.sets(st.integers(0, 5)), restart=st.sampled_from([None, False, True]))
    def find_runner(self, lost: set[int], restart: bool | None) -> None:
        """
        Connect the runner, at first after a crash, with all records or a snapshot of them. It
        forgot some of the runs.
        """
        running = self.running()
        gone = [number for index, number in enumerate(running) if index in lost]
        known = [number for number in running if number not in gone]
        if restart is None:
            self.talk.runner_ready(known)
        else:
            self.talk.restart(snapshot=restart, known=known)
            self.model.begin_turns()
            self.model.full = False
        self.model.runner = True
        for number in gone:
            self.model.end(number, "lost")
        self.settle()

    @rule()
    def crash_before_starts_arrive(self) -> None:
        """
        The runner has none of the runs and knows that it has not: they are started, or end if they
        were to be stopped.
        """
        self.talk.restart(runner=False)
        self.talk.runner_ready(known=[], ledger_epoch=1)
        self.model.begin_turns()
        self.model.full, self.model.runner = False, True
        for number in self.running():
            if self.model.jobs[number].stop is not None:
                self.model.end(number, "failed")
        self.settle()

    # --- agreement --------------------------------------------------------------------------

    def settle(self) -> None:
        """
        What is due in this millisecond happens in it.
        """
        self.talk.advance(0)
        self.model.advance(0)

    @invariant()
    def agree(self) -> None:
        expected = {
            job.number: (
                job.state,
                job.queue,
                job.priority,
                job.attempts,
                job.attempt or None,
                job.updated_at,
                job.due_at or None if job.state in ("scheduled", "failed", "held") else None,
                job.slot or None,
                job.stop,
            )
            for job in self.model.jobs.values()
        }
        actual = {
            view.number: (
                view.state,
                view.queue,
                view.priority,
                view.attempts,
                view.attempt,
                view.updated_at,
                view.next_run_at,
                view.worker,
                view.stopping,
            )
            for view in map(self.talk.view, map(str, self.talk.queue.state.jobs))
        }
        assert expected == actual
        slots = {
            number: ("draining" if number in self.model.draining else "busy" if job else "idle")
            for number, job in self.model.slots.items()
        }
        assert slots == dict(self.talk.slots())
        jobs = {
            view.slot: int(view.job or 0) for view in worker_views(self.talk.queue, 0, EVERYBODY)
        }
        assert self.model.slots == jobs


environment_seed = os.environ.get("QUEUECTL_SEED")
if environment_seed is not None:
    Machine = seed(int(environment_seed))(Machine)  # type: ignore[misc]

TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=int(os.environ.get("QUEUECTL_EXAMPLES", "60")),
    stateful_step_count=50,
    derandomize=environment_seed is None,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
