"""
Live over HTTP: a job's output and what happens to jobs, as server-sent events or over a WebSocket;
and for the pages of the dashboard when they should look anew.

Both ways carry the same messages: an event's name, its data, which is JSON, and an id for those
after which a client may go on. A WebSocket only sends: what a client says ends it. What is wrong
with a request is answered before anything is streamed, by the problem that other routes answer; a
stream that ends says why, as its last message.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from msgspec import Struct
from msgspec.json import encode
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from queuectl.errors import QueuectlError, RequestRefused
from queuectl.protocol import Jobs, List
from queuectl.views import FINISHED_STATES, JOB_STATES, JobView
from queuectl.web.event_feed import Changes, EventFeed, Filter, MissedChanges
from queuectl.web.feed import End, end_of
from queuectl.web.gateway import Gateway
from queuectl.web.link import Link
from queuectl.web.look_feed import Look
from queuectl.web.output_feed import (
    TAIL_BYTES,
    AttemptEnd,
    Missed,
    OutputFeed,
    Piece,
    Position,
)
from queuectl.web.problems import problem_of
from queuectl.web.visitor import Visitor, visitor_of

#: What a browser waits before it comes back after a stream broke off.
RETRY_MS = 1_000
#: Larger numbers than a browser can count to are none.
NUMBER_MAX = (1 << 53) - 1
#: How a WebSocket is closed, by the reason of the end. Others: 1011, the server failed.
CLOSE_CODES = {
    "finished": 1000,
    "attempt_over": 1000,
    "stopping": 1001,
    "denied": 1008,
    "not_found": 1008,
    "try_later": 1013,
    "unreachable": 1013,
}
CLOSE_SPOKE = 1008


class Frame(Struct, frozen=True):
    """
    One message. None for `id`: a client that comes back goes on after the one before. `end` is why
    the stream ends, in the last one.
    """

    event: str
    data: bytes
    id: str | None = None
    end: End | None = None

    def as_event(self) -> bytes:
        """
        Return it as a server-sent event. JSON has no line ends.
        """
        id_line = f"id: {self.id}\n" if self.id is not None else ""
        return b"event: %b\n%bdata: %b\n\n" % (self.event.encode(), id_line.encode(), self.data)

    def as_text(self) -> str:
        """
        Return it as a WebSocket's message.
        """
        id_member = f'"id":"{self.id}",' if self.id is not None else ""
        return f'{{"event":"{self.event}",{id_member}"data":{self.data.decode()}}}'


#: A stream's messages, the first of which is None and says that it has begun; None later: nothing
#: has come for some time.
Frames = AsyncGenerator[Frame | None, None]


def routes() -> list[BaseRoute]:
    """
    Return the routes of this module.
    """
    job, events = "/api/v1/jobs/{id}/output", "/api/v1/events"
    return [
        Route(f"{job}/stream", _as_events(output_frames), methods=["GET"], name="output_stream"),
        WebSocketRoute(f"{job}/socket", _as_socket(output_frames), name="output_socket"),
        Route(events, _as_events(event_frames), methods=["GET"], name="events"),
        WebSocketRoute(f"{events}/socket", _as_socket(event_frames), name="events_socket"),
        Route("/looks", _as_events(look_frames), methods=["GET"], name="looks"),
    ]


# --- what is told -------------------------------------------------------------------------------


async def output_frames(connection: HTTPConnection) -> Frames:
    """
    Yield the messages of a job's output. Raises QueuectlError before the first.
    """
    visitor, gateway = visitor_of(connection), _gateway_of(connection)
    hub, link = gateway.hub, visitor.link
    with hub.place(visitor):
        job = await _job(link, connection.path_params["id"])
        asked = _asked_position(connection, job)
        only = _number(connection.query_params, "attempt")
        tail_bytes = _number(connection.query_params, "tail_bytes", TAIL_BYTES)
        async with hub.output(visitor, job) as feed:
            position = asked or _near_end(feed, job, only, tail_bytes)
            if only is not None:
                position = max(position, (only, 0))
            yield None
            async with aclosing(feed.follow(position, only)) as items:
                try:
                    async for item in items:
                        yield _output_frame(item)
                        if isinstance(item, End):
                            _note_end(item, visitor, gateway)
                except QueuectlError as error:
                    yield _end_frame(end_of(error))


def _end_frame(end: End) -> Frame:
    return Frame("end", encode(end), None, end)


def _output_frame(item: Piece | AttemptEnd | Missed | End | None) -> Frame | None:
    if isinstance(item, Piece):
        attempt, offset = item.end
        return Frame("output", item.told, f"{attempt}:{offset}")
    if isinstance(item, End):
        return _end_frame(item)
    if item is None:
        return None
    return Frame("missed" if isinstance(item, Missed) else "attempt_end", encode(item))


async def event_frames(connection: HTTPConnection) -> Frames:
    """
    Yield the messages of what happens to jobs. Raises QueuectlError before the first.
    """
    visitor, gateway = visitor_of(connection), _gateway_of(connection)
    filtered = _filter(connection.query_params)
    with gateway.hub.place(visitor):
        async with gateway.hub.events(visitor) as feed:
            number, after = _event_number(connection, feed)
            yield None
            yield Frame("ready", b"{}", feed.id_before(number))
            if after is not None:
                yield Frame("missed", encode(MissedChanges(missed_count=None)))
            async with aclosing(feed.follow(filtered, number)) as items:
                async for item in items:
                    if isinstance(item, Changes):
                        yield Frame("changed", item.told, feed.id_before(item.number + 1))
                    elif isinstance(item, MissedChanges):
                        yield Frame("missed", encode(item))
                    elif isinstance(item, End):
                        yield _end_frame(item)
                        _note_end(item, visitor, gateway)
                    else:
                        yield None


async def look_frames(connection: HTTPConnection) -> Frames:
    """
    Yield the messages that tell a page of the dashboard when to look. Raises QueuectlError before
    the first.
    """
    visitor, gateway = visitor_of(connection), _gateway_of(connection)
    with gateway.hub.place(visitor):
        async with gateway.hub.looks(visitor) as feed:
            number = feed.next
            yield None
            async with aclosing(feed.follow(number)) as items:
                async for item in items:
                    if isinstance(item, Look):
                        yield Frame("look", encode(item))
                    elif isinstance(item, End):
                        yield _end_frame(item)
                        _note_end(item, visitor, gateway)
                    else:
                        yield None


def _note_end(end: End, visitor: Visitor, gateway: Gateway) -> None:
    if end.reason == "denied":
        # The token was revoked or has expired: nothing that stands on it may stay.
        gateway.forget(visitor.link.token)


# --- what is asked for --------------------------------------------------------------------------


async def _job(link: Link, job_id: str) -> JobView:
    """
    Return the one job of that id. Raises RequestRefused.
    """
    jobs = (await link.call(List(ids=[job_id]), Jobs)).jobs
    if len(jobs) != 1:  # A range of numbers.
        raise RequestRefused("not_found", f"no job {job_id!r}", "id")
    return jobs[0]


def _asked_position(connection: HTTPConnection, job: JobView) -> Position | None:
    """
    Return the position to begin with, if one is named; None: near the end. Raises RequestRefused.
    """
    query = connection.query_params
    after = _after(connection)
    only = _number(query, "attempt")
    if after is not None:
        attempt_text, colon, offset_text = after.partition(":")
        given = {"attempt": attempt_text, "offset": offset_text if colon else ""}
        attempt = _number(given, "attempt", name="after")
        offset = _number(given, "offset", name="after")
    else:
        attempt = only if only is not None else job.attempt or 1
        offset = _number(query, "offset")
        if offset is None and "tail_bytes" not in query:
            offset = 0
    assert attempt is not None
    last = (job.attempt or 0) + (job.state not in FINISHED_STATES)
    for number in (attempt, only or attempt):
        if not 1 <= number <= max(last, 1):
            made = f"it has made {job.attempt or 0}"
            raise RequestRefused("not_found", f"no attempt {number}; {made}", "attempt")
    return None if offset is None else (attempt, offset)


def _near_end(feed: OutputFeed, job: JobView, only: int | None, tail_bytes: int | None) -> Position:
    """
    Return where the last *tail_bytes* begin. Raises RequestRefused.
    """
    if only is not None and only != (job.attempt or 1):
        message = "tail_bytes is of the last attempt; of another one, name an offset"
        raise RequestRefused("usage", message, "tail_bytes")
    return feed.near_end(tail_bytes or 0)


def _filter(query: QueryParams) -> Filter:
    """
    Return which changes are asked for. Raises RequestRefused.
    """
    states = frozenset(_words(query, "state"))
    for state in states:
        if state not in JOB_STATES:
            message = f"state {state!r} must be one of {', '.join(JOB_STATES)}"
            raise RequestRefused("usage", message, "state")
    return Filter(
        queues=frozenset(_words(query, "queue")),
        states=states,
        users=frozenset(_words(query, "user")),
    )


def _words(query: QueryParams, name: str) -> list[str]:
    words = [word for value in query.getlist(name) for word in value.split(",") if word]
    if len(words) > 100:
        raise RequestRefused("usage", f"{name}: at most 100 may be named", name)
    return words


def _event_number(connection: HTTPConnection, feed: EventFeed) -> tuple[int, str | None]:
    """
    Return the number to go on with, and the event that was named if it cannot be gone on after.
    """
    after = _after(connection)
    if after is None:
        return feed.next, None
    number = feed.number_after(after)
    return (feed.next, after) if number is None else (number, None)


def _after(connection: HTTPConnection) -> str | None:
    """
    Return the id of the last event that the client has: the header is a browser's own, which
    connects again with the address it was given.
    """
    header = connection.headers.get("last-event-id")
    return header or connection.query_params.get("after") or None


def _number(
    given: QueryParams | dict[str, str], key: str, number_max: int = NUMBER_MAX, name: str = ""
) -> int | None:
    """
    Return a parameter as a number, None if it is not given. Raises RequestRefused.
    """
    text = given.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and int(text) <= number_max):
        name = name or key
        raise RequestRefused("usage", f"{name} must be a number from 0 to {number_max}", name)
    return int(text)


def _gateway_of(connection: HTTPConnection) -> Gateway:
    gateway: Gateway = connection.app.state.gateway
    return gateway


# --- the two ways -------------------------------------------------------------------------------


class EventStream(StreamingResponse):
    """
    Frames as server-sent events. Whatever ends the response ends the frames.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        # A proxy that gathers what it passes on would hold events back.
        super().__init__(self._events(), headers={"X-Accel-Buffering": "no"})

    async def stream_response(self, send: Send) -> None:
        """
        Send everything.
        """
        async with aclosing(self._frames):
            await super().stream_response(send)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        yield b"retry: %d\n\n" % RETRY_MS
        async for frame in self._frames:
            yield b": still here\n\n" if frame is None else frame.as_event()


def _as_events(make: Callable[[HTTPConnection], Frames]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type=EventStream.media_type)
        frames = make(request)
        try:
            await anext(frames)
        except QueuectlError as error:
            return problem_of(error)
        return EventStream(frames)

    return endpoint


def _as_socket(make: Callable[[HTTPConnection], Frames]) -> Callable[[WebSocket], Any]:
    async def endpoint(websocket: WebSocket) -> None:
        frames = make(websocket)
        try:
            await anext(frames)
        except QueuectlError as error:
            await websocket.send_denial_response(problem_of(error))
            return
        async with aclosing(frames):
            await websocket.accept()
            await _send_until_spoken_to(websocket, frames)

    return endpoint


async def _send_until_spoken_to(websocket: WebSocket, frames: Frames) -> None:
    """
    Send everything; end when the client leaves or says something.
    """
    sending = asyncio.create_task(_send_all(websocket, frames))
    hearing = asyncio.create_task(websocket.receive())
    try:
        await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending
        elif hearing.result()["type"] != "websocket.disconnect":
            sending.cancel()
            await asyncio.wait({sending})
            await websocket.close(CLOSE_SPOKE, "this socket only sends")
    except WebSocketDisconnect:
        pass
    finally:
        for task in (sending, hearing):
            task.cancel()
        # What became of them does not matter any more: the connection ends.
        await asyncio.gather(sending, hearing, return_exceptions=True)


async def _send_all(websocket: WebSocket, frames: Frames) -> None:
    last = None
    async for frame in frames:
        if frame is not None:
            last = frame
            await websocket.send_text(frame.as_text())
    end = last.end if last is not None else None
    await websocket.close(CLOSE_CODES.get(end.reason if end is not None else "", 1011))
