"""
The durable facts: what the journal remembers, past tense.

Rules
1. A record states an outcome in absolute values (the state after, the due time, the attempt
   number), so that replay reads no clock and rolls no dice.
2. A record carries every field of its *part*. (key, part) names what it replaces: of all records
   with the same key and part the last one says everything, and a snapshot keeps only that one. The
   kept records stay in the order in which they were written.
3. Bodies are msgpack arrays, fields in the order below. To change a record safely: append a
   field with a default, never reorder, remove or reinterpret one, never reuse a kind. An older
   release ignores appended fields.

4. A kind that a release does not know stops it: it was written by a newer one, and to go on without
   would be to guess. A kind that an older release can do without is flagged SKIPPABLE.

Keys: a job's records have its number; tokens, environments and the single tables have keys of
their own, far above any number. Parts of a job: 0 what was asked for, 1 moves, 2 stop requests,
16 + n its n-th attempt.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from queuectl.views import JobState, OnLost, OutputTo, RunEnd, SettingValue

SKIPPABLE = 1  # flag: a reader that does not know the kind may go on without the record
FORGET = 2  # flag: this key and all its parts are gone
NUMBER_MAX = 1 << 48  # job numbers are below; leaves room for a priority in a packed heap entry
ATTEMPT_PART = 16
ATTEMPTS_MAX = 60_000  # attempts of one job over all retries by hand; parts are 16 bits
TOKEN_NUMBER_MAX = 1 << 40  # token numbers are below: ten hex digits
_TOKEN_KEY = 1 << 61
_ENVIRONMENT_KEY = 1 << 62
_TABLE_KEY = 1 << 63


class Record(Struct, array_like=True, frozen=True, gc=False):
    """
    Base of all records. `at` is when it was decided, ms since the epoch.
    """


class JobEnqueued(Record, array_like=True, frozen=True, gc=False):
    """
    A job was accepted. What is None follows the settings.
    """

    number: int
    at: int
    state: JobState
    due_at: int  # 0: not waiting for a time
    queue: str
    priority: int
    env_id: int
    cwd: str
    umask: int
    name: str | None = None  # the submitter's id
    command: str | None = None
    argv: list[str] | None = None
    script: str | None = None
    script_name: str | None = None
    max_retries: int | None = None
    timeout_ms: int | None = None
    kill_after_ms: int | None = None
    run_at: int | None = None  # wall clock, as asked for
    on_lost: OnLost | None = None
    env: dict[str, str] | None = None  # on top of the environment env_id
    request_id: str | None = None
    request_index: int = 0
    uid: int | None = None  # the account it belongs to and runs as; None in user mode
    user: str | None = None  # that account's name when it was enqueued
    by_uid: int | None = None  # the admin who enqueued it for that account; None: itself
    by_user: str | None = None
    output: OutputTo | None = None  # None: its file alone

    @property
    def id(self) -> str:
        """
        The job's public id.
        """
        return self.name if self.name is not None else str(self.number)


class JobMoved(Record, array_like=True, frozen=True, gc=False):
    """
    A job that does not run changed its state, its due time or its priority.
    """

    number: int
    at: int
    state: JobState
    due_at: int
    priority: int
    attempts_before: int  # attempts that no longer count against max_retries
    why: str | None = None  # who or what held or moved it


class StopRequested(Record, array_like=True, frozen=True, gc=False):
    """
    A running attempt is being ended: SIGTERM now, SIGKILL at `kill_at`.
    """

    number: int
    at: int
    attempt: int
    why: RunEnd  # "cancelled" or "timeout"
    kill_at: int


class RunStarted(Record, array_like=True, frozen=True, gc=False):
    """
    An attempt may be started. Synced before the runner hears of it.
    """

    number: int
    at: int
    attempt: int
    slot: int
    epoch: int  # of the daemon that decided it
    due_at: int  # when it times out; 0: never


class RunEnded(Record, array_like=True, frozen=True, gc=False):
    """
    An attempt ended, and what becomes of its job. Replaces its RunStarted.
    """

    number: int
    at: int
    attempt: int
    slot: int
    started_at: int
    end: RunEnd
    state: JobState
    due_at: int
    attempts_before: int
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    user_ms: int | None = None
    system_ms: int | None = None
    memory_max_bytes: int | None = None


class JobForgotten(Record, array_like=True, frozen=True, gc=False):
    """
    A finished job left the history.
    """

    number: int


class EnvironmentStored(Record, array_like=True, frozen=True, gc=False):
    """
    Variables that many jobs share, stored once.
    """

    env_id: int
    env: dict[str, str]
    uid: int | None = None  # the account whose jobs share them; None in user mode


class EnvironmentForgotten(Record, array_like=True, frozen=True, gc=False):
    """
    No job refers to this environment any more.
    """

    env_id: int


class SettingsChanged(Record, array_like=True, frozen=True, gc=False):
    """
    All settings that differ from their defaults.
    """

    values: dict[str, SettingValue]


class QueuesChanged(Record, array_like=True, frozen=True, gc=False):
    """
    All named queues: name -> (concurrency, 0 for no limit; paused).
    """

    queues: dict[str, tuple[int, bool]]


class SlotsChanged(Record, array_like=True, frozen=True, gc=False):
    """
    All slots that take jobs, and those that go with their job: number -> since when it is there.
    `by_hand`: not to be changed to the setting at the next start.
    """

    at: int
    slots: dict[int, int]
    draining: dict[int, int]
    by_hand: bool


class DaemonStarted(Record, array_like=True, frozen=True, gc=False):
    """
    A daemon took over this state.
    """

    at: int
    epoch: int
    version: str


class NumbersUsed(Record, array_like=True, frozen=True, gc=False):
    """
    Numbers below this one were given to jobs, some of them forgotten by now.
    """

    next_number: int


class TokenMade(Record, array_like=True, frozen=True, gc=False):
    """
    Who brings the text of this token is an account, within its scopes.
    """

    token: int  # its number: a random one
    at: int
    digest: bytes  # SHA-256 of its secret
    scopes: list[str]
    name: str
    expires_at: int  # 0: never
    uid: int | None = None  # the account; None in user mode
    user: str | None = None  # that account's name when it was made
    by_user: str | None = None  # the admin who made it for that account

    def is_expired(self, now: int) -> bool:
        """
        Whether its time is over.
        """
        return 0 < self.expires_at <= now


class TokenForgotten(Record, array_like=True, frozen=True, gc=False):
    """
    A token is good for nothing any more.
    """

    token: int
    at: int
    why: Literal["revoked", "expired"]
    user: str | None = None  # whose it was
    by_user: str | None = None  # who revoked it; None in user mode


KINDS: dict[int, type[Record]] = {
    1: JobEnqueued,
    2: JobMoved,
    3: StopRequested,
    4: RunStarted,
    5: RunEnded,
    6: JobForgotten,
    7: EnvironmentStored,
    8: EnvironmentForgotten,
    9: SettingsChanged,
    10: QueuesChanged,
    11: SlotsChanged,
    12: DaemonStarted,
    13: NumbersUsed,
    14: TokenMade,
    15: TokenForgotten,
}
_KIND_OF = {record: kind for kind, record in KINDS.items()}
_PARTS: dict[type[Record], int] = {JobEnqueued: 0, JobMoved: 1, StopRequested: 2}
_DECODERS: dict[int, Callable[[bytes], Record]] = {
    kind: Decoder(record).decode for kind, record in KINDS.items()
}
_encode = Encoder().encode
# Stored(...) itself takes longer than to encode most records.
_make = tuple.__new__


class Stored(NamedTuple):
    """
    A record as the journal takes it.
    """

    kind: int
    flags: int
    part: int
    key: int
    body: bytes


def store(record: Any) -> Stored:
    """
    Return *record* as a body, msgpack, with its kind, key and part.
    """
    cls: type[Record] = type(record)
    kind = _KIND_OF[cls]
    body = _encode(record)
    part = _PARTS.get(cls)
    if part is not None:
        return _make(Stored, (kind, 0, part, record.number, body))
    if cls is RunStarted or cls is RunEnded:
        return _make(Stored, (kind, 0, ATTEMPT_PART + record.attempt, record.number, body))
    if cls is JobForgotten:
        return Stored(kind, FORGET, 0, record.number, body)
    if cls in (EnvironmentStored, EnvironmentForgotten):
        flags = FORGET if cls is EnvironmentForgotten else 0
        return Stored(kind, flags, 0, _ENVIRONMENT_KEY | record.env_id, body)
    if cls in (TokenMade, TokenForgotten):
        flags = SKIPPABLE | (FORGET if cls is TokenForgotten else 0)
        return Stored(kind, flags, 0, _TOKEN_KEY | record.token, body)
    return Stored(kind, 0, 0, _TABLE_KEY | kind, body)


def load(kind: int, body: bytes) -> Record:
    """
    Return the record that *body* holds. Raises KeyError for a kind this release does not know: see
    rule 4. Raises msgspec.ValidationError for a body that is not one.
    """
    return _DECODERS[kind](body)
