"""
The JSON of the API as types: what bodies may hold and what answers hold.

The OpenAPI document is made of these. Answers are the documents of queuectl/documents.py, which
`--json` prints; here is only said what is in them, and tests compare both. New keys may come; those
here stay.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from queuectl.protocol import (
    BATCH_JOBS_MAX,
    ID_CHARS_MAX,
    PRIORITY_MAX,
    RETRIES_MAX,
    SELECT_JOBS_MAX,
    WORKERS_MAX,
    Action,
)
from queuectl.views import JobState, OnLost, OutputTo, RunEnd, SettingValue

Time = Annotated[
    str,
    Meta(
        description="RFC 3339 in UTC, with milliseconds.",
        examples=["2030-01-31T10:00:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Seconds = Annotated[int | float, Meta(description="A number of seconds.", examples=[1.5])]
Id = Annotated[str, Meta(description="A job's id.", examples=["17"])]

# --- what requests hold -------------------------------------------------------------------------

Duration = Annotated[
    Annotated[float, Meta(ge=0, le=316_224_000)] | Annotated[str, Meta(examples=["90s"])],
    Meta(description="Seconds, or a text such as 90s, 15m or 1h30m.", examples=[90, "1h30m"]),
]
#: What is a command or an argument: at least one character, and none that execve(2) cannot take.
Text = Annotated[str, Meta(min_length=1, pattern="^[^\\x00]*[^\\x00\\s][^\\x00]*$")]
Name = Annotated[
    str, Meta(min_length=1, max_length=ID_CHARS_MAX, pattern="^[A-Za-z0-9_:@+][A-Za-z0-9_.:@+-]*$")
]
Priority = Annotated[
    Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] | Literal["high", "medium", "low"],
    Meta(description="Larger runs sooner; above 0 is for admins.", examples=[0, "high"]),
]


class JobFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    A job to be made: the fields that `queuectl enqueue` takes as JSON. One of command and argv says
    what runs. What is left out or null follows the settings.
    """

    command: Text | None = None
    argv: Annotated[list[str], Meta(min_length=1)] | None = None
    id: Name | None = None
    queue: Name | None = None
    priority: Priority | None = None
    max_retries: Annotated[int, Meta(ge=0, le=RETRIES_MAX)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=RETRIES_MAX + 1)] | None = None
    max_tries: Annotated[int, Meta(ge=1, le=RETRIES_MAX + 1)] | None = None
    run_at: str | None = None
    scheduled_at: str | None = None
    delay: Duration | None = None
    timeout: Duration | None = None
    kill_after: Duration | None = None
    cwd: Annotated[str, Meta(pattern="^(/|~/|~$)")] | None = None
    env: dict[str, str] | None = None
    on_lost: OnLost | None = None
    hold: bool | None = None
    user: str | None = None
    output: OutputTo | None = None


Batch = Annotated[list[JobFields], Meta(min_length=1, max_length=BATCH_JOBS_MAX)]


class Select(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    Which jobs: ids, or filters. An id is a job's id, a number, a range (1-3) or `last`.
    """

    ids: Annotated[list[Text], Meta(max_length=SELECT_JOBS_MAX)] = []
    states: list[JobState] = []
    queue: str | None = None
    all: bool = False
    after: Annotated[int, Meta(ge=0, le=1 << 53)] = 0


class ActionFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    One thing to be done to many jobs. `older_than` counts from when they last changed.
    """

    action: Action | Literal["edit"]
    select: Select
    older_than: Duration | None = None
    priority: Priority | None = None


class EditFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """
    What is to be different in a job that has not started.
    """

    priority: Priority


class DeadFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    Which dead jobs: these, or all. `after` is the `more` of the answer before.
    """

    ids: Annotated[list[Text], Meta(max_length=SELECT_JOBS_MAX)] = []
    all: bool = False
    after: Annotated[int, Meta(ge=0, le=1 << 53)] = 0


class WaitFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    The jobs to be waited for; with `any`, until one of them has finished.
    """

    ids: Annotated[list[Text], Meta(min_length=1, max_length=SELECT_JOBS_MAX)]
    any: bool = False
    timeout: Duration | None = None


class StartFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    How many workers to add: without a count one, or the setting `workers` when there are none.
    """

    count: Annotated[int, Meta(ge=1, le=WORKERS_MAX)] | None = None


class StopFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    Whether the running jobs are cancelled too.
    """

    now: bool = False


class QueueFields(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    What is to be different in a queue; `concurrency` null lifts the limit.
    """

    concurrency: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


class SettingFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """
    A setting's value: as answers have it, or as text such as 90s or 256M.
    """

    value: SettingValue


# --- what answers hold --------------------------------------------------------------------------


class Job(Struct, kw_only=True):
    """
    What is known of a job, without its history.
    """

    id: Id
    number: Annotated[int, Meta(examples=[17])]
    command: Annotated[str, Meta(examples=["make -C /srv/site"])]
    argv: list[str] | None
    state: Annotated[str, Meta(description="A newer daemon may have more.", examples=["pending"])]
    stopping: Annotated[str, Meta(examples=["cancelled"])] | None
    attempts: int
    max_retries: Annotated[int, Meta(examples=[3])]
    priority: int
    queue: Annotated[str, Meta(examples=["default"])]
    created_at: Time
    updated_at: Time
    run_at: Time | None
    next_run_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    exit_code: int | None
    signal: int | None
    last_error: str | None
    worker: int | None
    pid: int | None
    attempt: int | None
    timeout: Seconds | None
    kill_after: Annotated[int | float, Meta(examples=[10])] | None
    on_lost: Annotated[str, Meta(examples=["retry"])]
    cwd: Annotated[str, Meta(examples=["~"])] | None
    user: Annotated[str, Meta(examples=["alice"])] | None
    enqueued_by: str | None
    output: Annotated[str, Meta(examples=["file"])]


class Attempt(Struct, kw_only=True):
    """
    One attempt of a job. `duration` is null while it runs.
    """

    attempt: Annotated[int, Meta(examples=[1])]
    worker: Annotated[int, Meta(examples=[1])]
    pid: int | None
    started_at: Time
    ended_at: Time | None
    duration: Seconds | None
    end: Annotated[RunEnd | str, Meta(examples=["exited"])] | None
    exit_code: int | None
    signal: int | None
    error: str | None
    cpu_user: Seconds | None
    cpu_system: Seconds | None
    memory_max_bytes: int | None


class JobInFull(Job, kw_only=True):
    """
    All that is known of a job; `runs` are its attempts, the first one first.
    """

    why: Annotated[str, Meta(examples=["queue default is paused"])]
    next: Annotated[str, Meta(examples=["starts as soon as nothing of this holds it back"])]
    env: dict[str, str]
    umask: Annotated[str, Meta(examples=["0022"])]
    script: str | None
    runs: list[Attempt]


class JobError(Struct, kw_only=True):
    """
    Why one job of a request could not be made or changed.
    """

    id: Id | None
    index: int | None
    field: str | None
    code: Annotated[str, Meta(examples=["conflict"])]
    message: Annotated[str, Meta(examples=["job 17 is completed; cancel works on ..."])]


class JobPage(Struct, kw_only=True):
    """
    Jobs, newest first. `next` is the cursor of the page that follows; null at the end. A page may
    be short, even empty, with `next` set.
    """

    jobs: list[Job]
    next: Annotated[str, Meta(examples=["17"])] | None


class JobList(Struct, kw_only=True):
    """
    Jobs.
    """

    jobs: list[Job]


class Created(Struct, kw_only=True):
    """
    The ids of the jobs that were made, in the order of the request; null where a partial request
    left one out. `existing`: they were made when the request was sent before.
    """

    ids: list[Id | None]
    errors: list[JobError]
    existing: bool


class ActedOn(Struct, kw_only=True):
    """
    The jobs to which it was done. With `more`, send the same again with `after` set to that.
    """

    ids: list[Id]
    errors: list[JobError]
    more: int | None


class Attempts(Struct, kw_only=True):
    """
    A job's attempts, the first one first.
    """

    attempts: list[Attempt]


class Worker(Struct, kw_only=True):
    """
    A slot: idle, busy, or draining.
    """

    slot: Annotated[int, Meta(examples=[1])]
    state: Annotated[str, Meta(examples=["idle"])]
    job: Id | None
    command: str | None
    queue: str | None
    pid: int | None
    started_at: Time
    uptime: Seconds
    job_started_at: Time | None
    number: int | None
    user: str | None


class WorkerList(Struct, kw_only=True):
    """
    Every slot; `added` are the numbers of those that this request added.
    """

    workers: list[Worker]
    added: list[int]
    draining_count: int


class Queue(Struct, kw_only=True):
    """
    A named queue; `concurrency` is null without a limit, `jobs` counts by state.
    """

    name: Annotated[str, Meta(examples=["default"])]
    concurrency: int | None
    paused: bool
    running: int
    jobs: dict[str, int]


class QueueList(Struct, kw_only=True):
    """
    Queues, by name.
    """

    queues: list[Queue]


class Setting(Struct, kw_only=True):
    """
    A setting; spans are seconds, sizes bytes.
    """

    key: Annotated[str, Meta(examples=["max_retries"])]
    value: Annotated[SettingValue, Meta(examples=[3])]
    default: Annotated[SettingValue, Meta(examples=[3])]
    source: Annotated[str, Meta(examples=["default"])]


class SettingList(Struct, kw_only=True):
    """
    Every setting, by key.
    """

    settings: list[Setting]


class Process(Struct, kw_only=True):
    """
    One of queuectl's own processes.
    """

    pid: Annotated[int, Meta(examples=[4711])]
    version: Annotated[str, Meta(examples=["0.1.0"])]
    started_at: Time
    uptime: Seconds


class Journal(Struct, kw_only=True):
    """
    The journal's size and health.
    """

    size_bytes: int
    segments: int
    durability: Annotated[str, Meta(examples=["always"])]
    state: Annotated[str, Meta(examples=["ok"])]
    snapshot_at: Time | None


class QueueCount(Struct, kw_only=True):
    """
    How many queues there are, and which are paused.
    """

    count: int
    paused: list[str]


class Whole(Struct, kw_only=True):
    """
    The whole in numbers; `runner` is null while the daemon has no connection to it.
    """

    daemon: Process
    runner: Process | None
    mode: Annotated[str, Meta(examples=["user"])]
    socket: str
    state_dir: str
    jobs: dict[str, int]
    dlq: int
    workers: list[Worker]
    queues: QueueCount
    journal: Journal
    notes: list[str]
    seen_jobs: dict[str, int] | None


class Version(Struct, kw_only=True):
    """
    Of the gateway, of the protocol that it speaks, and of the daemon with its process id.
    """

    gateway: Annotated[str, Meta(examples=["0.1.0"])]
    protocol: Annotated[int, Meta(examples=[1])]
    daemon: Annotated[str, Meta(examples=["0.1.0"])]
    pid: Annotated[int, Meta(examples=[4711])]


class Everything(Struct, kw_only=True):
    """
    The newest jobs, the workers, the settings by key, and how many jobs are in each state.
    """

    jobs: list[Job]
    workers: list[Worker]
    config: dict[str, Any]
    summary: dict[str, int]
