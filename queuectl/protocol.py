"""
Every request and response that crosses the control socket.

A connection carries frames (see framing.py) of msgpack maps. The first frame from the client is
Hello, the first from the daemon Welcome or Refused; the client need not wait for it. Each request
carries `call`, a number of the client's choosing, and every response to it carries the same: many
calls may be under way at once and their answers may come in any order. A streaming request (Logs
with follow) has many responses, the last of which is LogEnd or Refused.

How this evolves: messages are maps, so a reader skips fields that it does not know; a new field
always has a default; a field's meaning never changes; a tag (`op`) is never reused. A daemon
answers an op that it does not know with Refused(code="unsupported") and goes on. That is all it
takes for a client and a daemon one version apart to understand each other.

Times: `_at` is milliseconds since the epoch, UTC. Spans: `_ms` is milliseconds.
"""

from typing import Annotated, Any, Literal, Union

from msgspec import Meta, Raw, Struct, field
from msgspec.msgpack import Decoder, Encoder

from queuectl.views import (
    JobError,
    JobState,
    JobView,
    JournalView,
    OnLost,
    OutputTo,
    ProcessView,
    QueueView,
    RunView,
    SettingValue,
    SettingView,
    WorkerView,
)

PROTOCOL_VERSION = 1

# Limits. A request beyond them is refused with the limit's value in the message.
ID_CHARS_MAX = 128  # a job's id, a queue's name
PRIORITY_MAX = 1000  # priorities go from -PRIORITY_MAX to PRIORITY_MAX; larger runs sooner
RETRIES_MAX = 1000  # each attempt stays in the job's history
SPAN_MS_MAX = 10 * 366 * 86_400_000  # ten years: longer delays and timeouts are typing mistakes
COMMAND_BYTES_MAX = (128 << 10) - 1  # one string of execve(2) on Linux, its NUL not counted
# What one job runs: its command, or its script and arguments. It is kept in memory until the job is
# forgotten; a longer script belongs into a file of its own.
JOB_BYTES_MAX = 256 << 10
ENV_BYTES_MAX = 128 << 10  # the variables of one job: the request's, and its own on top
BATCH_JOBS_MAX = 10_000  # jobs in one Enqueue: one turn of the daemon, one batch of the journal
SELECT_JOBS_MAX = 10_000  # jobs that one Act changes before it says `more`
LIST_JOBS_MAX = 1_000  # jobs in one List answer
SEARCH_CHARS_MAX = 1_000  # the text that a List looks for
DETAIL_RUNS_MAX = 1_000  # attempts in one JobDetail: a job may have made many more
QUEUES_MAX = 1_000  # named queues; choosing a job looks at each
WORKERS_MAX = 4_096

# The length stands in front of what it counts: too much is refused before anything is made of it.
Ids = Annotated[list[str], Meta(max_length=SELECT_JOBS_MAX)]

SCOPES = ("read", "submit", "manage")  # what a connection may do: see tokens.py

PRIORITY_NAMES = {"high": 10, "medium": 0, "low": -10}
DEFAULT_QUEUE = "default"
HOME = "~"  # as a directory, or with a path below it: the home of the account that the job runs as


class Message(Struct, frozen=True, tag_field="op", omit_defaults=True, kw_only=True):
    """
    What every frame has: which call it belongs to. Hello and Welcome belong to none.
    """

    call: int = 0


# --- requests ---------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """
    First frame of a client. The daemon answers Welcome, or Refused and hangs up.

    With a `token` (see tokens.py) the connection is its account's, within its scopes. A daemon that
    knows no tokens skips the field and takes the client for who opened the connection: so whoever
    sends one waits for Welcome before the first request, and goes on only if that names the token.
    """

    protocol: int
    version: str = ""
    token: str | None = None


class JobSpec(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """
    A job to be made. Exactly one of command, argv and script says what runs.

    What is None follows the daemon's settings at the moment when it matters. (gc=False: what comes
    and goes thousands of times a second refers to nothing that refers to it.)
    """

    command: str | None = None  # run by /bin/sh -c
    argv: list[str] | None = None  # run as it is; with a script: its parameters
    script: str | None = None  # the text of a script, run by its #! line, else by sh
    script_name: str | None = None  # what to call the script in lists
    id: str | None = None
    queue: str | None = None
    priority: int = 0
    max_retries: int | None = None
    timeout_ms: int | None = None
    kill_after_ms: int | None = None
    run_at: int | None = None
    delay_ms: int | None = None
    cwd: str | None = None  # absolute, or HOME; else the request's
    env: dict[str, str] | None = None  # on top of the request's
    on_lost: OnLost | None = None
    hold: bool = False
    user: str | None = None  # whose job it is, if not the sender's: for admins
    output: OutputTo = "file"


class Enqueue(Message, frozen=True, tag="enqueue", gc=False):
    """
    Make jobs, all or none; with `partial`, those that can be made. Answered by Enqueued.

    `request_id` is made by the client before the first send and stays the same when the request is
    sent again after a lost connection: the daemon then answers with the jobs of the first time.

    `env` is a map of strings, made by pack_variables(). The daemon unpacks it only if it is not the
    same bytes that the request before brought.
    """

    jobs: Annotated[list[JobSpec], Meta(max_length=BATCH_JOBS_MAX)]
    env: Raw = Raw(b"\x80")  # an empty map
    cwd: str = "/"
    umask: int = 0o022
    request_id: str = ""
    partial: bool = False
    want_jobs: bool = False


class Selection(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    Which jobs a request is about: ids, or all that match the filters.

    An id is a job's id, a number, a range of numbers (`1-3`) or `last`. With filters (states,
    queue, all), `after` continues where the answer before said `more`.
    """

    ids: Ids = []
    states: list[JobState] = []
    queue: str | None = None
    all: bool = False
    after: int = 0


class List(Message, frozen=True, tag="list"):
    """
    Jobs, newest first. Answered by Jobs, which may be a short page: see its `next_before`.
    """

    states: list[JobState] = []
    queue: str | None = None
    limit: int = 100
    after: str | None = None  # the id of the last job of the page before
    before_number: int | None = None  # the `next_before` of the answer before
    ids: Ids = []
    search: str | None = None  # in the id, and in what runs as far as it is shown; case is ignored
    user: str | None = None  # of this account


class Show(Message, frozen=True, tag="show"):
    """
    All about one job. Answered by JobDetail.
    """

    id: str


class Logs(Message, frozen=True, tag="logs"):
    """
    A job's output. Answered by Output, as often as there is some, then LogEnd.

    Without `attempt`: the last attempt; with follow and no attempt yet, all from the first on.
    With `tail_bytes` one Output comes at once, and tells where the stream begins.
    """

    id: str
    attempt: int | None = None
    tail_lines: int | None = None
    offset: int = 0
    follow: bool = False
    tail_bytes: int | None = None


Action = Literal["cancel", "retry", "hold", "release", "purge", "prune"]


class Act(Message, frozen=True, tag="act"):
    """
    Do one thing to each selected job. Answered by Acted.

    `purge` forgets dead jobs, `prune` finished ones; `older_than_ms` counts from their end.
    """

    action: Action
    select: Selection
    older_than_ms: int | None = None


class Wait(Message, frozen=True, tag="wait"):
    """
    Answered by Waited when all selected jobs (with `any`: one of them) have finished.

    A job that is forgotten meanwhile is not waited for any longer. With `skip_missing` nor is one
    that was forgotten before: else an id that names no job is refused.
    """

    ids: Ids
    any: bool = False
    skip_missing: bool = False


class Status(Message, frozen=True, tag="status"):
    """
    Answered by StatusReport.
    """


class StartWorkers(Message, frozen=True, tag="worker_start"):
    """
    Add slots. Without a count: one, or the setting `workers` when there are none.

    Answered by Workers.
    """

    count: int | None = None


class StopWorkers(Message, frozen=True, tag="worker_stop"):
    """
    Drain every slot: idle ones go, busy ones go when their job ends. Answered by Workers.
    """

    cancel_running: bool = False


class ListWorkers(Message, frozen=True, tag="worker_list"):
    """
    Answered by Workers.
    """


class GetConfig(Message, frozen=True, tag="config_get"):
    """
    Answered by Config.
    """


class SetConfig(Message, frozen=True, tag="config_set"):
    """
    Change one setting, or with `unset` go back to its default. Answered by Config.
    """

    key: str
    value: SettingValue = None
    unset: bool = False


class ListQueues(Message, frozen=True, tag="queue_list"):
    """
    Answered by Queues.
    """

    name: str | None = None


class SetQueue(Message, frozen=True, tag="queue_set"):
    """
    Change a named queue, made if it is not there. Answered by Queues with that one.

    `concurrency` limits its running jobs; 0 lifts the limit; None leaves it.
    """

    name: str
    concurrency: int | None = None
    paused: bool | None = None


class DeleteQueue(Message, frozen=True, tag="queue_delete"):
    """
    Forget a named queue that no unfinished job is in. Answered by Done.
    """

    name: str


class Shutdown(Message, frozen=True, tag="shutdown"):
    """
    End the daemon; running jobs go on. Answered by Done, then the connection closes.
    """


# --- responses --------------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag="welcome"):
    """
    The daemon's side of the greeting, and whom it takes the client for.

    `token` is the id of the one that Hello brought. `user` is None only if an older daemon answers.
    """

    protocol: int
    version: str
    pid: int = 0
    epoch: int = 0
    uid: int | None = None
    user: str | None = None
    admin: bool = False
    scopes: list[str] = field(default_factory=lambda: list(SCOPES))  # Scope, see tokens.py
    token: str | None = None


class Refused(Message, frozen=True, tag="refused"):
    """
    Nothing was done. `message` is one line: what was refused, the rule, and what would be right.
    """

    code: str  # a RefusalCode
    message: str
    field: str | None = None
    index: int | None = None  # of the offending job in the batch


class Done(Message, frozen=True, tag="done"):
    """
    It is done and, where something changed, on disk.
    """

    durable: bool = True


class Enqueued(Message, frozen=True, tag="enqueued", gc=False):
    """
    The ids in the order of the request; None where a partial batch left one out (see errors).

    `existing` says that the request id was known: nothing was made now.
    """

    ids: list[str | None]
    errors: list[JobError] = []
    jobs: list[JobView] = []
    existing: bool = False
    durable: bool = True


class Jobs(Message, frozen=True, tag="jobs"):
    """
    A page of jobs. `next_before` continues the listing; None at its end.

    A page may be short, even empty, with `next_before` set: the daemon looks at a bounded number of
    jobs in one turn.
    """

    jobs: list[JobView]
    next_before: int | None = None


class JobDetail(Message, frozen=True, tag="job"):
    """
    One job, its history, and in words why it is in its state and what happens next. `runs` are its
    last attempts.
    """

    job: JobView
    runs: list[RunView]
    env: dict[str, str] = {}
    script: str | None = None
    umask: int = 0o022
    why: str = ""
    next: str = ""


class Output(Message, frozen=True, tag="output"):
    """
    Bytes of an attempt's output, from `offset` in its file on.

    `dropped_bytes` before them are gone: the output limit keeps the beginning and the end.
    `at` is when they were written, to within a few hundredths of a second; None: before that was
    looked for.
    """

    attempt: int
    offset: int
    data: bytes
    dropped_bytes: int = 0
    at: int | None = None


class LogEnd(Message, frozen=True, tag="log_end"):
    """
    No more output will come.
    """

    job: JobView
    attempt: int | None = None


class Acted(Message, frozen=True, tag="acted"):
    """
    What an Act did. With `more`, repeat it with `after` set to that number.
    """

    ids: list[str]
    errors: list[JobError] = []
    more: int | None = None
    durable: bool = True


class Waited(Message, frozen=True, tag="waited"):
    """
    The jobs waited for that have finished: all that are not forgotten, perhaps none.
    """

    jobs: list[JobView]


class StatusReport(Message, frozen=True, tag="status_report"):
    """
    The whole in numbers. `runner` is None while the daemon has no connection to it.
    """

    daemon: ProcessView
    runner: ProcessView | None
    jobs: dict[str, int]
    workers: list[WorkerView]
    dlq: int
    journal: JournalView
    mode: str  # "user" or "system"
    state_dir: str
    queue_count: int
    paused_queues: list[str] = []
    notes: list[str] = []  # what deserves attention, one line each
    seen_jobs: dict[str, int] | None = None  # the same as `jobs`, of those that one may see


class Workers(Message, frozen=True, tag="workers"):
    """
    Every slot, by number.
    """

    workers: list[WorkerView]
    added: list[int] = []
    draining_count: int = 0


class Config(Message, frozen=True, tag="config"):
    """
    Every setting, by key.
    """

    settings: list[SettingView]
    durable: bool = True


class Queues(Message, frozen=True, tag="queues"):
    """
    Named queues, by name.
    """

    queues: list[QueueView]
    durable: bool = True


class Envelope(Struct, frozen=True):
    """
    The part of any request that can still be read when the rest cannot.
    """

    op: str = ""
    call: int = 0


encode = Encoder().encode


def decoder(*types: Any) -> "Decoder[Any]":
    """
    Return a decoder for the given messages.

    A client builds it for the answers of one command: much cheaper than one for every message.
    """
    return Decoder(Union[types])  # noqa: UP007 - of a tuple there is no X | Y
