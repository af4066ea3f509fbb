"""
The tunnel of `queuectl --host`: a WebSocket whose binary messages are the frames of the control
socket, each with its length in front, one frame a message.

Behind each tunnel is a connection to the daemon of its own, greeted with the token that opened it.
The client's own hello is answered here and goes no further: whom it is served as, nobody can say
but the token. After it nothing is read or changed on the way. The daemon's limits hold, of
connections, requests and time, and so does its fairness: there is no other bound on tunnels.

Memory is bounded: a frame or two each way. Who does not read is not written to, up to the daemon,
which stops reading from its client; and the other way round. When one end hangs up so does the
other, after what it still said.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send

from queuectl.errors import ConnectionLost, QueuectlError, RequestRefused
from queuectl.framing import FRAME_BYTES_MAX, LENGTH_BYTES, pack_frame
from queuectl.protocol import PROTOCOL_VERSION, Hello, Refused, decoder, encode
from queuectl.web.gateway import Gateway
from queuectl.web.link import Connection, dial
from queuectl.web.refusals import Refusal, answer
from queuectl.web.visitor import VISITOR, Visitor

PATH: Final = "/api/v1/tunnel"
#: How long a client may take to say hello once the tunnel is open.
HELLO_SECONDS_MAX = 10.0

# How a tunnel ends (RFC 6455 7.4.1).
ENDED = 1000  # one side hung up
NOT_A_FRAME = 1003
NO_HELLO = 1008
GOING_AWAY = 1012  # this process restarts: come back

_decode_hello = decoder(Hello).decode
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def routes() -> list[BaseRoute]:
    """
    Return the route of the tunnel.
    """
    return [WebSocketRoute(PATH, Tunnels())]


class Broken(Exception):
    """
    The client sent what no client sends. `code` is the WebSocket's.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class GatewayStops(Exception):
    """
    Told to end, like every stream of this process.
    """


class ClientGone(Exception):
    """
    The client closed the tunnel.
    """


class Tunnels:
    """
    The ASGI application that serves every tunnel of a gateway.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one WebSocket.
        """
        gateway: Gateway = scope["app"].state.gateway
        try:
            connection = await _dial(scope[VISITOR])
        except Refusal as refusal:
            await answer(refusal, scope, send)
            return
        try:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept"})
            await _serve(gateway, connection, receive, send)
        finally:
            connection.close()


async def _dial(visitor: Visitor) -> Connection:
    """
    Return a connection of the visitor's own, before the tunnel is open: what goes wrong is still an
    answer of HTTP. Raises Refusal.
    """
    if visitor.session is not None or visitor.link.token is None:
        raise Refusal(403, "denied", "a tunnel takes a token: Authorization: Bearer TOKEN")
    try:
        return await dial(visitor.link.path, visitor.link.token)
    except RequestRefused as error:
        status = 401 if error.code == "denied" else 503
        raise Refusal(status, error.code, str(error)) from None
    except QueuectlError as error:
        raise Refusal(503, error.code, str(error), {"Retry-After": "1"}) from None


async def _serve(gateway: Gateway, connection: Connection, receive: Receive, send: Send) -> None:
    """
    Carry frames both ways until one end hangs up or this process ends.
    """
    code, reason = ENDED, ""
    try:
        async with asyncio.timeout(HELLO_SECONDS_MAX):
            await _greet(connection, receive, send)
        await _carry(gateway, connection, receive, send)
    except TimeoutError:
        code, reason = NO_HELLO, "no hello in time"
    except Broken as error:
        code, reason = error.code, str(error)
    except ConnectionLost:
        reason = "the daemon hung up"
    except GatewayStops:
        code, reason = GOING_AWAY, "the gateway restarts"
    except ClientGone:
        return
    with contextlib.suppress(OSError):  # It went away meanwhile.
        await send({"type": "websocket.close", "code": code, "reason": reason})


async def _greet(connection: Connection, receive: Receive, send: Send) -> None:
    """
    Answer the client's hello with the daemon's greeting.
    """
    frame = _frame_in(await receive())
    try:
        hello = _decode_hello(frame[LENGTH_BYTES:])
    except _DECODE_ERRORS:
        raise Broken(NO_HELLO, "the first frame must be a hello") from None
    if hello.protocol != PROTOCOL_VERSION:
        message = f"protocol {hello.protocol} is not spoken here, {PROTOCOL_VERSION} is"
        refused = encode(Refused(code="unsupported", message=message))
        await _say(send, refused)
        raise Broken(NO_HELLO, message)
    await _say(send, encode(connection.welcome))


async def _carry(gateway: Gateway, connection: Connection, receive: Receive, send: Send) -> None:
    """
    Run both directions until one ends, and raise why.
    """

    async def up() -> None:
        while True:
            await connection.send(_frame_in(await receive()))

    async def down() -> None:
        while True:
            await _say(send, await connection.receive())

    async def stop() -> None:
        await gateway.stopping.wait()
        raise GatewayStops

    tasks = [asyncio.create_task(each()) for each in (up, down, stop)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _say(send: Send, payload: bytes) -> None:
    """
    Send a frame to the client. Raises ClientGone.
    """
    try:
        await send({"type": "websocket.send", "bytes": pack_frame(payload)})
    except OSError:
        raise ClientGone from None


def _frame_in(message: Message) -> bytes:
    """
    Return the frame that a message of the client holds. Raises Broken, ClientGone.
    """
    if message["type"] == "websocket.disconnect":
        raise ClientGone
    data = message.get("bytes")
    if data is None:
        raise Broken(NOT_A_FRAME, "a message must be binary: a frame of the protocol")
    size = int.from_bytes(data[:LENGTH_BYTES], "big")
    if len(data) != LENGTH_BYTES + size or size > FRAME_BYTES_MAX:
        raise Broken(NOT_A_FRAME, "a message must hold one whole frame, its length in front")
    whole: bytes = data
    return whole
