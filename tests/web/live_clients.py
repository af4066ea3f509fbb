"""
What follows live: server-sent events and WebSockets, read as a browser reads them.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from gateway_process import GatewayProcess
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


class Told:
    """
    One message: its event, its data, its id.
    """

    def __init__(self, event: str, data: dict[str, Any], event_id: str | None) -> None:
        self.event = event
        self.data = data
        self.id = event_id

    def __repr__(self) -> str:
        return f"{self.event} {self.id} {self.data}"

    @property
    def output(self) -> bytes:
        """
        The bytes that a piece of output carries.
        """
        if "base64" in self.data:
            return base64.b64decode(self.data["base64"], validate=True)
        return str(self.data["text"]).encode()


def events_of(lines: Iterator[str]) -> Iterator[Told]:
    """
    Yield what an event stream tells, comments and fields that do not matter here left out.
    """
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        elif "data" in fields:
            yield Told(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}


@contextmanager
def event_stream(client: httpx.Client, path: str, **headers: str) -> Iterator[Iterator[Told]]:
    """
    Open a stream of server-sent events.
    """
    with client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events_of(response.iter_lines())


def open_socket(gateway: GatewayProcess, path: str, token: str, **options: Any) -> ClientConnection:
    """
    Open a WebSocket with a token, as a program does.
    """
    url = gateway.url.replace("http", "ws", 1) + path
    headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
    return connect(url, additional_headers=headers, proxy=None, **options)


def messages_of(socket: ClientConnection) -> Iterator[Told]:
    """
    Yield what a WebSocket tells, until it is closed.
    """
    while True:
        try:
            message = json.loads(socket.recv(timeout=20))
        except ConnectionClosed:
            return
        yield Told(message["event"], message["data"], message.get("id"))


def until_end(told: Iterator[Told]) -> list[Told]:
    """
    Return everything up to the end, which must come.
    """
    found = []
    for each in told:
        found.append(each)
        if each.event == "end":
            return found
    raise AssertionError(f"no end: {found[-3:]}")


def output_of(
    told: list[Told], begin: tuple[int, int] = (1, 0), missing: dict[int, bytes] | None = None
) -> dict[int, bytes]:
    """
    Return the bytes of each attempt, having checked that every piece begins where the one before
    ended: nothing twice, nothing left out. What a slow reader was told to have missed is taken from
    *missing*, the whole of each attempt.
    """
    found: dict[int, bytes] = {}
    attempt, offset = begin
    for each in told:
        if each.event in ("attempt_end", "end"):
            continue
        if each.data["attempt"] != attempt:
            assert each.data["attempt"] == attempt + 1, each
            attempt, offset = attempt + 1, 0
        if each.event == "missed" and missing is not None:
            assert each.data["offset"] == offset, each
            gap = slice(offset, offset + each.data["missed_bytes"])
            found[attempt] = found.get(attempt, b"") + missing[attempt][gap]
            offset = gap.stop
            continue
        assert each.event == "output", each
        assert each.data["offset"] - each.data.get("dropped_bytes", 0) == offset, each
        assert each.data["next_offset"] > offset, each
        offset = each.data["next_offset"]
        assert offset == each.data["offset"] + len(each.output), each
        assert each.id == f"{attempt}:{offset}"
        found[attempt] = found.get(attempt, b"") + each.output
    return found
