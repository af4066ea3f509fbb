"""
Connections to the daemon, for a process that waits for many things at once.

A Link is the way to the daemon for one identity: a token's account, or without a token the account
of this process. Its calls share one connection, which is opened when it is needed: a daemon that
restarts is waited for, and what it did not read, or what may be asked twice, is asked again. A
stream has a connection of its own, so that one that nobody reads holds up no other.

A call is given up by cancelling it, and by itself after CALL_SECONDS_MAX: a daemon that hangs keeps
nobody waiting for ever. Its answer, when it comes, is dropped; so what may take days (Wait, Logs
with follow) goes over stream(), whose end closes the connection.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import msgspec

from queuectl import __version__
from queuectl.errors import (
    AccessDenied,
    CallTimedOut,
    ConnectionIdle,
    ConnectionLost,
    DaemonUnreachable,
    ProtocolError,
    RequestRefused,
    RequestTooLong,
    UsageError,
)
from queuectl.framing import FRAME_BYTES_MAX, FrameReader, FrameTooLong, pack_frame
from queuectl.measures import GetHistory, GetMetrics
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Enqueue,
    Envelope,
    GetConfig,
    Hello,
    List,
    ListQueues,
    ListWorkers,
    Message,
    Refused,
    Show,
    Status,
    Welcome,
    decoder,
    encode,
)
from queuectl.tokens import ListTokens, check_taken

R = TypeVar("R", bound=Message)

#: How long a daemon may be away before a call fails, and how often it is looked for meanwhile.
RECONNECT_SECONDS_MAX = 10.0
RECONNECT_EVERY_SECONDS = 0.05
#: How long calls share a connection before there is a new one. What the daemon decides about an
#: account when it connects, such as whether it is an admin, holds no longer than this.
CONNECTION_SECONDS_MAX = 60.0
#: How long a daemon may take to greet: it is busy, or it is none.
GREETING_SECONDS_MAX = 10.0
#: How long a daemon may take to answer a call: its disk is slow, or it hangs.
CALL_SECONDS_MAX = 30.0
#: How often a call is sent before its loss is the caller's to judge.
SENDS_MAX = 3
#: Calls of one link under way at once; more wait. The daemon stops reading at 256 unanswered ones.
CALLS_MAX = 128

_RECEIVE_BYTES = 256 << 10
#: Shorter frames are not worth a call of the system each.
_GATHERED_BYTES_MAX = 16 << 10
#: What msgspec raises for bytes that are no such message. Text and nesting have their own errors.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: Requests that change nothing: asked again when the answer was lost.
_LOOKS = (
    *(GetConfig, GetHistory, GetMetrics, List),
    *(ListQueues, ListTokens, ListWorkers, Show, Status),
)

_decode_envelope = decoder(Envelope).decode
_decode_greeting = decoder(Welcome, Refused).decode
_decoders: dict[tuple[type[Message], ...], Any] = {}


class Connection:
    """
    One greeted connection: frames out, frames in. Made by dial().
    """

    def __init__(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.path = path
        #: The daemon's greeting, once it came.
        self.welcome = Welcome(protocol=0, version="")
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        #: Frames that are sent together, when all that is ready to run has run.
        self._gathered: list[bytes] = []

    async def send(self, data: bytes) -> None:
        """
        Send whole frames, as pack() makes them. What cannot be sent is found out by receive().
        """
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send_gathered)
        self._gathered.append(data)
        if len(data) < _GATHERED_BYTES_MAX:
            return
        self._send_gathered()
        with contextlib.suppress(ConnectionError):
            # What the daemon said before it hung up says more than this error.
            await self._writer.drain()

    def _send_gathered(self) -> None:
        if self._gathered:
            self._writer.write(b"".join(self._gathered))
            self._gathered.clear()

    async def receive(self) -> bytes:
        """
        Return the payload of the next frame. Raises ConnectionLost, ProtocolError.
        """
        while True:
            try:
                frame = self._frames.next_frame()
            except FrameTooLong as error:
                raise strange(self.path, str(error)) from error
            if frame is not None:
                return bytes(frame)
            try:
                data = await self._reader.read(_RECEIVE_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise ConnectionLost(f"the daemon at {self.path} hung up before it answered")
            self._frames.feed(data)

    def close(self) -> None:
        """
        Close the connection. May be called again.
        """
        self._writer.close()

    def abort(self) -> None:
        """
        The same, without sending what was not taken yet: who waits in send() goes on.
        """
        self._writer.transport.abort()


async def dial(path: str, token: str | None = None) -> Connection:
    """
    Return a connection to the daemon at *path* that it has greeted, as the account of *token*.

    Raises RequestRefused (code `denied` for a token that is none), DaemonUnreachable, AccessDenied,
    ProtocolError.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_RECEIVE_BYTES)
    except PermissionError as error:
        raise AccessDenied(f"{path}: not permitted") from error
    except OSError as error:
        raise DaemonUnreachable(f"no daemon listens at {path} ({error.strerror})") from error
    connection = Connection(path, reader, writer)
    try:
        async with asyncio.timeout(GREETING_SECONDS_MAX):
            await connection.send(pack(_hello(token)))
            frame = await connection.receive()
        greeting = _decode(_decode_greeting, frame, path)
        if isinstance(greeting, Refused):
            raise _refusal(greeting)
        if token is not None:
            check_taken(token, greeting)
    except TimeoutError as error:
        connection.close()
        raise DaemonUnreachable(f"what listens at {path} does not greet") from error
    except BaseException:
        connection.close()
        raise
    connection.welcome = greeting
    return connection


def _hello(token: str | None) -> Hello:
    return Hello(protocol=PROTOCOL_VERSION, version=__version__, token=token)


def pack(message: Message) -> bytes:
    """
    Return *message* as a frame. Raises RequestTooLong, UsageError.
    """
    try:
        return pack_frame(encode(message))
    except FrameTooLong as error:
        raise RequestTooLong(
            f"the request has {error.size} bytes, the limit is {FRAME_BYTES_MAX}"
        ) from error
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!a} is not valid UTF-8") from error
    except OverflowError as error:
        raise UsageError("a number is beyond 64 bits") from error


class _Calls:
    """
    The calls that share one connection, each waiting for the answer with its number.
    """

    def __init__(self, connection: Connection, on_end: Callable[["_Calls", Exception], None]):
        self.welcome = connection.welcome
        self.began_at = time.monotonic()
        self._connection = connection
        self._on_end = on_end
        self._number = 0
        #: By number, the oldest first: when it was asked, in the loop's time, and its answer.
        self._waiting: dict[int, tuple[float, asyncio.Future[bytes]]] = {}
        # One for all calls: it ends when one may be late.
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False
        #: Why no more answers will come, once that is so.
        self._ended: Exception | None = None
        self._reading = asyncio.create_task(self._read())

    async def ask(self, request: Message) -> bytes:
        """
        Send *request* and return the payload of its answer. Raises ConnectionLost, ...
        """
        if self._ended is not None:
            raise ConnectionIdle("the connection was lost before the request was sent")
        self._number += 1
        number = self._number
        data = pack(msgspec.structs.replace(request, call=number))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._waiting[number] = (loop.time(), answer)
        if self._timer is None:
            self._timer = loop.call_later(CALL_SECONDS_MAX, self._look_for_late)
        try:
            await self._connection.send(data)
            return await answer
        except asyncio.CancelledError:
            self._waiting.pop(number, None)
            self._end_if_done()
            raise

    def retire(self) -> None:
        """
        Take no more calls; end when the last one is answered.
        """
        self._retired = True
        self._end_if_done()

    def close(self) -> None:
        """
        End now; who waits for an answer gets ConnectionLost.
        """
        self._end(ConnectionLost("the connection to the daemon was closed"))
        self._reading.cancel()

    async def _read(self) -> None:
        path = self._connection.path
        try:
            while True:
                frame = await self._connection.receive()
                number = _decode(_decode_envelope, frame, path).call
                if number == 0:
                    raise _ending(_decode(_decode_greeting, frame, path))
                waiting = self._waiting.pop(number, None)
                # An answer that nobody waits for any more is dropped.
                if waiting is not None and not waiting[1].done():
                    waiting[1].set_result(frame)
                self._end_if_done()
        except (DaemonUnreachable, RequestRefused) as error:
            self._end(error)
        finally:  # Whatever happened, nobody may wait for ever.
            self._end(ConnectionLost("the connection to the daemon was lost"))

    def _look_for_late(self) -> None:
        """
        End it if the oldest call is late: the daemon hangs, and so would every other.
        """
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._waiting:
            return
        asked_at, _ = next(iter(self._waiting.values()))
        late_at = asked_at + CALL_SECONDS_MAX
        if loop.time() < late_at:
            self._timer = loop.call_at(late_at, self._look_for_late)
            return
        what = f"the daemon at {self._connection.path} has not answered for {CALL_SECONDS_MAX:g} s"
        self._end(CallTimedOut(f"{what}: whether it did this is not known"))
        self._reading.cancel()
        self._connection.abort()

    def _end_if_done(self) -> None:
        if self._retired and not self._waiting:
            self.close()

    def _end(self, error: Exception) -> None:
        if self._ended is not None:
            return
        self._ended = error
        self._connection.close()
        if self._timer is not None:
            self._timer.cancel()
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        self._waiting.clear()
        self._on_end(self, error)


class Link:
    """
    The way to the daemon at *path* for one identity. *on_denied* is called when the daemon takes
    the token back: it was revoked, or its time is up.
    """

    def __init__(
        self,
        path: str,
        token: str | None = None,
        *,
        on_denied: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.token = token
        self._on_denied = on_denied
        #: How many requests hold it now: who closes links must leave these.
        self.holders = 0
        self._welcome: Welcome | None = None
        self._calls: _Calls | None = None
        self._opening = asyncio.Lock()
        self._places = asyncio.Semaphore(CALLS_MAX)

    @property
    def welcome(self) -> Welcome:
        """
        The daemon's last greeting: whom it takes us for.
        """
        assert self._welcome is not None, "open() first"
        return self._welcome

    async def open(self) -> Welcome:
        """
        Connect if there is no connection that is fresh, and return the daemon's greeting.

        A daemon that is away is waited for, RECONNECT_SECONDS_MAX. Raises as dial() does.
        """
        await self._open()
        return self.welcome

    async def call(self, request: Message, response: type[R]) -> R:
        """
        Send *request* and return its response, which is of type *response*.

        Raises RequestRefused, DaemonUnreachable, ConnectionLost (whether it was carried out is not
        known), CallTimedOut (the same), RequestTooLong, ProtocolError, AccessDenied.
        """
        repeatable = isinstance(request, _LOOKS) or (
            isinstance(request, Enqueue) and bool(request.request_id)
        )
        decode = _decoder_of(response)
        async with self._places:
            for left in reversed(range(SENDS_MAX)):
                calls = await self._open()
                try:
                    frame = await calls.ask(request)
                    break
                except ConnectionLost as error:
                    unread = isinstance(error, ConnectionIdle)
                    if not left or not (unread or repeatable):
                        raise
        answer = _decode(decode, frame, self.path)
        if isinstance(answer, Refused):
            raise _refusal(answer)
        assert isinstance(answer, response)
        return answer

    async def stream(
        self, request: Message, item: type[Message], end: type[Message]
    ) -> AsyncGenerator[Message, None]:
        """
        Send *request* over a connection of its own and yield its responses: any number of *item*,
        last one *end*. Closing the iterator closes the connection. Raises as call() does.
        """
        decode = _decoder_of(item, end)
        connection = await self._dial_patiently(time.monotonic() + RECONNECT_SECONDS_MAX)
        try:
            await connection.send(pack(msgspec.structs.replace(request, call=1)))
            while True:
                answer = _decode(decode, await connection.receive(), self.path)
                if isinstance(answer, Refused):
                    raise _refusal(answer)
                yield answer
                if isinstance(answer, end):
                    return
        finally:
            connection.close()

    def close(self) -> None:
        """
        Close the connection of the calls; who waits for an answer gets ConnectionLost.
        """
        if self._calls is not None:
            self._calls.close()

    async def _open(self) -> _Calls:
        calls = self._fresh()
        if calls is not None:
            return calls
        deadline = time.monotonic() + RECONNECT_SECONDS_MAX
        async with self._opening:
            calls = self._fresh()  # Somebody else may have opened it meanwhile.
            if calls is not None:
                return calls
            if self._calls is not None:
                self._calls.retire()
                self._calls = None
            calls = self._calls = _Calls(await self._dial_patiently(deadline), self._on_end)
            self._welcome = calls.welcome
            return calls

    def _fresh(self) -> _Calls | None:
        calls = self._calls
        if calls is None or time.monotonic() - calls.began_at >= CONNECTION_SECONDS_MAX:
            return None
        return calls

    def _on_end(self, calls: _Calls, error: Exception) -> None:
        if calls is self._calls:
            self._calls = None
        if isinstance(error, RequestRefused) and error.code == "denied":
            self._on_denied()

    async def _dial_patiently(self, deadline: float) -> Connection:
        """
        Return a new connection. A daemon that is away is waited for until *deadline*, which may
        have passed while others tried.
        """
        while time.monotonic() < deadline:
            try:
                return await dial(self.path, self.token)
            except ProtocolError:
                raise
            except DaemonUnreachable:
                if time.monotonic() + RECONNECT_EVERY_SECONDS >= deadline:
                    raise
            await asyncio.sleep(RECONNECT_EVERY_SECONDS)
        raise DaemonUnreachable(
            f"the daemon at {self.path} was waited for {RECONNECT_SECONDS_MAX:g} s"
        )


def _ending(said: Welcome | Refused) -> Exception:
    """
    Return what a frame of no call means: the daemon ends the connection.
    """
    if isinstance(said, Welcome):
        return ProtocolError("the daemon greeted twice")
    if said.code == "idle":
        return ConnectionIdle(said.message)
    return _refusal(said)


def _refusal(said: Refused) -> RequestRefused:
    return RequestRefused(said.code, said.message, said.field, said.index, said.call)


def _decoder_of(*types: type[Message]) -> Any:
    decode = _decoders.get(types)
    if decode is None:
        decode = _decoders[types] = decoder(*types, Refused).decode
    return decode


def _decode(decode: Any, frame: bytes, path: str) -> Any:
    try:
        return decode(frame)
    except _DECODE_ERRORS as error:
        raise strange(path, str(error)) from error


def strange(path: str, what: str) -> ProtocolError:
    """
    Return the error for what no daemon of this version says.
    """
    return ProtocolError(f"what listens at {path} is no queuectld of this version: {what}")
