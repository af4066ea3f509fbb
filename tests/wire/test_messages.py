"""
Requirements on messages: they survive the trip, their bytes do not drift, and a client and daemon
one version apart understand each other.
"""

import os
import random
import typing
from typing import Any

import msgspec
import pytest

from queuectl import views
from queuectl.environment import pack_variables
from queuectl.messages import Request, Response
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Enqueue,
    Enqueued,
    Envelope,
    Hello,
    Jobs,
    JobSpec,
    Message,
    Refused,
    decoder,
    encode,
)

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))
MESSAGES: list[type[Message]] = [*typing.get_args(Request), *typing.get_args(Response)]

#: What each message looks like in msgpack. A change here is a change of the wire.
GOLDEN: list[tuple[Message, str]] = [
    (
        Hello(protocol=1, version="0.1.0"),
        "83a26f70a568656c6c6fa870726f746f636f6c01a776657273696f6ea5302e312e30",
    ),
    (
        Enqueue(
            call=1,
            jobs=[JobSpec(command="true", id="job1", priority=10)],
            env=pack_variables({"LANG": "C"}),
            cwd="/tmp",
            request_id="00ff",
        ),
        (
            "86a26f70a7656e7175657565a46a6f627391de0003a7636f6d6d616e64a474727565a26964a46a6f6231a870"
            "72696f726974790aa3656e7681a44c414e47a143a3637764a42f746d70aa726571756573745f6964a4303066"
            "66a463616c6c01"
        ),
    ),
    (
        Enqueued(call=1, ids=["job1", None]),
        "83a26f70a8656e717565756564a369647392a46a6f6231c0a463616c6c01",
    ),
    (
        Refused(call=1, code="conflict", message="taken", field="id", index=2),
        (
            "86a26f70a772656675736564a4636f6465a8636f6e666c696374a76d657373616765a574616b656ea5666965"
            "6c64a26964a5696e64657802a463616c6c01"
        ),
    ),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda each: type(each).__name__)
def test_the_bytes_do_not_drift(message: Message, golden: str) -> None:
    """
    The four messages that every client needs are these bytes, field order included.
    """
    assert golden == encode(message).hex()
    assert message == decoder(type(message)).decode(bytes.fromhex(golden))


def test_the_protocol_is_version_one() -> None:
    """
    The version changes only when a message's meaning does.
    """
    assert PROTOCOL_VERSION == 1


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda each: each.__name__)
def test_every_message_survives_the_trip(kind: type[Message]) -> None:
    """
    Least and fullest instance of every message decode to themselves, by the union of their side.
    """
    side = Request if kind in typing.get_args(Request) else Response
    for fullness in (0, 1):
        message = sample(kind, fullness)
        assert message == decoder(side).decode(encode(message))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda each: each.__name__)
def test_a_reader_skips_fields_of_a_newer_version(kind: type[Message]) -> None:
    """
    A field that this version does not know is no error.
    """
    message = sample(kind, 1)
    fields = msgspec.msgpack.decode(encode(message))
    fields["a_field_of_tomorrow"] = {"deep": [1, 2, {"er": None}]}

    assert message == decoder(kind).decode(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda each: each.__name__)
def test_a_reader_fills_in_fields_of_an_older_version(kind: type[Message]) -> None:
    """
    Only what has been there from the first version may be required.
    """
    config = kind.__struct_config__
    required = [f.name for f in msgspec.structs.fields(kind) if f.required]
    least = sample(kind, 0)
    fields: dict[str, Any] = {str(config.tag_field): config.tag}
    fields.update({name: getattr(least, name) for name in required})

    assert least == decoder(kind).decode(encode_any(fields))


def test_tags_are_unique() -> None:
    """
    A tag names one message, in either direction.
    """
    tags = [kind.__struct_config__.tag for kind in MESSAGES]

    assert len(tags) == len(set(tags))


def test_a_word_of_a_newer_daemon_does_not_break_a_listing() -> None:
    """
    A state that only a newer daemon has is shown as it is.
    """
    fields = msgspec.msgpack.decode(encode(Jobs(jobs=[sample(views.JobView, 0)])))
    fields["jobs"][0]["state"] = "blocked"

    assert decoder(Jobs).decode(msgspec.msgpack.encode(fields)).jobs[0].state == "blocked"


def test_a_refusal_of_a_newer_daemon_can_be_read() -> None:
    """
    The reason for a refusal reaches the user even if its code is new.
    """
    fields = {"op": "refused", "code": "too_expensive", "message": "not today"}

    assert decoder(Refused).decode(encode_any(fields)).message == "not today"


@pytest.mark.parametrize("round_number", range(20))
def test_garbage_raises_only_what_is_documented(round_number: int) -> None:
    """
    No bytes make a decoder do anything but return a message or raise one of three errors.
    """
    print(f"QUEUECTL_SEED={SEED}")
    rng = random.Random(SEED + round_number)
    decoders = [decoder(Request), decoder(Response), msgspec.msgpack.Decoder(Envelope)]
    for _ in range(200):
        if rng.random() < 0.5:
            data = bytearray(encode(sample(rng.choice(MESSAGES), 1)))
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            garbage = bytes(data[: rng.randrange(len(data) + 1)])
        else:
            garbage = rng.randbytes(rng.randrange(40))
        for each in decoders:
            try:
                assert isinstance(each.decode(garbage), msgspec.Struct)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass


def encode_any(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def sample(kind: Any, fullness: int) -> Any:
    """
    An instance of *kind*: with 0 only what is required, with 1 every field given.
    """
    values = {}
    for field in msgspec.structs.fields(kind):
        if field.required or fullness:
            values[field.name] = value_of(field.type, fullness)
    return kind(**values)


def value_of(kind: Any, fullness: int) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return arguments[0]
    if origin is list:
        return [value_of(arguments[0], fullness)] if fullness else []
    if origin is dict:
        return {"key": value_of(arguments[1], fullness)} if fullness else {}
    if arguments:  # A union, whose None stands last.
        return value_of(arguments[0], fullness)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return sample(kind, fullness)
    if kind is msgspec.Raw:
        return pack_variables({"key": "text"} if fullness else {})
    samples = {str: "text", int: 7, bool: True, bytes: b"\0raw", float: 1.5}
    return samples[kind]
