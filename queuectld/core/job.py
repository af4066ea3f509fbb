"""
A job, its attempts, and the table of moves between states.

    scheduled --due--> pending --start--> processing --exit 0--> completed
                          ^                   |
                          |                   |-- retries left --> failed --due--> pending
                          |                   |-- none left -----> dead ----.
                          |                   `-- stopped -------> cancelled |
                          |______________________retry by hand_______________|

    held: from scheduled, pending and failed by hand, from processing by on_lost=hold; released to
    pending, or to scheduled when its time has not come. cancelled: from every unfinished state.

Cancelling a running job is not a state: it is a stop request with a deadline on the running
attempt. An attempt whose end nobody saw ends as "lost"; whether it counts is not a question, it
does, so that a job which kills its host ends in the dead letter queue.
"""

from collections import defaultdict

from msgspec import Struct

from queuectl.views import JOB_STATES, JobState, RunEnd

#: From each state, the states that a job may move to. Moving to the same state changes a due time
#: or a priority.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    "scheduled": frozenset({"scheduled", "pending", "held", "cancelled"}),
    "held": frozenset({"scheduled", "pending", "held", "cancelled"}),
    "pending": frozenset({"pending", "held", "processing", "cancelled"}),
    "processing": frozenset({"completed", "failed", "dead", "held", "cancelled"}),
    "failed": frozenset({"pending", "held", "failed", "cancelled"}),
    "completed": frozenset(),
    "dead": frozenset({"pending"}),
    "cancelled": frozenset({"pending"}),
}


def no_jobs() -> dict[JobState, int]:
    """
    Return a count of 0 for each state.
    """
    return dict.fromkeys(JOB_STATES, 0)


class NamedQueue:
    """
    A named queue: jobs with a limit of their own on running ones.
    """

    __slots__ = ("concurrency", "counts_of", "listed", "name", "paused", "running")

    def __init__(self, name: str) -> None:
        self.name = name
        self.concurrency = 0  # limit on running jobs; 0: none
        self.paused = False
        #: False after it was deleted, while finished jobs still name it.
        self.listed = False
        #: How many of its jobs are in each state, for each account that has some.
        self.counts_of: defaultdict[int | None, dict[JobState, int]] = defaultdict(no_jobs)
        #: How many of its jobs are processing.
        self.running = 0

    @property
    def counts(self) -> dict[JobState, int]:
        """
        How many of its jobs are in each state.
        """
        sums = no_jobs()
        for counts in self.counts_of.values():
            for state, count in counts.items():
                sums[state] += count
        return sums

    @property
    def may_start(self) -> bool:
        """
        Whether one more of its jobs may run.
        """
        return not self.paused and (self.concurrency == 0 or self.running < self.concurrency)


class Environment(Struct):
    """
    Variables that `jobs` jobs of one account share.
    """

    packed: bytes
    owner: int | None
    jobs: int = 0


class Made(Struct, gc=False):
    """
    Jobs that one request made: `count` of them, from this index in the request and this number on.
    """

    index: int
    number: int
    count: int


class Run(Struct):
    """
    One attempt. `ended_at` is 0 while it runs.
    """

    attempt: int
    slot: int
    epoch: int
    started_at: int
    ended_at: int = 0
    end: RunEnd | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    user_ms: int | None = None
    system_ms: int | None = None
    memory_max_bytes: int | None = None


class Stop(Struct):
    """
    A stop request on the running attempt.
    """

    why: RunEnd
    kill_at: int


class Job(Struct, gc=False):
    """
    What is held in memory for each job. A million of them wait in line, so what only starting and
    showing need stays encoded in `spec`. (gc=False: a job refers to no other job.)
    """

    number: int
    spec: bytes  # the body of its JobEnqueued record
    queue: NamedQueue
    state: JobState
    priority: int
    updated_at: int
    #: Scheduled and failed: when it is due. Processing: when its attempt times out or is killed.
    #: 0: waits for no time.
    due_at: int
    owner: int | None = None  # uid of its account; None in user mode
    attempts_before: int = 0
    runs: list[Run] | None = None
    stop: Stop | None = None
    why: str | None = None

    @property
    def attempt(self) -> int:
        """
        Ordinal of the last attempt; 0 before the first.
        """
        return self.runs[-1].attempt if self.runs else 0

    @property
    def attempts(self) -> int:
        """
        Attempts that count against max_retries.
        """
        return self.attempt - self.attempts_before
