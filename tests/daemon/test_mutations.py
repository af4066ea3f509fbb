"""
Random requests and random bytes, while an honest client is served.

They come from a seed, which is printed; QUEUECTL_SEED replays it.
"""

import functools
import os
import random
import select
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from daemon_process import DaemonProcess
from raw_connection import HELLO, Raw, check_served, decode

from queuectl.framing import pack_frame
from queuectl.messages import Request
from queuectl.protocol import Refused, Status, StatusReport, encode

SEED = int(os.environ.get("QUEUECTL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
FRAMES = 100_000
# Frames sent over one connection: of those whose bytes are broken most end it.
FRAMES_PER_CONNECTION = 24
# Of the frames, those whose bytes are broken too, not only what they say.
BROKEN_SHARE = 0.1
CONNECTIONS_AT_ONCE = 16
GROWTH_BYTES_MAX = 64 << 20


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while Raw.made:
        Raw.made.pop().close()


STRANGE: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf")),
    *("", "x", "last", "1-3", "9-1", "0-99999999999", "a" * 5000, "\0", "\x1b[31m", "\u202e", "é"),
    *([], [None], ["1"], {}, {"a": "b"}, {"": ""}, {"a=b": "c"}, b"", b"\xff\xfe", [[[[[]]]]]),
]
#: Shutdown is what it says; and what fills the queue with work is not the point here.
OPS = [each for each in Request.__args__ if each.__struct_config__.tag not in ("shutdown", "hello")]


def random_request(chance: random.Random, call: int) -> dict[str, Any]:
    """
    Return a request with any values in its fields: half of the time of the right type.
    """
    kind = chance.choice(OPS)
    fields: dict[str, Any] = {"op": kind.__struct_config__.tag, "call": call}
    for field in fields_of(kind):
        if chance.random() < 0.5 and field.name != "call":
            fields[field.name] = random_value(chance, field.type)
    if fields["op"] == "enqueue" and isinstance(fields.get("jobs"), list):
        # Held: nothing is started, whatever the rest says.
        for job in fields["jobs"]:
            if isinstance(job, dict):
                job["hold"] = True
    return fields


fields_of = functools.cache(msgspec.structs.fields)
type_info = functools.cache(msgspec.inspect.type_info)


def random_value(chance: random.Random, kind: Any) -> Any:
    if chance.random() < 0.3:
        return chance.choice(STRANGE)
    return value_of(chance, type_info(kind))


def value_of(chance: random.Random, info: Any) -> Any:
    inspect = msgspec.inspect
    if isinstance(info, inspect.UnionType):
        return value_of(chance, chance.choice(info.types))
    if isinstance(info, inspect.ListType):
        return [value_of(chance, info.item_type) for _ in range(chance.randrange(4))]
    if isinstance(info, inspect.DictType):
        return {f"K{n}": value_of(chance, info.value_type) for n in range(chance.randrange(3))}
    if isinstance(info, inspect.StructType):
        return {
            field.name: value_of(chance, field.type)
            for field in info.fields
            if chance.random() < 0.4 or field.required
        }
    if isinstance(info, inspect.LiteralType):
        return chance.choice(list(info.values))
    if isinstance(info, inspect.BoolType):
        return chance.random() < 0.5
    wanted = {inspect.IntType: int, inspect.FloatType: float, inspect.StrType: str}.get(type(info))
    return chance.choice([each for each in STRANGE if type(each) is wanted] or [None])


def mutated(chance: random.Random, payload: bytes) -> bytes:
    data = bytearray(payload)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data)) if data else 0
        action = chance.randrange(4)
        if action == 0 and data:
            data[at] = chance.randrange(256)
        elif action == 1:
            del data[at : at + chance.randrange(1, 8)]
        elif action == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 8))
        elif data:
            data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


class Sender:
    """
    One connection that sends broken requests, numbered from 1, and then asks for the status.
    """

    def __init__(self, daemon: DaemonProcess, chance: random.Random) -> None:
        frames = [HELLO]
        for call in range(1, FRAMES_PER_CONNECTION + 1):
            payload = msgspec.msgpack.encode(random_request(chance, call))
            if chance.random() < BROKEN_SHARE:
                payload = mutated(chance, payload)
            frames.append(pack_frame(payload))
        self.last_call = FRAMES_PER_CONNECTION + 1
        frames.append(pack_frame(encode(Status(call=self.last_call))))
        self._data = memoryview(b"".join(frames))
        self._raw = Raw(daemon.socket)
        self._raw.sock.setblocking(False)
        #: Of the requests that were answered the last.
        self.answered_call = 0

    def go_on(self) -> bool:
        """
        Send what is taken and read what has come. Returns whether that was not all.
        """
        readable, writable, _ = select.select(
            [self._raw.sock], [self._raw.sock] if self._data else [], [], 20
        )
        assert readable or writable, "neither an answer nor an end"
        try:
            if writable:
                self._data = self._data[self._raw.sock.send(self._data) :]
            if readable:
                data = self._raw.sock.recv(1 << 20)
                if not data:
                    return False
                self._raw.reader.feed(data)
        except BlockingIOError:
            return True
        except (BrokenPipeError, ConnectionResetError):
            self._data = self._data[:0]  # What it said before it hung up may still be read.
            return True
        for frame in self._raw.reader:
            answer = decode(frame)
            assert not (isinstance(answer, Refused) and "Traceback" in answer.message)
            if 0 < answer.call <= self.last_call:
                self.answered_call = max(self.answered_call, answer.call)
        return self.answered_call < self.last_call

    def close(self) -> None:
        self._raw.close()


def test_a_hundred_thousand_broken_requests_do_no_harm(daemon: DaemonProcess) -> None:
    """
    Whatever the fields hold and whichever bytes are broken: the daemon goes on, an honest client is
    served meanwhile, and memory stays within bounds.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    honest = daemon.client()
    before_bytes = daemon.rss_bytes()
    taken = 0
    while taken < FRAMES:
        senders = [Sender(daemon, chance) for _ in range(CONNECTIONS_AT_ONCE)]
        for sender in senders:
            while sender.go_on():
                pass
            taken += min(sender.answered_call, FRAMES_PER_CONNECTION)
            sender.close()
        Raw.made.clear()
        assert honest.call(Status(), StatusReport, timeout_ms=20_000).daemon.pid == daemon.pid
    assert "Traceback" not in daemon.log
    check_served(daemon)
    assert daemon.rss_bytes() - before_bytes < GROWTH_BYTES_MAX
    daemon.restart()
    check_served(daemon)


def test_random_bytes_do_no_harm(daemon: DaemonProcess) -> None:
    """
    A stream of anything is refused or waited for, and ends nothing but its own connection.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    for _ in range(200):
        connection = Raw(daemon.socket)
        start = chance.choice([b"", HELLO, struct.pack(">I", chance.randrange(64))])
        connection.send(start + chance.randbytes(chance.randrange(2000)))
        connection.close()
    check_served(daemon)
    assert "Traceback" not in daemon.log
