"""
What strangers, old and new clients and slow ones can send and do, while an honest one is served.
"""

import os
import resource
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from daemon_process import DaemonProcess, wait_until
from raw_connection import HELLO, Raw, check_served

from queuectl.client import Client
from queuectl.errors import QueuectlError, RequestRefused
from queuectl.framing import FRAME_BYTES_MAX, pack_frame
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Done,
    Enqueue,
    Enqueued,
    Hello,
    Jobs,
    JobSpec,
    List,
    LogEnd,
    Logs,
    Message,
    Output,
    Refused,
    SetConfig,
    Show,
    Status,
    StatusReport,
    Wait,
    Waited,
    Welcome,
    encode,
)
from queuectld.runtime.quotas import CLIENTS_MAX


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while Raw.made:
        Raw.made.pop().close()


@pytest.fixture
def raw(daemon: DaemonProcess) -> Raw:
    return Raw(daemon.socket)


NESTED = b"\x91" * 100_000 + b"\xc0"


@pytest.mark.parametrize(
    ("payload", "code", "hangs_up"),
    [
        (b"", "usage", True),
        (b"\xc1", "usage", True),
        (b"\xa5hello", "usage", True),
        (NESTED, "usage", True),
        (b"\x82\xa2op\xa6status\xa1x" + NESTED, "usage", True),
        (b"\x81\xa2op\xa2\xff\xfe", "usage", True),
        (b"\x82\xa2op\xa4show\xa2id\xa2\xff\xfe", "usage", False),
        (b"\x82\xa2op\xa6status\xa4call\xa1x", "usage", True),
        (b"\x82\xa2op\xa4show\xa2id\x07", "usage", False),
        (b"\x82\xa2op\xa4show\xa4call\x07", "usage", False),
        (b"\x82\xa2op\xa7no_such\xa4call\x07", "unsupported", False),
        (b"\x81\xa4call\x07", "unsupported", False),
    ],
)
def test_a_frame_that_is_no_request_is_refused(
    daemon: DaemonProcess, raw: Raw, payload: bytes, code: str, hangs_up: bool
) -> None:
    """
    It is refused with its call where that can be read, else the daemon says why and hangs up.
    """
    raw.send(HELLO + pack_frame(payload) + pack_frame(encode(Status(call=9))))
    assert isinstance(raw.receive(), msgspec.Struct)
    refused = raw.receive()
    assert isinstance(refused, Refused)
    assert refused.code == code
    if hangs_up:
        assert raw.receive() is None
    else:
        after = raw.receive()
        assert isinstance(after, StatusReport)
        assert after.call == 9
    check_served(daemon)


def test_a_frame_that_is_too_long_is_refused_before_it_is_held(
    daemon: DaemonProcess, raw: Raw
) -> None:
    """
    The announced length is enough to refuse it.
    """
    raw.send(HELLO + struct.pack(">I", FRAME_BYTES_MAX + 1) + b"x")
    raw.receive()
    refused = raw.receive()
    assert refused.code == "usage"
    assert str(FRAME_BYTES_MAX) in refused.message
    assert raw.receive() is None
    check_served(daemon)


def test_hello_comes_first(daemon: DaemonProcess, raw: Raw) -> None:
    """
    A request before the greeting is refused, and so is a protocol that never was.
    """
    raw.send(pack_frame(encode(Status(call=3))))
    refused = raw.receive()
    assert (refused.call, refused.code) == (3, "unsupported")
    assert raw.receive() is None
    other = Raw(daemon.socket)
    other.send(pack_frame(encode(Hello(protocol=0))))
    assert other.receive().code == "unsupported"
    assert other.receive() is None
    other.close()


def test_truncated_frames_are_waited_for(daemon: DaemonProcess, raw: Raw) -> None:
    """
    A request that comes byte by byte is a request; one that never ends stops nobody.
    """
    data = HELLO + pack_frame(encode(Status(call=4)))
    for n in range(len(data)):
        raw.send(data[n : n + 1])
    raw.receive()
    assert raw.receive().call == 4
    raw.send(struct.pack(">I", 100) + b"half")
    check_served(daemon)


# --- versions ------------------------------------------------------------------------------------


def as_map(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.msgpack.decode(encode(message))
    return fields


def test_a_newer_client_is_understood(daemon: DaemonProcess, raw: Raw) -> None:
    """
    Fields that this daemon does not know are skipped, its own protocol version is told, and an
    unknown request says what to do.
    """
    hello = {**as_map(Hello(protocol=PROTOCOL_VERSION + 1)), "color": ["new"]}
    job = {"command": "true", "shape": {"deep": [1, 2, {"x": None}]}}
    enqueue = {**as_map(Enqueue(call=1, jobs=[])), "jobs": [job], "tenant": "x"}
    for message in (hello, enqueue, {"op": "teleport", "call": 2}):
        raw.send(pack_frame(msgspec.msgpack.encode(message)))
    assert raw.receive().protocol == PROTOCOL_VERSION
    # What changes nothing need not wait for the disk.
    answers = {answer.call: answer for answer in (raw.receive(), raw.receive())}
    assert answers[1].ids == ["1"]
    assert answers[2].code == "unsupported"
    assert "restart the daemon" in answers[2].message


def test_an_older_client_is_understood(daemon: DaemonProcess, raw: Raw) -> None:
    """
    Fields that it does not send have their defaults.
    """
    for message in (
        {"op": "hello", "protocol": 1},
        {"op": "enqueue", "call": 1, "jobs": [{"command": "true"}]},
        {"op": "list", "call": 2},
    ):
        raw.send(pack_frame(msgspec.msgpack.encode(message)))
    raw.receive()
    assert raw.receive().ids == ["1"]
    assert [job.id for job in raw.receive().jobs] == ["1"]


# --- many and slow --------------------------------------------------------------------------------


def test_ten_thousand_requests_are_pipelined(daemon: DaemonProcess) -> None:
    """
    All are answered, each once, those of one kind in their order.
    """
    count = 10_000
    with daemon.client() as client:
        answered: list[int] = []
        sent = 0
        while len(answered) < count:
            while sent < count and sent - len(answered) < 500:
                sent += 1
                job = JobSpec(command="true", hold=True)
                client.send(Enqueue(call=sent, jobs=[job], request_id=f"r{sent}"))
            answer = client.receive(Enqueued, timeout_ms=20_000)
            assert answer.ids == [str(answer.call)]
            answered.append(answer.call)
    assert answered == list(range(1, count + 1))
    assert daemon.status().jobs["held"] == count


def test_one_that_asks_much_and_reads_nothing_is_not_served_on(daemon: DaemonProcess) -> None:
    """
    Fifteen thousand requests in one write, each for a large answer: the daemon holds little of
    that, others are served, and all is answered when it is read at last.
    """
    daemon.enqueue(*["x" * 300] * 1000, hold=True)
    before = daemon.rss_bytes()
    greedy = Raw(daemon.socket)
    count = 3000
    requests = b"".join(pack_frame(encode(List(call=n, limit=1000))) for n in range(1, count + 1))
    greedy.sock.setblocking(False)
    greedy.sock.send(HELLO + requests)
    for _ in range(5):
        check_served(daemon)
    grown = daemon.rss_bytes() - before
    assert grown < 200 << 20, f"{grown >> 20} MiB"
    greedy.sock.settimeout(20)
    greedy.receive()
    assert [greedy.receive().call for _ in range(30)] == list(range(1, 31))
    greedy.close()
    check_served(daemon)


def test_three_hundred_idle_connections_cost_nothing(daemon: DaemonProcess) -> None:
    """
    Neither silence nor a half greeting keeps others from being served.
    """
    idle = [Raw(daemon.socket) for _ in range(300)]
    for number, connection in enumerate(idle):
        connection.send(HELLO[: number % len(HELLO)])
    check_served(daemon)
    for connection in idle:
        connection.close()


def test_too_many_connections_are_told_so(daemon: DaemonProcess) -> None:
    """
    The one beyond the limit is refused with a reason; when others go there is room again.
    """
    connections: list[Raw] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        connections = [Raw(daemon.socket) for _ in range(CLIENTS_MAX + 1)]
        refused = connections[-1].receive()
        assert isinstance(refused, Refused)
        assert refused.code == "try_later"
        assert connections[-1].receive() is None
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def served() -> bool:
        try:
            return daemon.status().daemon.pid == daemon.pid
        except QueuectlError:
            return False

    wait_until(served)


def first_refused(daemon: DaemonProcess) -> tuple[Raw, Refused]:
    """
    Open connections, and keep them, until one is refused; return it with its refusal.
    """
    for _ in range(8):
        connection = Raw(daemon.socket)
        connection.send(HELLO)
        answer = connection.receive()
        if isinstance(answer, Refused):
            return connection, answer
        assert isinstance(answer, Welcome)
    raise AssertionError("eight more connections were served")


def test_a_daemon_without_descriptors_serves_on(daemon: DaemonProcess) -> None:
    """
    With no descriptor left new connections are told so, those that are there are served, and all
    goes on by itself when there are some again.
    """
    with daemon.client() as client:
        client.call(Status(), StatusReport)
        used = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        # A number below the limit may be free: one that was in use for a moment when they were
        # counted, or a gap. Connections that are served take those first.
        late, refused = first_refused(daemon)
        assert refused.code == "try_later"
        assert "no descriptor" in refused.message
        assert late.receive() is None
        (job_id,) = client.enqueue([JobSpec(command="true", hold=True)]).ids
        assert job_id is not None
        with pytest.raises(RequestRefused) as refusal:
            # Nothing was written, so there is no file to read either: this needs no descriptor.
            client.call(Logs(id="no-such-job"), LogEnd)
        assert refusal.value.code == "not_found"
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
    check_served(daemon)


def test_more_followers_than_there_may_be_are_refused(daemon: DaemonProcess) -> None:
    """
    Log streams hold descriptors, so there are only so many; each beyond is told so.
    """
    (job_id,) = daemon.enqueue("true", hold=True)
    first, second = Raw(daemon.socket), Raw(daemon.socket)
    for connection, count in ((first, 200), (second, 100)):
        connection.send(HELLO)
        for call in range(1, count + 1):
            connection.send(pack_frame(encode(Logs(call=call, id=job_id, follow=True))))
        # Its answer comes when the requests before it were taken.
        connection.send(pack_frame(encode(Show(call=count + 1, id=job_id))))
        connection.receive()
        if connection is first:
            assert connection.receive().call == count + 1
    refusals = [second.receive() for _ in range(44)]
    assert {each.code for each in refusals} == {"try_later"}
    check_served(daemon)


def test_waits_and_streams_end_with_their_connection(daemon: DaemonProcess) -> None:
    """
    Whoever hangs up while waiting leaves nothing behind.
    """
    (job_id,) = daemon.enqueue("true", hold=True)
    for _ in range(3):
        connection = Raw(daemon.socket)
        connection.send(HELLO)
        for call in range(1, 90):
            connection.send(pack_frame(encode(Logs(call=call, id=job_id, follow=True))))
            connection.send(pack_frame(encode(Wait(call=1000 + call, ids=[job_id]))))
        connection.receive()
        connection.close()
    with daemon.client() as client:
        # There is room for all of these only if those above are gone.
        for _ in range(250):
            client.send(Logs(id=job_id, follow=True))
        with pytest.raises(RequestRefused, match="no setting"):
            client.call(SetConfig(key="no-such-key"), Done)
    with daemon.client() as client:
        with pytest.raises(RequestRefused, match="no job"):
            client.call(Show(id="nobody"), Waited)
        assert client.call(List(), Jobs).jobs


def test_output_of_nothing_is_nothing(daemon: DaemonProcess) -> None:
    """
    Offsets and line counts beyond reason are no reason to stop.
    """
    (job_id,) = daemon.enqueue("echo some")
    daemon.wait_for(job_id)
    for offset in (-(2**63), -1, 2**63 - 1, 2**64 - 1):
        with Client(daemon.socket) as client:
            got = list(client.stream(Logs(id=job_id, offset=offset), Output, LogEnd))
        assert isinstance(got[-1], LogEnd)
    for lines, expected in ((-5, b""), (0, b""), (2**64 - 1, b"some\n")):
        assert daemon.output(job_id, tail_lines=lines) == expected
