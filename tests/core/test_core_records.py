"""
The durable format: what each record looks like in the journal, now and for later releases.
"""

import random
from typing import Any

import msgspec
import pytest
from conversation import kept_by_snapshot

from queuectld.core.queue import Queue
from queuectld.core.records import (
    ATTEMPTS_MAX,
    FORGET,
    KINDS,
    NUMBER_MAX,
    SKIPPABLE,
    TOKEN_NUMBER_MAX,
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
    Stored,
    TokenForgotten,
    TokenMade,
    load,
    store,
)

# One of each kind: kind, flags, part, key and body as they are in every journal. They must never
# change: only fields with defaults may be appended, which lengthens the arrays.
TOKEN_KEY, ENV_KEY, TABLE_KEY = 1 << 61, 1 << 62, 1 << 63
PLAIN_JOB = JobEnqueued(3, 1000, "pending", 0, "default", 10, 1, "/", 18, command="true")
FULL_JOB = JobEnqueued(
    number=3,
    at=1000,
    state="scheduled",
    due_at=2000,
    queue="q",
    priority=-10,
    env_id=1,
    cwd="/",
    umask=18,
    name="n",
    command=None,
    argv=["a"],
    script="s",
    script_name="sn",
    max_retries=5,
    timeout_ms=6,
    kill_after_ms=7,
    run_at=2000,
    on_lost="hold",
    env={"A": "1"},
    request_id="r",
    request_index=2,
    uid=1001,
    user="alice",
    by_uid=0,
    by_user="root",
    output="journal",
)
PLAIN_JOB_BODY = (
    "dc001b03cd03e8a770656e64696e6700a764656661756c740a01a12f12c0a474727565c0c0c0c0c0c0c0c0c0c000"
    "c0c0c0c0c0"
)
FULL_JOB_BODY = (
    "dc001b03cd03e8a97363686564756c6564cd07d0a171f601a12f12a16ec091a161a173a2736e"
    "050607cd07d0a4686f6c6481a141a131a17202cd03e9a5616c69636500a4726f6f74a76a6f75726e616c"
)
GOLDEN: list[tuple[Record, int, int, int, int, str]] = [
    (PLAIN_JOB, 1, 0, 0, 3, PLAIN_JOB_BODY),
    (FULL_JOB, 1, 0, 0, 3, FULL_JOB_BODY),
    (JobMoved(3, 1000, "held", 0, 5, 2, "w"), 2, 0, 1, 3, "9703cd03e8a468656c64000502a177"),
    (
        StopRequested(3, 1000, 2, "timeout", 2000),
        3,
        0,
        2,
        3,
        "9503cd03e802a774696d656f7574cd07d0",
    ),
    (RunStarted(3, 1000, 2, 4, 7, 2000), 4, 0, 18, 3, "9603cd03e8020407cd07d0"),
    (
        RunEnded(3, 2000, 2, 4, 1000, "exited", "failed", 4000, 1, 1, None, "e", 5, 6, 7),
        5,
        0,
        18,
        3,
        "9f03cd07d00204cd03e8a6657869746564a66661696c6564cd0fa00101c0a165050607",
    ),
    (JobForgotten(3), 6, FORGET, 0, 3, "9103"),
    (EnvironmentStored(2, {"A": "1"}, 1001), 7, 0, 0, ENV_KEY | 2, "930281a141a131cd03e9"),
    (EnvironmentForgotten(2), 8, FORGET, 0, ENV_KEY | 2, "9102"),
    (SettingsChanged({"max_retries": 5}), 9, 0, 0, TABLE_KEY | 9, "9181ab6d61785f7265747269657305"),
    (QueuesChanged({"q": (2, True)}), 10, 0, 0, TABLE_KEY | 10, "9181a1719202c3"),
    (
        SlotsChanged(1000, {1: 900}, {2: 800}, True),
        11,
        0,
        0,
        TABLE_KEY | 11,
        "94cd03e88101cd03848102cd0320c3",
    ),
    (DaemonStarted(1000, 7, "1.0"), 12, 0, 0, TABLE_KEY | 12, "93cd03e807a3312e30"),
    (NumbersUsed(8), 13, 0, 0, TABLE_KEY | 13, "9108"),
    (
        TokenMade(5, 1000, b"\1\2", ["read"], "n", 2000, 1001, "ann", "root"),
        14,
        SKIPPABLE,
        0,
        TOKEN_KEY | 5,
        "9905cd03e8c402010291a472656164a16ecd07d0cd03e9a3616e6ea4726f6f74",
    ),
    (
        TokenForgotten(5, 1000, "revoked", "ann", "root"),
        15,
        SKIPPABLE | FORGET,
        0,
        TOKEN_KEY | 5,
        "9505cd03e8a77265766f6b6564a3616e6ea4726f6f74",
    ),
]
IDS = [type(record).__name__ for record, *_ in GOLDEN]


@pytest.mark.parametrize(("record", "kind", "flags", "part", "key", "body"), GOLDEN, ids=IDS)
def test_records_have_their_bytes(
    record: Record, kind: int, flags: int, part: int, key: int, body: str
) -> None:
    """
    Each kind is stored as it ever was, and what was ever stored is loaded.
    """
    assert Stored(kind, flags, part, key, bytes.fromhex(body)) == store(record)
    assert record == load(kind, bytes.fromhex(body))


def test_every_kind_is_pinned() -> None:
    """
    A new kind of record needs its bytes above.
    """
    assert {kind: type(record) for record, kind, *_ in GOLDEN} == KINDS


@pytest.mark.parametrize(("record", "kind"), [each[:2] for each in GOLDEN], ids=IDS)
def test_fields_of_a_later_release_are_ignored(record: Record, kind: int) -> None:
    """
    A later release appends fields; this one reads what it knows.
    """
    fields: list[Any] = msgspec.msgpack.decode(store(record).body, strict=False)
    longer = msgspec.msgpack.encode([*fields, "new", {"more": [1]}])
    assert record == load(kind, longer)


@pytest.mark.parametrize(("record", "kind"), [each[:2] for each in GOLDEN], ids=IDS)
def test_fields_with_defaults_may_be_missing(record: Record, kind: int) -> None:
    """
    An earlier release wrote shorter arrays; a missing field without a default is an error.
    """
    fields: list[Any] = msgspec.msgpack.decode(store(record).body, strict=False)
    required = len(record.__struct_fields__) - len(record.__struct_defaults__)
    for count in range(required, len(fields)):
        load(kind, msgspec.msgpack.encode(fields[:count]))
    with pytest.raises(msgspec.ValidationError):
        load(kind, msgspec.msgpack.encode(fields[: required - 1]))


@pytest.mark.parametrize(("record", "kind"), [each[:2] for each in GOLDEN], ids=IDS)
def test_a_body_that_is_cut_or_wrong_is_an_error(record: Record, kind: int) -> None:
    """
    No prefix of a body is taken for a record, and no other type for a field.
    """
    body = store(record).body
    for size in range(len(body)):
        with pytest.raises(msgspec.DecodeError):
            load(kind, body[:size])
    with pytest.raises(msgspec.ValidationError):
        load(kind, msgspec.msgpack.encode([["wrong"]] * len(record.__struct_fields__)))


def test_an_unknown_kind_is_an_error() -> None:
    """
    It is said to the caller, who knows whether the record may be skipped.
    """
    with pytest.raises(KeyError):
        load(max(KINDS) + 1, b"\x90")


def test_keys_do_not_collide() -> None:
    """
    Jobs, tokens, environments and tables have keys of their own, in 64 bits; parts fit into 16.
    """
    keys = [
        store(JobForgotten(NUMBER_MAX - 1)).key,
        store(TokenForgotten(0, 1, "expired")).key,
        store(TokenForgotten(TOKEN_NUMBER_MAX - 1, 1, "expired")).key,
        store(EnvironmentForgotten(0)).key,
        store(EnvironmentForgotten(NUMBER_MAX)).key,
        store(SettingsChanged({})).key,
        store(NumbersUsed(1)).key,
    ]
    assert sorted(set(keys)) == keys
    assert keys[-1] < 1 << 64
    assert store(RunStarted(1, 1, ATTEMPTS_MAX, 1, 1, 1)).part < 1 << 16


def test_a_setting_of_a_later_release_is_kept_out_of_the_way() -> None:
    """
    A journal that a newer release wrote can be replayed by this one.
    """
    queue = Queue(random=random.Random(1).random)
    changed = SettingsChanged({"max_retries": 5, "of_tomorrow": 1})
    queue.apply(changed, store(changed).body)
    assert {"max_retries": 5} == queue.state.settings


def test_a_snapshot_keeps_the_last_of_each_part_and_nothing_forgotten() -> None:
    """
    The rule that the conversations replay by: order kept, RunEnded in place of its RunStarted.
    """
    records = [
        EnvironmentStored(1, {}),
        PLAIN_JOB,
        RunStarted(3, 1, 1, 1, 1, 0),
        EnvironmentStored(2, {}),
        JobMoved(3, 1, "held", 0, 0, 0),
        RunEnded(3, 2, 1, 1, 1, "exited", "completed", 0, 0),
        EnvironmentForgotten(1),
        JobMoved(3, 3, "pending", 0, 0, 0),
        NumbersUsed(3),
        NumbersUsed(4),
    ]
    stored = [store(record) for record in records]
    assert [stored[n] for n in (1, 3, 5, 7, 9)] == kept_by_snapshot(stored)
    assert [stored[3], stored[9]] == kept_by_snapshot([*stored, store(JobForgotten(3))])
