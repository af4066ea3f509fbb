"""
The queue as one would write it without a care for speed: dictionaries, and a search for everything.

The core must agree with it after every step. It shares no line with the core.
"""

from dataclasses import dataclass, field
from fractions import Fraction

START_AGAIN_MS = 5_000
TIMED = ("scheduled", "failed", "processing")
FINISHED = ("completed", "dead", "cancelled")
#: From which states a verb works.
WORKS: dict[str, tuple[str, ...]] = {
    "cancel": ("scheduled", "held", "pending", "processing", "failed"),
    "retry": ("failed", "dead", "cancelled"),
    "hold": ("scheduled", "pending", "failed"),
    "release": ("held",),
    "edit": ("scheduled", "pending", "failed", "held"),
    "purge": ("dead",),
    "prune": FINISHED,
}


@dataclass
class ModelJob:
    """
    One job. `due_at` is 0 if it waits for no time.
    """

    number: int
    queue: str
    priority: int
    state: str
    updated_at: int
    due_at: int
    max_retries: int
    timeout_ms: int
    grace_ms: int
    on_lost: str
    user: str | None = None  # None in user mode
    attempt: int = 0  # over all
    attempts: int = 0  # that count
    slot: int = 0
    stop: str | None = None


@dataclass
class Model:
    """
    The whole queue.
    """

    now: int
    cpu_count: int
    jobs: dict[int, ModelJob] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)  # number -> job, 0 if idle
    draining: set[int] = field(default_factory=set)
    queues: dict[str, tuple[int, bool]] = field(default_factory=dict)  # limit, paused
    runner: bool = True
    full: bool = False
    retention_ms: int = 0
    retention_count: int = 0
    next_number: int = 1
    #: When SIGKILL was due for a job that still runs.
    killed_at: dict[int, int] = field(default_factory=dict)
    weights: dict[str | None, int] = field(default_factory=dict)
    user_running_max: int | None = None
    user_queued_max: int | None = None
    #: The users of the jobs that were started, in order, since the daemon began.
    served: list[str | None] = field(default_factory=list)
    turns: dict[str | None, Fraction] = field(default_factory=dict)
    turn: Fraction = Fraction(0)

    # --- what happens -----------------------------------------------------------------------

    def enqueue(self, job: ModelJob) -> None:
        """
        Make a job.
        """
        self.jobs[job.number] = job
        self.next_number = job.number + 1
        self.queues.setdefault(job.queue, (0, False))

    def works(self, verb: str, number: int) -> bool:
        """
        Whether a verb works on a job now.
        """
        job = self.jobs[number]
        again = verb == "cancel" and job.stop == "cancelled"
        return job.state in WORKS[verb] and not again

    def act(self, verb: str, number: int) -> None:
        """
        Do something to a job on which it works.
        """
        job = self.jobs[number]
        if verb in ("purge", "prune"):
            del self.jobs[number]
        elif verb == "cancel":
            if job.state == "processing":
                self.stop(job, "cancelled")
            else:
                self.move(job, "cancelled")
        elif verb == "retry":
            job.attempts = 0
            self.move(job, "pending")
        elif verb == "hold":
            self.move(job, "held", job.due_at)
        elif job.due_at > self.now:
            self.move(job, "scheduled", job.due_at)
        else:
            self.move(job, "pending")

    def edit(self, number: int, priority: int) -> None:
        """
        Give a job on which that works another priority.
        """
        job = self.jobs[number]
        if job.priority != priority:
            job.priority = priority
            self.move(job, job.state, job.due_at)

    def stop(self, job: ModelJob, why: str) -> None:
        """
        Ask a running job to end; never later than it was asked before.
        """
        kill_at = self.now + job.grace_ms
        job.due_at = kill_at if job.stop is None else min(kill_at, self._kill_at(job))
        job.stop = why
        job.updated_at = self.now
        self.killed_at.pop(job.number, None)

    def _kill_at(self, job: ModelJob) -> int:
        return job.due_at or self.killed_at[job.number]

    def move(self, job: ModelJob, state: str, due_at: int = 0) -> None:
        """
        Put a job into a state.
        """
        job.state, job.due_at, job.updated_at = state, due_at, self.now

    def end(self, number: int, end: str) -> None:
        """
        End a running job: "completed", "failed", "lost", "passing" (refused, does not count),
        "final" (refused for good).
        """
        job = self.jobs[number]
        if job.slot in self.draining:
            self.draining.discard(job.slot)
            del self.slots[job.slot]
        else:
            self.slots[job.slot] = 0
        stop, job.stop, job.slot = job.stop, None, 0
        self.killed_at.pop(number, None)
        if stop == "cancelled":
            self.move(job, "cancelled")
        elif end == "passing" and stop is None:
            job.attempts -= 1
            self.move(job, "failed", self.now + START_AGAIN_MS)
        elif end == "completed" and stop is None:
            self.move(job, "completed")
        elif end == "final" and stop is None:
            self.move(job, "dead")
        elif end == "lost" and job.on_lost != "retry":
            self.move(job, "dead" if job.on_lost == "dead" else "held")
        elif job.attempts > job.max_retries:
            self.move(job, "dead")
        else:
            self.move(job, "failed", self.now + 1000 * min(2**job.attempts, 3600))

    def set_slots(self, numbers: set[int]) -> None:
        """
        Make these the slots that take jobs.
        """
        for number in self.slots.keys() - numbers:
            if self.slots[number]:
                self.draining.add(number)
            else:
                del self.slots[number]
        for number in numbers:
            self.slots.setdefault(number, 0)
        self.draining -= numbers

    # --- what follows -----------------------------------------------------------------------

    def fill(self) -> None:
        """
        Start what can be started.
        """
        while self.runner and not self.full:
            idle = [n for n, job in self.slots.items() if not job and n not in self.draining]
            line = [job for job in self.jobs.values() if job.state == "pending"]
            line = [job for job in line if self._queue_starts(job.queue)]
            line = [job for job in line if self._user_starts(job.user)]
            if not idle or not line:
                return
            first = max(job.priority for job in line)
            line = [job for job in line if job.priority == first]
            user = self._next_user(line)
            job = min((job for job in line if job.user == user), key=lambda job: job.number)
            job.attempt += 1
            job.attempts += 1
            job.slot = min(idle)
            self.slots[job.slot] = job.number
            self.move(job, "processing", self.now + job.timeout_ms if job.timeout_ms else 0)

    def _queue_starts(self, name: str) -> bool:
        limit, paused = self.queues[name]
        running = sum(j.queue == name and j.state == "processing" for j in self.jobs.values())
        return not paused and (not limit or running < limit)

    def running(self, user: str | None) -> int:
        """
        How many jobs of a user run.
        """
        return sum(j.user == user and j.state == "processing" for j in self.jobs.values())

    def _user_starts(self, user: str | None) -> bool:
        limit = self.user_running_max
        return user is None or limit is None or self.running(user) < limit

    def _next_user(self, line: list[ModelJob]) -> str | None:
        """
        Of those with a job in this line, nobody starts one who has as much already as another would
        have with one more. Of the others, it is who has the earliest turn, then who was served
        longest ago.
        """
        oldest = {job.user: job.number for job in sorted(line, key=lambda job: -job.number)}
        have = {user: Fraction(self.running(user), self.weight(user)) for user in oldest}
        more = {user: Fraction(self.running(user) + 1, self.weight(user)) for user in oldest}
        turns = {user: max(self.turns.get(user, self.turn), self.turn) for user in oldest}
        left = [user for user in oldest if have[user] < min(more.values())]
        user = min(left, key=lambda user: (turns[user], self._served_at(user), oldest[user]))
        self.turn = max(min(turns.values()), turns[user] - 1)
        self.turns[user] = turns[user] + Fraction(1, self.weight(user))
        self.served.append(user)
        return user

    def weight(self, user: str | None) -> int:
        """
        Return a user's weight.
        """
        return self.weights.get(user, 1)

    def _served_at(self, user: str | None) -> int:
        return max((at for at, each in enumerate(self.served) if each == user), default=-1)

    def begin_turns(self) -> None:
        """
        A daemon begins: nobody had a turn.
        """
        self.turns, self.turn, self.served = {}, Fraction(0), []

    def kept(self, user: str | None) -> int:
        """
        How many jobs of a user count for its limit.
        """
        return sum(
            job.user == user and job.state not in ("completed", "cancelled")
            for job in self.jobs.values()
        )

    def advance(self, ms: int) -> None:
        """
        Let time pass, from one thing that is due to the next.
        """
        until = self.now + ms
        self.fill()
        while (at := self._next_at()) is not None and at <= until:
            self.now = max(self.now, at)
            self._fire()
            self._expire()
            self.fill()
        self.now = until

    def _due(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state in TIMED and job.due_at]

    def _kept(self) -> list[ModelJob]:
        kept = [job for job in self.jobs.values() if job.state in ("completed", "cancelled")]
        return sorted(kept, key=lambda job: (job.updated_at, job.number))

    def _next_at(self) -> int | None:
        times = [job.due_at for job in self._due()]
        kept = self._kept()
        if len(kept) > self.retention_count:
            return 0
        times += [job.updated_at + self.retention_ms for job in kept[:1]]
        return min(times, default=None)

    def _fire(self) -> None:
        while ready := [job for job in self._due() if job.due_at <= self.now]:
            for job in ready:
                if job.state != "processing":
                    self.move(job, "pending")
                elif job.stop is None:
                    self.stop(job, "timeout")
                else:
                    self.killed_at[job.number], job.due_at = job.due_at, 0

    def _expire(self) -> None:
        kept = self._kept()
        excess = len(kept) - self.retention_count
        for index, job in enumerate(kept):
            if index < excess or job.updated_at <= self.now - self.retention_ms:
                del self.jobs[job.number]
