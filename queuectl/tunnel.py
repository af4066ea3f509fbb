"""
A connection to a daemon through its gateway: a WebSocket that carries the frames of the control
socket, each a binary message of its own, length included. To a client it is a socket.

There is no thread: bytes go through the WebSocket protocol of `websockets` when the client sends or
receives. The gateway's pings are answered whenever the client receives, which is when it waits, and
between the fragments of a long frame, which may be on its way for minutes. What ends the
connection, on the WebSocket or below it, is the end of the stream; why opening failed is one of the
client's ordinary errors.
"""

import socket
import ssl
import time
from collections import deque
from typing import Final, NoReturn

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.uri import parse_uri

from queuectl import __version__
from queuectl.errors import (
    AccessDenied,
    DaemonUnreachable,
    ProtocolError,
    RequestRefused,
    UsageError,
)
from queuectl.framing import FRAME_BYTES_MAX, LENGTH_BYTES
from queuectl.remote import Address

TUNNEL_PATH: Final = "/api/v1/tunnel"
#: A frame with its length: no message is longer.
MESSAGE_BYTES_MAX = LENGTH_BYTES + FRAME_BYTES_MAX

#: From the first packet to the gateway's answer, which may wait for a daemon that restarts.
OPEN_SECONDS_MAX = 15.0
_RECEIVE_BYTES = 64 << 10
#: Longer frames are sent in fragments of so much: even slow lines take one within seconds.
_FRAGMENT_BYTES = 64 << 10
#: A peer that is silently gone (a cable, a laptop asleep) is noticed within about a minute.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
#: What a proxy says while nobody behind it answers, and a gateway while its daemon does not.
_AWAY = (502, 503, 504)
_REASON_CHARS_MAX = 200


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


_decode_problem = msgspec.json.Decoder(_Problem).decode
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Tunnel:
    """
    An open tunnel to the gateway at *address*, as the account of *token*; *ca* names a file of
    certificates to trust instead of the system's. It opens within *open_seconds* or not at all.

    Raises DaemonUnreachable, AccessDenied, ProtocolError, UsageError, RequestRefused (`try_later`).
    """

    def __init__(
        self,
        address: Address,
        token: str,
        *,
        ca: str | None = None,
        open_seconds: float = OPEN_SECONDS_MAX,
    ) -> None:
        self._url = address.url
        self._timeout: float | None = None
        #: Whole messages that recv() has not given out.
        self._messages: deque[bytes] = deque()
        #: The beginning of a message whose rest is on its way.
        self._parts: list[bytes] = []
        self._ended = False
        deadline = time.monotonic() + open_seconds
        self._socket = _connect(address, ca, deadline)
        uri = parse_uri(f"ws{address.url.removeprefix('http')}{TUNNEL_PATH}")
        self._protocol = ClientProtocol(uri, max_size=MESSAGE_BYTES_MAX)
        try:
            self._shake_hands(token, deadline)
        except BaseException:
            self._socket.close()
            raise

    def sendall(self, data: bytes) -> None:
        """
        Send whole frames. Raises BrokenPipeError when the tunnel is closed.
        """
        view = memoryview(data)
        while view:
            size = LENGTH_BYTES + int.from_bytes(view[:LENGTH_BYTES], "big")
            self._send_frame(view[:size])
            view = view[size:]

    def recv(self, _size: int) -> bytes:
        """
        Return the next frame, however long; nothing at the end. Raises TimeoutError.
        """
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._messages and not self._ended:
            self._take(self._read(deadline))
        return self._messages.popleft() if self._messages else b""

    def settimeout(self, seconds: float | None) -> None:
        """
        Let recv() raise TimeoutError after *seconds*.
        """
        self._timeout = seconds

    def fileno(self) -> int:
        """
        Return the descriptor of the connection. It may be readable before there is a whole frame.
        """
        return self._socket.fileno()

    def close(self) -> None:
        """
        Close the tunnel. May be called again. Waits for nothing.
        """
        if self._socket.fileno() < 0:
            return
        try:
            self._socket.settimeout(0)
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                self._socket.sendall(b"".join(self._protocol.data_to_send()))
        except OSError:
            pass  # It does not take the word of farewell; the end of the connection says the same.
        self._ended = True
        self._socket.close()

    # --- opening --------------------------------------------------------------------------------

    def _shake_hands(self, token: str, deadline: float) -> None:
        request: Request = self._protocol.connect()
        request.headers["Authorization"] = f"Bearer {token}"
        request.headers["User-Agent"] = f"queuectl/{__version__}"
        self._protocol.send_request(request)
        try:
            self._flush()
            while self._protocol.state is State.CONNECTING and not self._protocol.handshake_exc:
                data = self._read(deadline)
                if not data:
                    break
                self._take(data)
        except TimeoutError as error:
            raise DaemonUnreachable(f"{self._url} does not answer") from error
        except BrokenPipeError:
            pass
        if self._protocol.state is not State.OPEN:
            self._refuse(self._protocol.handshake_exc)

    def _refuse(self, error: Exception | None) -> NoReturn:
        if isinstance(error, InvalidStatus):
            raise _refusal(self._url, error.response) from error
        if error is not None:
            raise ProtocolError(
                f"what listens at {self._url} is no gateway of queuectl: {error}"
            ) from error
        raise DaemonUnreachable(f"{self._url} hung up before it answered")

    # --- bytes ----------------------------------------------------------------------------------

    def _send_frame(self, frame: memoryview) -> None:
        for start in range(0, len(frame), _FRAGMENT_BYTES):
            if start:
                self._take_arrived()
            if self._protocol.state is not State.OPEN:
                raise BrokenPipeError("the tunnel is closed")
            fragment = bytes(frame[start : start + _FRAGMENT_BYTES])
            last = start + _FRAGMENT_BYTES >= len(frame)
            if start:
                self._protocol.send_continuation(fragment, fin=last)
            else:
                self._protocol.send_binary(fragment, fin=last)
            self._flush()

    def _take_arrived(self) -> None:
        """
        Take what has arrived, without waiting.
        """
        self._socket.settimeout(0)
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        finally:
            self._socket.settimeout(None)
        self._take(data)

    def _read(self, deadline: float | None) -> bytes:
        left = None
        if deadline is not None:
            # A timeout of 0 would mean "do not block", with another error when there is nothing.
            left = max(deadline - time.monotonic(), 0.001)
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            if error.errno is None:
                raise
            data = b""  # ETIMEDOUT: the keepalive found nobody.
        except OSError:
            data = b""
        self._socket.settimeout(None)
        return data

    def _take(self, data: bytes) -> None:
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
            self._ended = True
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event)
        try:
            self._flush()  # A pong, or the answer to a close.
        except BrokenPipeError:
            self._ended = True
        if self._protocol.close_rcvd is not None or self._protocol.close_expected():
            self._ended = True

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.BINARY, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                self._messages.append(b"".join(self._parts))
                self._parts.clear()

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if not data:
            return
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise BrokenPipeError("the tunnel is closed") from error


def _connect(address: Address, ca: str | None, deadline: float) -> socket.socket:
    """
    Return a connection, with TLS where the address says so. Raises DaemonUnreachable, UsageError.
    """
    try:
        left = deadline - time.monotonic()
        plain = socket.create_connection((address.host, address.port), left)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DaemonUnreachable(f"no gateway answers at {address.url} ({reason})") from error
    try:
        for option in _KEEPALIVE:
            plain.setsockopt(*option)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.scheme != "https":
            return plain
        plain.settimeout(max(deadline - time.monotonic(), 0.001))
        return _context(ca).wrap_socket(plain, server_hostname=address.host)
    except BaseException as error:
        plain.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            raise DaemonUnreachable(
                f"the certificate of {address.url} cannot be trusted: {error.verify_message}; "
                "if its authority is your own: --ca FILE"
            ) from error
        if isinstance(error, OSError):
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            raise DaemonUnreachable(f"no TLS with {address.url}: {reason}") from error
        raise


def _context(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UsageError(f"--ca {ca}: holds no certificate in PEM") from error
    except OSError as error:
        raise UsageError(f"--ca {ca}: {error.strerror}") from error


def _refusal(url: str, response: Response) -> Exception:
    """
    Return the error that an answer other than an open tunnel stands for.
    """
    status = response.status_code
    code, reason = _problem(response)
    if status == 401:
        return AccessDenied(
            f"{url} does not accept the token ({reason}): it may have expired or been revoked, or "
            "belong to another machine"
        )
    if status in (403, 421):
        return AccessDenied(f"{url} refuses: {reason}")
    if code == "try_later":
        return RequestRefused(code, f"{url} refuses for now: {reason}")
    if status in _AWAY:
        # Whoever waits for a restart comes back.
        return DaemonUnreachable(f"no daemon behind {url}: {reason}")
    return ProtocolError(
        f"what listens at {url} is no gateway of queuectl, or an older one: {reason}"
    )


def _problem(response: Response) -> tuple[str, str]:
    """
    Return the code and the detail of a refusal of ours; of another's answer what can be said of it.
    """
    reason = f"HTTP {response.status_code}"
    location = response.headers.get("Location")
    if location:
        return "", f"{reason}, it is at {location[:_REASON_CHARS_MAX]}"
    try:
        problem = _decode_problem(response.body or b"")
    except _DECODE_ERRORS:
        return "", reason
    return problem.code, problem.detail[:_REASON_CHARS_MAX] or reason
