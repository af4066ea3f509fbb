"""
A job's output, live: every byte once, from wherever one begins, for however many.
"""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess
from live_clients import Told, event_stream, messages_of, open_socket, output_of, until_end

from queuectl.client import Client
from queuectl.protocol import Act, Acted, Selection, SetConfig
from queuectl.protocol import Config as ConfigAnswer
from queuectl.web.output_feed import KEPT_BYTES_MAX, TAIL_BYTES

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))


def token_of(client: httpx.Client) -> str:
    return client.headers["Authorization"].removeprefix("Bearer ")


class Writer:
    """
    A job that writes what a test gives it, when the test says so.
    """

    def __init__(self, daemon: DaemonProcess, name: str, **fields: Any) -> None:
        self.pipe = f"{daemon.directory}/{name}.pipe"
        os.mkfifo(self.pipe)
        os.mkfifo(f"{self.pipe}.code")
        (self.id,) = daemon.enqueue(f"cat {self.pipe}; exit $(cat {self.pipe}.code)", **fields)
        self._fd = -1

    def write(self, data: bytes) -> None:
        """
        Have the job write bytes; waits until the job reads them.
        """
        if self._fd < 0:
            self._fd = os.open(self.pipe, os.O_WRONLY)
        while data:
            data = data[os.write(self._fd, data) :]

    def end(self, exit_code: int = 0) -> None:
        """
        End the attempt.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        else:
            os.close(os.open(self.pipe, os.O_WRONLY))
        with open(f"{self.pipe}.code", "w", encoding="ascii") as pipe:
            pipe.write(str(exit_code))


@pytest.fixture
def writer(web_daemon: DaemonProcess, request: pytest.FixtureRequest) -> Writer:
    return Writer(web_daemon, request.node.name.partition("[")[0], max_retries=0)


def stream_path(job_id: str, **query: object) -> str:
    words = "&".join(f"{key}={value}" for key, value in query.items())
    return f"/api/v1/jobs/{job_id}/output/stream?{words}"


# --- one job -------------------------------------------------------------------------------------


def test_output_as_it_is_written(client: httpx.Client, writer: Writer) -> None:
    """
    What was there is told first, then each piece as it comes with the time when it was written,
    then how the job ended. Colours stay in it.
    """
    writer.write(b"before\n")
    with event_stream(client, stream_path(writer.id)) as told:
        assert "before\n" == next(told).data["text"]
        writer.write("\x1b[31mrot und grün\x1b[0m\n".encode())
        piece = next(told)
        assert "\x1b[31mrot und grün\x1b[0m\n" == piece.data["text"]
        assert ("output", "1:30") == (piece.data["stream"], piece.id)
        assert piece.data["at"] > 0
        writer.end(3)
        attempt_end, end = until_end(told)
    assert ("attempt_end", "dead", 3) == (
        attempt_end.event,
        attempt_end.data["state"],
        attempt_end.data["exit_code"],
    )
    assert {"reason": "finished", "attempt": 1, "state": "dead", "exit_code": 3} == end.data


def test_both_ways_carry_the_same(
    gateway: GatewayProcess, client: httpx.Client, writer: Writer
) -> None:
    """
    A WebSocket's messages are the events of the stream.
    """
    writer.write(b"one\n")
    writer.end()
    with event_stream(client, stream_path(writer.id)) as told:
        events = [repr(each) for each in until_end(told)]
    path = f"/api/v1/jobs/{writer.id}/output/socket"
    with open_socket(gateway, path, token_of(client)) as socket:
        assert events == [repr(each) for each in messages_of(socket)]
        assert 1000 == socket.close_code


def test_a_job_that_has_not_begun(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Its stream stands open until it begins, and has its first byte.
    """
    (job_id,) = web_daemon.enqueue("echo hello", hold=True)
    with event_stream(client, stream_path(job_id)) as told:
        act(web_daemon, "release", job_id)
        assert {1: b"hello\n"} == output_of(until_end(told))


def test_a_job_that_never_begins(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    The stream of a job that is cancelled before its first attempt ends with that.
    """
    (job_id,) = web_daemon.enqueue("echo hello", hold=True)
    with event_stream(client, stream_path(job_id)) as told:
        act(web_daemon, "cancel", job_id)
        (end,) = until_end(told)
    assert {"reason": "finished", "state": "cancelled"} == end.data
    with event_stream(client, stream_path(job_id)) as told:
        assert [repr(end)] == [repr(each) for each in until_end(told)]


def test_attempts_follow_each_other(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    The output of each attempt begins at 0 with the attempt's number; between them stands how the
    one before ended and when the next one is due.
    """
    command = 'echo "try $QUEUECTL_ATTEMPT"; test "$QUEUECTL_ATTEMPT" = 2'
    (job_id,) = web_daemon.enqueue(command, max_retries=1)
    with event_stream(client, stream_path(job_id, attempt=1)) as told:
        only = until_end(told)
    assert {1: b"try 1\n"} == output_of(only)
    assert "attempt_over" == only[-1].data["reason"]
    with event_stream(client, stream_path(job_id, after="1:0")) as told:
        all_of_it = until_end(told)
    assert {1: b"try 1\n", 2: b"try 2\n"} == output_of(all_of_it)
    with event_stream(client, stream_path(job_id, attempt=2, after="1:3")) as told:
        assert {2: b"try 2\n"} == output_of(until_end(told), (2, 0))
    assert ("completed", 2) == (all_of_it[-1].data["state"], all_of_it[-1].data["attempt"])


def test_bytes_that_are_no_text(client: httpx.Client, writer: Writer) -> None:
    """
    Every byte arrives as it is: what is not UTF-8 in base64, a character that is written in two
    halves as one.
    """
    with event_stream(client, stream_path(writer.id)) as told:
        writer.write(b"caf\xc3")
        first = next(told)
        assert ("caf", "1:3") == (first.data["text"], first.id)
        writer.write(b"\xa9\n")
        assert "é\n" == next(told).data["text"]
        writer.write(bytes(range(256)))
        binary = next(told)
        assert "base64" in binary.data
        assert bytes(range(256)) == binary.output
        writer.write(b"end \xe2\x82")
        writer.end()
        rest = until_end(told)
    assert b"end \xe2\x82" == b"".join(each.output for each in rest if each.event == "output")


def test_what_the_output_limit_drops(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    A gap is told as so many bytes that are gone, and what is behind it comes at its offset.
    """
    with Client(web_daemon.socket) as daemon:
        daemon.call(SetConfig(key="output_limit", value=1 << 20), ConfigAnswer)
    (job_id,) = web_daemon.enqueue("head -c 6000000 /dev/zero; echo; echo done")
    web_daemon.wait_for(job_id)
    with Client(web_daemon.socket) as daemon:
        daemon.call(SetConfig(key="output_limit", unset=True), ConfigAnswer)
    with event_stream(client, stream_path(job_id)) as told:
        found = until_end(told)
    output = output_of(found)[1]
    dropped_bytes = sum(each.data.get("dropped_bytes", 0) for each in found)
    assert dropped_bytes > 1 << 20
    assert len(output) + dropped_bytes == 6_000_006
    assert output.endswith(b"\0\ndone\n")


# --- where one begins ----------------------------------------------------------------------------


def test_wherever_one_begins_every_byte_comes_once(
    gateway: GatewayProcess, client: httpx.Client, writer: Writer
) -> None:
    """
    Whoever joins at any time, from any offset, over either way, gets exactly the bytes from there
    on: those that lie behind what the gateway keeps, those that it keeps and those that come.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    written = bytearray()
    found: dict[tuple[str, int], list[Told]] = {}
    followers: list[threading.Thread] = []
    token = token_of(client)

    def write(size: int) -> None:
        data = chance.choice((chance.randbytes(size), "äöü€𝄞\n".encode() * (size // 15 + 1)))
        written.extend(data)
        writer.write(data)

    def follow(key: tuple[str, int]) -> None:
        way, offset = key
        if way == "socket":
            path = f"/api/v1/jobs/{writer.id}/output/socket?offset={offset}"
            with open_socket(gateway, path, token) as socket:
                found[key] = list(messages_of(socket))
        else:
            with event_stream(client, stream_path(writer.id, offset=offset)) as told:
                found[key] = until_end(told)

    write(3 * KEPT_BYTES_MAX)
    for _ in range(12):
        key = (chance.choice(("socket", "events")), chance.randrange(len(written)))
        thread = threading.Thread(target=follow, args=(key,))
        thread.start()
        followers.append(thread)
        for _ in range(chance.randrange(4)):
            write(chance.choice((1, 10, 5_000, 70_000)))
    writer.end()
    for thread in followers:
        thread.join(20)
    assert len(found) == len({*found}) > 8
    for (_way, offset), told in found.items():
        assert bytes(written[offset:]) == output_of(told, (1, offset))[1]


def test_wherever_one_begins_in_several_attempts(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    From any place in any attempt everything follows, also of attempts that are over and of which
    the gateway keeps nothing. Only of one that writes just now a reader may miss something.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    size = KEPT_BYTES_MAX + 100_000
    with Client(daemon.socket) as client:
        client.call(SetConfig(key="backoff_base", value=1), ConfigAnswer)
    command = f"head -c {size} /dev/zero | tr '\\0' $QUEUECTL_ATTEMPT; exit 1"
    (job_id,) = daemon.enqueue(command, max_retries=2)
    client = gateways(daemon).start().token_client()
    whole = {attempt: str(attempt).encode() * size for attempt in (1, 2, 3)}
    while True:
        over = daemon.state(job_id) == "dead"
        made = max(daemon.show(job_id).job.attempt or 1, 1)
        attempt, offset = chance.randint(1, made), chance.randrange(size)
        with event_stream(client, stream_path(job_id, after=f"{attempt}:{offset}")) as told:
            found = output_of(until_end(told), (attempt, offset), None if over else whole)
        first = whole[attempt][offset:]
        assert found == {attempt: first} | {n: whole[n] for n in whole if n > attempt}
        if over:
            break


def test_a_browser_that_comes_back(client: httpx.Client, writer: Writer) -> None:
    """
    A browser repeats the id of the last event it has, and goes on right after it; the address
    that it was given, with another offset, does not matter any more.
    """
    writer.write(b"0123456789")
    with event_stream(client, stream_path(writer.id, offset=5)) as told:
        last = next(told)
    assert "56789" == last.data["text"]
    writer.write(b"more")
    writer.end()
    headers = {"Last-Event-ID": last.id or ""}
    with event_stream(client, stream_path(writer.id, offset=5), **headers) as told:
        assert {1: b"more"} == output_of(until_end(told), (1, 10))


def test_the_last_of_long_output(client: httpx.Client, writer: Writer) -> None:
    """
    With tail_bytes one begins that far before the end; the offset says where that is.
    """
    writer.write(b"x" * (2 * TAIL_BYTES) + b"the end")
    wait_until(lambda: first_of(client, writer, 7).output == b"the end")
    assert 2 * TAIL_BYTES == first_of(client, writer, 7).data["offset"]
    writer.end()


def first_of(client: httpx.Client, writer: Writer, tail_bytes: int) -> Told:
    with event_stream(client, stream_path(writer.id, tail_bytes=tail_bytes)) as told:
        return next(told)


def test_what_makes_no_sense(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    A wrong request is answered as anywhere in the API, before a stream begins.
    """
    (job_id,) = web_daemon.enqueue("true", hold=True)
    for path, status, code in (
        (stream_path("nobody"), 404, "not_found"),
        (stream_path("1-1000"), 404, "not_found"),
        (stream_path(job_id, attempt=2), 404, "not_found"),
        (stream_path(job_id, attempt=0), 404, "not_found"),
        (stream_path(job_id, after="2:0"), 404, "not_found"),
        (stream_path(job_id, offset=-1), 400, "usage"),
        (stream_path(job_id, offset="9" * 30), 400, "usage"),
        (stream_path(job_id, offset="٣"), 400, "usage"),
        (stream_path(job_id, after="1"), 400, "usage"),
        (stream_path(job_id, tail_bytes=TAIL_BYTES + 1), 400, "usage"),
    ):
        answer = client.get(path)
        assert (status, code) == (answer.status_code, answer.json()["code"]), path


def test_who_asks_for_the_head_alone(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Is answered at once; there is no stream that nobody could read.
    """
    (job_id,) = web_daemon.enqueue("true", hold=True)
    answer = client.head(stream_path(job_id))
    assert answer.headers["content-type"].startswith("text/event-stream")


# --- restarts ------------------------------------------------------------------------------------


def test_the_daemon_restarts(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    """
    Who follows notices nothing: the job writes on, and each byte comes once.
    """
    gateway = gateways(daemon).start()
    writer = Writer(daemon, "restart")
    writer.write(b"first\n")
    with event_stream(gateway.token_client(), stream_path(writer.id)) as told:
        first = next(told)
        assert daemon.stop() == 0
        writer.write(b"second\n")
        daemon.start()
        second = next(told)
        writer.write(b"third\n")
        writer.end()
        rest = until_end(told)
    assert {1: b"first\nsecond\nthird\n"} == output_of([first, second, *rest])
    assert second.data["text"] == "second\n"


def test_the_gateway_restarts(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    A gateway that stops says so; the id of the last event is good for the next one.
    """
    gateway = gateways(daemon).start()
    writer = Writer(daemon, "restart")
    token = gateway.make_token()
    writer.write(b"first\n")
    with event_stream(gateway.token_client(token=token), stream_path(writer.id)) as told:
        last = next(told)
        assert gateway.process is not None
        gateway.process.terminate()
        (end,) = until_end(told)
    assert {"reason": "stopping"} == end.data
    assert gateway.stop() == 0
    gateway.start()
    writer.write(b"second\n")
    writer.end()
    path = stream_path(writer.id, after=last.id)
    with event_stream(gateway.token_client(token=token), path) as told:
        assert {1: b"second\n"} == output_of(until_end(told), (1, 6))


def act(daemon: DaemonProcess, action: Any, job_id: str) -> None:
    with Client(daemon.socket) as client:
        client.call(Act(action=action, select=Selection(ids=[job_id])), Acted)
