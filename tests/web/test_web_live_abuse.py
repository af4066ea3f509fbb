"""
Live streams and those who mean ill, or are slow, or are many: what it costs, and whom.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import IO

import httpx
import pytest
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess
from live_clients import Told, event_stream, events_of, messages_of, open_socket, output_of
from live_clients import until_end as read_to_end
from markdown_reader import Document, plain
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from queuectl.client import Client
from queuectl.protocol import Done
from queuectl.tokens import RevokeToken, id_of
from queuectl.web import event_feed, feed, hub, output_feed

#: More than everything on the way can hold: what the gateway keeps, and the buffers of sockets.
FLOOD_BYTES = 24 << 20
#: What a slow reader may cost.
HELD_BYTES_MAX = 24 << 20


def token_of(client: httpx.Client) -> str:
    return client.headers["Authorization"].removeprefix("Bearer ")


def read_files(daemon: DaemonProcess) -> list[str]:
    """
    Return the output files that the daemon reads now, each as often as it does.
    """
    found = []
    for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
        try:
            path = os.readlink(f"/proc/{daemon.pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if path.startswith(f"{daemon.state_dir}/output/") and path.endswith(".log"):
            found.append(path)
    return found


def raw_stream(gateway: GatewayProcess, path: str, token: str) -> socket.socket:
    """
    Ask for a stream over a plain socket, and read nothing.
    """
    connection = narrow_connection(gateway)
    host = f"127.0.0.1:{gateway.port}"
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def narrow_connection(gateway: GatewayProcess) -> socket.socket:
    """
    Return a connection on which little is on its way at a time.
    """
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
    connection.connect(("127.0.0.1", gateway.port))
    return connection


def flood(daemon: DaemonProcess) -> tuple[str, str]:
    """
    Return a job that begins to write when somebody writes to a pipe, and the pipe.
    """
    pipe = f"{daemon.directory}/{os.urandom(4).hex()}"
    os.mkfifo(pipe)
    command = f"read go <{pipe}; yes 0123456789abcdef | head -c {FLOOD_BYTES}; echo done"
    (job_id,) = daemon.enqueue(command)
    return job_id, pipe


def set_off(pipe: str) -> None:
    with open(pipe, "w", encoding="ascii") as file:
        file.write("go\n")


# --- many ----------------------------------------------------------------------------------------


def test_many_watchers_of_one_job(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    As many as one may have cost the daemon one subscription: one file that it reads, and no more
    connections than a single one of them. All are told the same. One more is refused, and when they
    have gone nothing is left of them.
    """
    gateway = gateways(daemon).start()
    token = gateway.make_token()
    os.mkfifo(f"{daemon.directory}/go")
    (job_id,) = daemon.enqueue(f"echo first; read go <{daemon.directory}/go; echo last")
    path = f"/api/v1/jobs/{job_id}/output/stream"
    client = gateway.token_client(token=token)
    with event_stream(client, path) as told:
        assert "first\n" == next(told).data["text"]
        connection_count = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    with ExitStack() as stack:
        watchers = []
        for _ in range(hub.VISITOR_STREAMS_MAX):
            watchers.append(stack.enter_context(raw_stream(gateway, path, token)))
            watchers[-1].settimeout(20)
        files = [stack.enter_context(each.makefile(encoding="utf-8")) for each in watchers]
        for file in files:
            while file.readline() != "event: output\n":
                pass
        assert 1 == len(read_files(daemon))
        assert len(os.listdir(f"/proc/{daemon.pid}/fd")) <= connection_count
        refused = client.get(path)
        assert (503, "try_later") == (refused.status_code, refused.json()["code"])
        assert refused.headers["Retry-After"]
        with open(f"{daemon.directory}/go", "w", encoding="ascii") as go:
            go.write("\n")
        for file in files:
            while "last" not in file.readline():
                pass
    wait_until(lambda: not read_files(daemon))
    with event_stream(client, path) as told:
        assert {1: b"first\nlast\n"} == output_of(read_to_end(told))


def test_limits_are_documented() -> None:
    """
    Each with its value and a reason.
    """
    tables = Document("docs/web.md").section("Live").tables
    (rows,) = [table[1:] for table in tables if table[0][0] == "limit"]
    documented = {plain(row[0]): int(row[1].replace(",", "")) for row in rows}
    assert documented == {name: value for name, value in vars(hub).items() if name.endswith("_MAX")}
    assert all(row[2] for row in rows)
    prose = " ".join(Document("docs/web.md").text.split())
    assert f"the last {output_feed.KEPT_BYTES_MAX >> 10} KiB of an output" in prose
    assert f"the last {event_feed.KEPT_CHANGES_MAX:,} changes" in prose
    assert f"`tail_bytes=N` (at most {output_feed.TAIL_BYTES:,})" in prose
    assert f"at least every {feed.BEAT_SECONDS:.0f} seconds" in prose


# --- slow ----------------------------------------------------------------------------------------


def check_missed(told: list[Told]) -> None:
    """
    Assert that what was told and what was missed are the whole output, in order.
    """
    offset = 0
    missed_bytes = 0
    for each in told:
        if each.event == "missed":
            assert each.data["offset"] == offset
            missed_bytes += each.data["missed_bytes"]
            offset += each.data["missed_bytes"]
        elif each.event == "output":
            assert each.data["offset"] == offset, each.data["offset"]
            offset = each.data["next_offset"]
    assert missed_bytes > 0
    assert FLOOD_BYTES + len("done\n") == offset
    assert "end" == told[-1].event


@pytest.mark.parametrize("way", ["events", "socket"])
def test_a_slow_reader(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess], way: str
) -> None:
    """
    It holds up nobody, costs little memory, and when it reads on it is told what it missed.
    """
    gateway = gateways(daemon).start()
    token = gateway.make_token()
    job_id, pipe = flood(daemon)
    path = f"/api/v1/jobs/{job_id}/output"
    with ExitStack() as stack:
        if way == "events":
            slow = stack.enter_context(raw_stream(gateway, f"{path}/stream", token))
            slow.settimeout(20)
            file = stack.enter_context(slow.makefile("rb"))
            read = lambda: read_to_end(events_of(unchunked(file)))  # noqa: E731
        else:
            connection = narrow_connection(gateway)
            slow_socket = stack.enter_context(
                open_socket(gateway, f"{path}/socket", token, sock=connection, max_queue=1)
            )
            read = lambda: list(messages_of(slow_socket))  # noqa: E731
        wait_until(lambda: read_files(daemon))
        before_bytes = gateway.rss_bytes()
        with event_stream(gateway.token_client(token=token), f"{path}/stream") as told:
            reading = threading.Thread(target=set_off, args=(pipe,))
            reading.start()
            quick = read_to_end(told)
            reading.join()
        assert FLOOD_BYTES + 5 == sum(
            len(each.output) for each in quick if each.event == "output"
        ) + sum(each.data["missed_bytes"] for each in quick if each.event == "missed")
        assert gateway.rss_bytes() - before_bytes < HELD_BYTES_MAX
        check_missed(read())


def unchunked(file: IO[bytes]) -> Iterator[str]:
    """
    Yield the lines of a chunked response's body.
    """
    while file.readline() != b"\r\n":
        pass
    data = ""
    while size := int(file.readline(), 16):
        data += file.read(size).decode()
        file.readline()
        *lines, data = data.split("\n")
        yield from lines


# --- hostile -------------------------------------------------------------------------------------


def test_a_socket_that_is_spoken_to(
    web_daemon: DaemonProcess, gateway: GatewayProcess, client: httpx.Client
) -> None:
    """
    A live socket only sends: the first message ends it, however many follow, of whatever kind.
    """
    for message in ("hello", b"\0" * (1 << 20)):
        with open_socket(gateway, "/api/v1/events/socket", token_of(client)) as connection:
            assert "ready" in str(connection.recv(timeout=20))
            with suppress(ConnectionClosed):
                for _ in range(200):
                    connection.send(message)
            assert [] == list(messages_of(connection))
            assert 1008 == connection.close_code


@pytest.mark.parametrize("path", ["jobs/{}/output/socket", "events/socket"])
def test_who_must_not(
    web_daemon: DaemonProcess,
    gateway: GatewayProcess,
    client: httpx.Client,
    browser_session: httpx.Client,
    path: str,
) -> None:
    """
    Another origin's page, whatever its browser sends along, and who may not look; the daemon is
    not asked.
    """
    (job_id,) = web_daemon.enqueue("true", hold=True)
    path = "/api/v1/" + path.format(job_id)
    cookie = "; ".join(f"{name}={value}" for name, value in browser_session.cookies.items())
    url = gateway.url.replace("http", "ws", 1)
    for headers, status in (
        ({"Cookie": cookie, "Origin": "http://evil.example"}, 403),
        ({"Cookie": cookie, "Origin": gateway.url, "Sec-Fetch-Site": "cross-site"}, 403),
        ({}, 401),
        ({"Authorization": f"Bearer {gateway.make_token('submit')}"}, 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            connect(url + path, additional_headers=headers, proxy=None, origin=None)
        assert status == refused.value.response.status_code, headers
    headers = {"Cookie": cookie, "Origin": gateway.url}
    with connect(url + path, additional_headers=headers, proxy=None):
        pass


def test_a_token_that_is_revoked(web_daemon: DaemonProcess, gateway: GatewayProcess) -> None:
    """
    What goes on for it ends at once, and says why.
    """
    (job_id,) = web_daemon.enqueue("true", hold=True)
    token = gateway.make_token("read")
    client = gateway.token_client(token=token)
    with (
        event_stream(client, "/api/v1/events") as events,
        event_stream(client, f"/api/v1/jobs/{job_id}/output/stream") as output,
        open_socket(gateway, "/api/v1/events/socket", token) as connection,
    ):
        assert "ready" == next(events).event
        with Client(web_daemon.socket) as daemon:
            daemon.call(RevokeToken(id=id_of(token)), Done)
        assert "denied" == read_to_end(events)[-1].data["reason"]
        assert "denied" == read_to_end(output)[-1].data["reason"]
        assert "denied" == list(messages_of(connection))[-1].data["reason"]
        assert 1008 == connection.close_code


def test_a_session_that_ends(
    web_daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    Who logs out sees nothing more.
    """
    gateway = gateways(web_daemon).start()
    browser = gateway.browser()
    with event_stream(browser, "/api/v1/events") as told:
        assert "ready" == next(told).event
        other = gateway.client()
        other.cookies, other.headers = browser.cookies, browser.headers
        other.post("/logout")
        with suppress(httpx.RemoteProtocolError):
            assert [] == list(told)
