"""
A blocking client: one Unix socket, requests out, responses in. Also the public Python API.

    from queuectl.client import Client
    from queuectl.protocol import JobSpec, Status, StatusReport

    with Client("/run/user/1000/queuectl/queuectl.sock") as client:
        client.enqueue([JobSpec(command="make -C /srv/site")])
        client.call(Status(), StatusReport).jobs

Hello travels in front of the first request, so a command costs one round trip. A call that is given
up (its timeout passed, its stream was not read to the end) ends the connection: there are no
answers that nobody waits for, and an answer with a strange call number is a fault of the other end.

The daemon hangs up on who says nothing for long. What was sent after that it has not read, so
call() and stream() connect again and repeat it, whatever it is.

Not for use by two threads at once. Imports nothing but msgspec and a little of the standard
library, because a process that enqueues one job spends its time importing.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import msgspec

from queuectl import __version__
from queuectl.environment import caller_environment, pack_variables, working_directory
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
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Enqueue,
    Enqueued,
    Hello,
    JobSpec,
    Message,
    Refused,
    Welcome,
    decoder,
    encode,
)

R = TypeVar("R", bound=Message)

_RECEIVE_BYTES = 256 << 10
# How long one system call waits. A signal that comes just before the call does not end it: Ctrl-C
# would go unheard until there is an answer.
_LOOK_S_MAX = 1.0
#: What msgspec raises for bytes that are no such message. Text and nesting have their own errors.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Surroundings(NamedTuple):
    """
    What jobs take over from where they are enqueued.
    """

    env: Mapping[str, str]
    cwd: str
    umask: int


class Transport(Protocol):
    """
    What a client needs of its connection; a socket has it. recv() returns nothing at the end.
    """

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Client:
    """
    A connection to the daemon that listens at *path*.

    *start* is called when nobody listens there; when it returns, somebody should. With a *token*
    the connection is that of its account. Raises DaemonUnreachable, AccessDenied, RequestRefused.
    """

    def __init__(
        self, path: str, *, start: Callable[[], None] | None = None, token: str | None = None
    ) -> None:
        self.path = path
        #: The daemon's greeting; None before its first answer.
        self.welcome: Welcome | None = None
        self._start = start
        self._token = token
        self._call = 0
        self._decoders: dict[tuple[type[Message], ...], Any] = {}
        self._greeted = False
        self._open()

    def call(self, request: Message, response: type[R], *, timeout_ms: int | None = None) -> R:
        """
        Send *request* and return its response, which is of type *response*.

        Raises RequestRefused, CallTimedOut, ConnectionLost, ProtocolError, RequestTooLong.
        """
        number = self.send(request)
        try:
            answer = self.receive(response, timeout_ms=timeout_ms)
        except ConnectionIdle:
            self._open()
            number = self.send(request)
            answer = self.receive(response, timeout_ms=timeout_ms)
        if answer.call != number:
            raise self._strange(f"an answer to call {answer.call} instead of {number}")
        return answer

    def stream(
        self, request: Message, item: type[Message], end: type[Message]
    ) -> Iterator[Message]:
        """
        Send *request* and yield its responses: any number of *item*, last one *end*.

        Leaving the loop early closes the connection. Raises as call() does.
        """
        number = self.send(request)
        whole = False
        try:
            while not whole:
                try:
                    answer = self._receive((item, end), None)
                except ConnectionIdle:
                    self._open()
                    number = self.send(request)
                    answer = self._receive((item, end), None)
                if answer.call != number:
                    raise self._strange(f"an answer to call {answer.call} instead of {number}")
                whole = isinstance(answer, end)
                yield answer
        finally:
            if not whole:
                self.close()

    def send(self, request: Message) -> int:
        """
        Send *request* without waiting, and return the number that its response will carry.

        Whoever sends many requests must receive in between: the daemon stops reading from a client
        that does not read. Raises RequestTooLong.
        """
        if request.call == 0:
            # Not on the path of a single enqueue, which numbers its own request.
            from msgspec.structs import replace

            request = replace(request, call=self._next_call())
        data = self._frame(request)
        if not self._greeted:
            self._greeted = True
            data = self._frame(Hello(protocol=PROTOCOL_VERSION, version=__version__)) + data
        self._write(data)
        return request.call

    def receive(self, response: type[R], *, timeout_ms: int | None = None) -> R:
        """
        Return the next response, which answers the request sent with its `call`.

        Raises RequestRefused (see its `call`), CallTimedOut, ConnectionLost (as ConnectionIdle, if
        the daemon hung up before it read any of the requests without an answer), ProtocolError.
        """
        answer = self._receive((response,), timeout_ms)
        assert isinstance(answer, response)
        return answer

    def enqueue(
        self,
        jobs: list[JobSpec],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        umask: int | None = None,
        partial: bool = False,
        want_jobs: bool = False,
        request_id: str | None = None,
    ) -> Enqueued:
        """
        Make *jobs*, all or none; with *partial*, those that can be made.

        When it returns they are on disk. If the connection is lost, the request is repeated once
        over a new one with the same request id, so nothing is made twice. What is not given of
        *env*, *cwd* and *umask* is taken from this process: see caller_environment().

        Raises RequestRefused, DaemonUnreachable, ProtocolError, RequestTooLong.
        """
        surroundings = self._surroundings(env, cwd, umask)
        request = Enqueue(
            call=self._next_call(),
            jobs=jobs,
            env=pack_variables(surroundings.env),
            cwd=surroundings.cwd,
            umask=surroundings.umask,
            request_id=request_id or os.urandom(16).hex(),
            partial=partial,
            want_jobs=want_jobs,
        )
        try:
            return self.call(request, Enqueued)
        except ConnectionLost:
            self._reopen()
            return self.call(request, Enqueued)

    def wait_for_hangup(self, timeout_ms: int) -> None:
        """
        Return when the daemon has closed the connection. Raises CallTimedOut, ProtocolError.
        """
        try:
            self._next_frame(time.monotonic() + timeout_ms / 1000)
        except ConnectionLost:
            return
        raise self._strange("an answer that nobody asked for")

    def fileno(self) -> int:
        """
        Return the socket's descriptor, for select(2).
        """
        return self._socket.fileno()

    def close(self) -> None:
        """
        Close the connection. May be called again.
        """
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _surroundings(
        self, env: Mapping[str, str] | None, cwd: str | None, umask: int | None
    ) -> Surroundings:
        """
        Return what jobs take over, the parts that were not given from this process.
        """
        return Surroundings(
            env=caller_environment(os.environ) if env is None else env,
            cwd=working_directory() if cwd is None else cwd,
            umask=read_umask() if umask is None else umask,
        )

    def _dial(self) -> Transport:
        try:
            return connect(self.path)
        except DaemonUnreachable:
            if self._start is None:
                raise
            self._start()
            return connect(self.path)

    def _reopen(self) -> None:
        """
        Connect again to a daemon that was there a moment ago.
        """
        self._open()

    def _open(self) -> None:
        self._socket = self._dial()
        self._reader = FrameReader()
        self._greeted = False
        if self._token is not None:
            self._present(self._token)

    def _present(self, token: str) -> None:
        """
        Greet with a token, and wait: a daemon that knows none would do for us what it does for this
        process.
        """
        from queuectl.tokens import check_taken

        self._greeted = True
        hello = Hello(protocol=PROTOCOL_VERSION, version=__version__, token=token)
        try:
            self._write(self._frame(hello))
            welcome = self._receive((Welcome,), None)
            assert isinstance(welcome, Welcome)
            check_taken(token, welcome)
        except BaseException:
            self.close()
            raise

    def _next_call(self) -> int:
        self._call += 1
        return self._call

    def _frame(self, message: Message) -> bytes:
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

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            # What the daemon said before it hung up says more than this error: receive() reads it.
            pass

    def _receive(self, types: tuple[type[Message], ...], timeout_ms: int | None) -> Message:
        decode = self._decoders.get(types)
        if decode is None:
            decode = self._decoders[types] = decoder(*types, Refused, Welcome).decode
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            frame = self._next_frame(deadline)
            try:
                answer = decode(frame)
            except _DECODE_ERRORS as error:
                raise self._strange(str(error)) from error
            if isinstance(answer, Welcome):
                self.welcome = answer
                if Welcome in types:
                    return answer
            elif isinstance(answer, Refused):
                if answer.code == "idle" and not answer.call:
                    self.close()
                    raise ConnectionIdle(answer.message)
                raise RequestRefused(
                    answer.code, answer.message, answer.field, answer.index, answer.call
                )
            else:
                assert isinstance(answer, Message)
                return answer

    def _next_frame(self, deadline: float | None) -> bytearray:
        while True:
            try:
                frame = self._reader.next_frame()
            except FrameTooLong as error:
                raise self._strange(str(error)) from error
            if frame is not None:
                return frame
            self._reader.feed(self._read(deadline))

    def _read(self, deadline: float | None) -> bytes:
        data = None
        while data is None:
            left_s = float("inf") if deadline is None else deadline - time.monotonic()
            # A timeout of 0 would mean "do not block", with another error when there is nothing.
            self._socket.settimeout(max(min(left_s, _LOOK_S_MAX), 0.001))
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                if left_s <= _LOOK_S_MAX:
                    self.close()
                    raise CallTimedOut("no answer in time") from error
            except ConnectionResetError:
                data = b""
        self._socket.settimeout(None)
        if not data:
            self.close()
            raise ConnectionLost(f"the daemon at {self.path} hung up before it answered")
        return data

    def _strange(self, what: str) -> ProtocolError:
        self.close()
        return ProtocolError(f"what listens at {self.path} is no queuectld of this version: {what}")


def connect(path: str) -> socket.socket:
    """
    Return a socket connected to *path*. Raises DaemonUnreachable, AccessDenied, UsageError.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except PermissionError as error:
        connection.close()
        raise AccessDenied(f"{path}: not permitted{_how_to_be(path)}") from error
    except OSError as error:
        connection.close()
        if error.errno is None:  # Python's own: a path longer than sun_path, or with a NUL.
            raise UsageError(f"{path}: no path of a Unix socket: {error}") from error
        raise DaemonUnreachable(f"no daemon listens at {path} ({error.strerror})") from error
    return connection


def _how_to_be(path: str) -> str:
    """
    Say how to become one of those who may use the socket at *path*, where a group may.
    """
    import grp  # Only who is turned away pays for it.
    import stat

    try:
        found = os.stat(path)
        group = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    if not found.st_mode & stat.S_IWGRP or found.st_gid in (0, *os.getgroups()):
        return ""
    return f"; to join its group: sudo usermod -aG {group} $USER, then log in again"


def read_umask() -> int:
    """
    Return the process's umask.

    The kernel tells it only to those who set it. Should another thread make a file in between, the
    file is private rather than public.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
