import os
import random

import pytest

from queuectld.runner import messages
from queuectld.runner.messages import (
    Ack,
    Body,
    BodyError,
    Exited,
    Hello,
    MessageError,
    Ready,
    Refused,
    Running,
    Signal,
    Start,
    Stop,
    Welcome,
)

U64 = 2**64 - 1
U32 = 2**32 - 1

REQUESTS = [
    (messages.pack_hello(U64), Hello(messages.VERSION, U64)),
    (messages.pack_hello(1, version=7), Hello(7, 1)),
    (
        messages.pack_start(U64, U32, 0o777, b"body", 1000),
        Start(U64, U32, 1000, 0o777, 4, b"body"),
    ),
    (messages.pack_start(1, 1, 0, b""), Start(1, 1, messages.UID_OWN, 0, 0, b"")),
    (messages.pack_signal(5, 6, 64), Signal(5, 6, 64)),
    (messages.pack_ack(5, 6), Ack(5, 6)),
    (messages.pack_stop(U32), Stop(U32)),
]
EVENTS = (
    [
        (
            messages.pack_welcome(Welcome(1, 2, 3, U64, "1.0 grün")),
            Welcome(1, 2, 3, U64, "1.0 grün"),
        ),
        (messages.pack_welcome(Welcome(1, 2, 3, 4, "")), Welcome(1, 2, 3, 4, "")),
        (messages.pack_running(U64, U32, 7, 8), Running(U64, U32, 7, 8)),
        (messages.pack_refused(1, 2, 28, messages.SPAWN), Refused(1, 2, 28, messages.SPAWN)),
        (messages.pack_ready(), Ready()),
    ]
    + [
        (messages.pack_refused(U64, 2, 0, stage, reason), Refused(U64, 2, 0, stage, reason))
        for stage, reason in [
            (messages.ACCOUNT, messages.GONE),
            (messages.ACCOUNT, messages.SHELL),
            (messages.POLICY, messages.BELOW_UID_MIN),
            (messages.POLICY, messages.NO_SWITCH),
        ]
    ]
    + [
        (messages.pack_exited(exited), exited)
        for exited in [
            Exited(1, 2, 0x2A00, True, 3, 4, True, 5, 6, messages.USAGE_MAX),
            Exited(1, 2, -1, True, 3, 4, False, 0, 0, 0),
            Exited(U64, U32, 0, False, 3, 4, False, 0, 0, 0),
        ]
    ]
)


@pytest.mark.parametrize(("data", "request_"), REQUESTS)
def test_requests_arrive_as_they_were_sent(data, request_):
    """
    Every request is read back, at the limits of its fields too.
    """
    assert request_ == messages.unpack_request(data)


@pytest.mark.parametrize(("data", "event"), EVENTS)
def test_events_arrive_as_they_were_sent(data, event):
    """
    Every event is read back, at the limits of its fields too.
    """
    assert event == messages.unpack_event(data)


@pytest.mark.parametrize(
    ("unpack", "data"),
    [(messages.unpack_request, data) for data, _ in REQUESTS]
    + [(messages.unpack_event, data) for data, _ in EVENTS],
)
def test_a_message_of_another_length_is_refused(unpack, data):
    """
    Cut at any byte, or longer by one, a message is no message.
    """
    for size in range(len(data)):
        with pytest.raises(MessageError):
            unpack(data[:size])
    with pytest.raises(MessageError):
        unpack(data + b"\0")


def test_the_directions_do_not_mix():
    """
    A request is no event, an event no request.
    """
    for data, _ in REQUESTS:
        with pytest.raises(MessageError):
            messages.unpack_event(data)
    for data, _ in EVENTS:
        with pytest.raises(MessageError):
            messages.unpack_request(data)


@pytest.mark.parametrize(
    "data",
    [
        messages.pack_signal(1, 1, 0),
        messages.pack_signal(1, 1, 65),
        messages.pack_start(1, 1, 0o1000, b""),
        messages.pack_hello(1)[:-8] + bytes(8),
    ],
)
def test_fields_out_of_range_are_refused(data):
    """
    A signal that does not exist, a umask that is none, and epoch 0 ("none yet") are refused.
    """
    with pytest.raises(MessageError):
        messages.unpack_request(data)


def test_figures_that_no_runner_says_are_refused():
    """
    An error number that the kernel does not have, and more used than there can be.
    """
    packed = messages.pack_refused(1, 1, messages.ERRNO_MAX, messages.EXEC)
    assert messages.ERRNO_MAX == messages.unpack_event(packed).errno
    with pytest.raises(MessageError):
        messages.unpack_event(messages.pack_refused(1, 1, messages.ERRNO_MAX + 1, messages.EXEC))
    exited = Exited(1, 2, 0, True, 3, 4, True, 5, 6, 7)
    for field in ("utime_us", "stime_us", "maxrss_kib"):
        packed = messages.pack_exited(exited._replace(**{field: messages.USAGE_MAX + 1}))
        with pytest.raises(MessageError):
            messages.unpack_event(packed)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (messages.EXEC, messages.GONE),
        (messages.ACCOUNT, 0),
        (messages.ACCOUNT, messages.NO_SWITCH),
        (messages.POLICY, messages.GONE),
        (messages.POLICY, messages.NO_SWITCH + 1),
    ],
)
def test_a_reason_of_another_stage_is_refused(stage: int, reason: int):
    """
    ACCOUNT and POLICY have a reason, each its own; no other stage has one.
    """
    data = bytearray(messages.pack_refused(1, 1, 0, messages.CWD))
    data[20:22] = stage, reason
    with pytest.raises(MessageError):
        messages.unpack_event(bytes(data))


def test_every_reason_is_told_with_the_account():
    """
    People read a sentence; only the one about root needs no name.
    """
    assert messages.REASONS.keys() == {*range(1, 6), *range(16, 22)}
    for reason in messages.REASONS:
        stage = messages.ACCOUNT if reason < 16 else messages.POLICY
        text = Refused(1, 1, 0, stage, reason).explain("alice")
        assert ("alice" in text) == (reason != messages.ROOT)
        assert "{" not in text
    assert "account alice was deleted" == Refused(1, 1, 0, messages.ACCOUNT, messages.GONE).explain(
        "alice"
    )


def test_random_bytes_are_read_or_refused(rng: random.Random):
    """
    Whatever arrives, the reader ends in a message or in MessageError.
    """
    valid = [data for data, _ in REQUESTS + EVENTS]
    read_count = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(valid))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut = bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data) + 1)])])
        for unpack in (messages.unpack_request, messages.unpack_event):
            try:
                unpack(cut)
                read_count += 1
            except MessageError:
                pass
    assert read_count > 1000


def test_a_body_is_inline_up_to_its_limit():
    """
    At the limit the body is in the packet, one byte above it the packet only announces it.
    """
    limit = messages.BODY_INLINE_BYTES_MAX
    inline = messages.pack_start(1, 1, 0, b"x" * limit)
    announced = messages.pack_start(1, 1, 0, b"x" * (limit + 1))

    assert Start(1, 1, messages.UID_OWN, 0, limit, b"x" * limit) == messages.unpack_request(inline)
    assert messages.MESSAGE_BYTES_MAX == len(inline)
    assert Start(1, 1, messages.UID_OWN, 0, limit + 1, None) == messages.unpack_request(announced)


def test_a_body_announced_above_the_limit_is_refused():
    """
    Nobody reads a memfd of more than BODY_BYTES_MAX.
    """
    data = messages.pack_start(1, 1, 0, b"x" * messages.BODY_BYTES_MAX)
    too_large = data[:-4] + (messages.BODY_BYTES_MAX + 1).to_bytes(4, "little")

    assert messages.BODY_BYTES_MAX == messages.unpack_request(data).body_bytes
    with pytest.raises(MessageError):
        messages.unpack_request(too_large)


def test_a_memfd_holds_the_body():
    """
    All of the body is in the memfd, from its start.
    """
    body = bytes(range(256)) * 1000
    fd = messages.memfd("body", body)
    try:
        assert body == os.pread(fd, len(body) + 1, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("cwd", "argv", "env", "script", "user"),
    [
        ("/", ["true"], {}, "", ""),
        ("/tmp", ["a", "", "c"], {"A": "1", "B": "", "C": "x=y"}, "", "alice"),
        ("/tmp", [], {"A": "1"}, "#!/bin/sh\nexit\n", "bob"),
        ("/tmp", ["p"], {}, "zero \0 byte", ""),
        ("/ü\udcff", ["\udc80"], {"Ü": "\udcfe"}, "\udc81", "ü\udcff"),
    ],
)
def test_a_body_is_read_as_it_was_packed(cwd, argv, env, script, user):
    """
    Empty texts, values with '=', bytes that are no UTF-8 and zeros in a script all pass.
    """

    def encode(text):
        return text.encode("utf-8", "surrogateescape")

    expected = Body(
        encode(cwd),
        [encode(text) for text in argv],
        {encode(name): encode(value) for name, value in env.items()},
        encode(script),
        encode(user),
    )
    assert expected == messages.unpack_body(messages.pack_body(cwd, argv, env, script, user))


def test_a_body_cut_at_any_byte_is_refused():
    """
    A body without a script is whole or refused. (With one, the length in START guards its end.)
    """
    body = messages.pack_body("/tmp", ["echo", "a"], {"PATH": "/bin", "A": ""}, user="alice")
    for size in range(len(body)):
        with pytest.raises(BodyError):
            messages.unpack_body(body[:size])


@pytest.mark.parametrize(
    ("cwd", "argv", "env", "script"),
    [
        ("/", [], {}, ""),
        ("/\0", ["true"], {}, ""),
        ("/", ["a\0b"], {}, ""),
        ("/", ["true"], {"A": "\0"}, ""),
        ("/", ["true"], {"": "1"}, ""),
        ("/", ["true"], {"A=B": "1"}, ""),
        ("/", ["true"], {"A=B": "1", "A": "2"}, ""),
        ("/", ["true"], {}, "x" * messages.BODY_BYTES_MAX),
    ],
)
def test_what_no_process_can_be_given_is_refused(cwd, argv, env, script):
    """
    Nothing to execute, zero bytes in texts, impossible names and too much are refused when packed.
    """
    with pytest.raises(BodyError):
        messages.pack_body(cwd, argv, env, script)


def test_a_user_with_a_zero_byte_is_refused():
    """
    The name of the account ends where its text does.
    """
    with pytest.raises(BodyError):
        messages.pack_body("/", ["true"], {}, user="alice\0")


@pytest.mark.parametrize("setting", [b"LANG", b"=BC2", b"===="])
def test_a_setting_without_a_name_or_a_sign_is_refused_when_read(setting: bytes):
    """
    The runner reads what it could not be told by `pack_body`, and never starts a job with it.
    """
    body = messages.pack_body("/", ["true"], {"A": "1", "BC": "2"})
    with pytest.raises(BodyError):
        messages.unpack_body(body.replace(b"BC=2", setting))


def test_random_bodies_are_read_or_refused(rng: random.Random):
    """
    Whatever the body, reading it ends in a Body or in BodyError, and takes no more room than it.
    """
    valid = messages.pack_body("/tmp", ["echo", "a"], {"PATH": "/bin", "A": ""}, "script")
    read_count = 0
    for _ in range(20_000):
        data = bytearray(valid)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 2, 61, 255, rng.randrange(256)])
        try:
            messages.unpack_body(bytes(data))
            read_count += 1
        except BodyError:
            pass
    assert read_count > 100
