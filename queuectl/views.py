"""
What people see: the words for states and ends, and the shapes in which answers describe things.

Views are read-only pictures of the daemon's state, made for one answer. They travel inside the
messages of protocol.py and evolve by its rules. What there is not is None. Words in answers (a
state, an end, a code) are typed as plain strings: a newer daemon may have more of them, and a
client that refused to read those could not list anything.
"""

from typing import Literal, get_args

from msgspec import Struct

JobState = Literal[
    "scheduled",  # due later
    "held",  # waits for `release`
    "pending",  # may start as soon as a slot is free
    "processing",  # an attempt runs
    "failed",  # waits for its next attempt
    "completed",  # exit code 0
    "dead",  # attempts used up: in the dead letter queue
    "cancelled",
]
JOB_STATES: tuple[JobState, ...] = get_args(JobState)
#: States that a job leaves only when somebody asks for it.
FINISHED_STATES: frozenset[JobState] = frozenset({"completed", "dead", "cancelled"})

OnLost = Literal["retry", "dead", "hold"]
ON_LOST: tuple[OnLost, ...] = get_args(OnLost)

#: Where a job's output goes: its file, or its file and the system's journal.
OutputTo = Literal["file", "journal"]
OUTPUTS: tuple[OutputTo, ...] = get_args(OutputTo)

#: How an attempt ended.
RunEnd = Literal["exited", "signalled", "timeout", "cancelled", "lost", "could_not_start"]

#: Why a request was refused. errors.py maps each to an exit code.
RefusalCode = Literal[
    "usage",  # a field breaks a rule
    "unsupported",  # an op or a protocol version that this daemon does not know
    "not_found",
    "conflict",  # wrong state, or a name that is taken
    "try_later",  # no room now: queue full, disk full, shutting down
    "denied",
    "storage",  # not confirmed stored; safe to repeat with the same request id
    "idle",  # the connection, not a request: nothing was said in time, nothing more was read
]

SettingValue = int | float | str | None


class JobView(Struct, frozen=True, kw_only=True):
    """
    A job as people see it. What there is not is None.
    """

    id: str
    number: int
    command: str  # for argv and scripts: as one would type it in a shell
    argv: list[str] | None = None
    state: str  # a JobState
    attempts: int  # made since it was enqueued or last retried by hand
    max_retries: int
    priority: int
    queue: str
    created_at: int
    updated_at: int
    run_at: int | None = None  # as asked for at enqueue
    next_run_at: int | None = None  # when it is due: scheduled and failed jobs
    started_at: int | None = None  # of the last attempt
    finished_at: int | None = None
    exit_code: int | None = None  # of the last attempt
    signal: int | None = None  # that ended the last attempt
    last_error: str | None = None
    worker: int | None = None  # slot of the running attempt
    pid: int | None = None
    attempt: int | None = None  # ordinal of the last attempt, over all retries
    timeout_ms: int | None = None
    kill_after_ms: int | None = None
    on_lost: str = "retry"
    cwd: str | None = None
    user: str | None = None  # whose it is; in user mode there is one account, and None
    enqueued_by: str | None = None  # the admin who enqueued it for that user
    output: str = "file"  # an OutputTo
    stopping: str | None = None  # "cancelled" or "timeout": a running attempt is being ended


class RunView(Struct, frozen=True, kw_only=True):
    """
    One attempt. `ended_at` is None while it runs.
    """

    attempt: int
    worker: int
    pid: int | None = None
    started_at: int
    ended_at: int | None = None
    end: str | None = None  # a RunEnd
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    user_ms: int | None = None
    system_ms: int | None = None
    memory_max_bytes: int | None = None


class JobError(Struct, frozen=True, kw_only=True):
    """
    Why one job of a request could not be made or changed.
    """

    code: str  # a RefusalCode
    message: str
    id: str | None = None
    index: int | None = None
    field: str | None = None


class ProcessView(Struct, frozen=True, kw_only=True):
    """
    One of queuectl's own processes.
    """

    pid: int
    version: str
    started_at: int
    uptime_ms: int


class JournalView(Struct, frozen=True, kw_only=True):
    """
    The journal's size and health. `state` is "ok" or "full" (disk full: no enqueue).
    """

    size_bytes: int
    segment_count: int
    durability: str
    state: str
    snapshot_at: int | None = None


class WorkerView(Struct, frozen=True, kw_only=True):
    """
    One slot: "idle", "busy" or "draining" (goes when its job ends).
    """

    slot: int
    state: str
    job: str | None = None
    command: str | None = None
    queue: str | None = None
    pid: int | None = None
    started_at: int  # of the slot
    uptime_ms: int
    job_started_at: int | None = None
    number: int | None = None  # of the job
    user: str | None = None  # whose job it is


class SettingView(Struct, frozen=True, kw_only=True):
    """
    A setting. `source` is "default", "file PATH", "environment NAME", "option NAME" or "set".
    `default` is what it is without any of those.
    """

    key: str
    value: SettingValue
    default: SettingValue
    source: str


class QueueView(Struct, frozen=True, kw_only=True):
    """
    A named queue. `concurrency` is None without a limit.
    """

    name: str
    concurrency: int | None
    paused: bool
    running: int
    jobs: dict[str, int]
