"""
Running a gateway: the listening socket, uvicorn, TLS, readiness, the end.

SIGTERM and SIGINT end it within SHUTDOWN_SECONDS: it stops listening, streams are told, requests
that are being served are waited for. The queue and its jobs are not concerned.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import Server

from queuectl.errors import UsageError
from queuectl.web import log
from queuectl.web.app import build
from queuectl.web.arrival import hosts_of
from queuectl.web.configuration import Configuration, host_in_url
from queuectl.web.connections import HEAD_SECONDS_MAX, Connection, Connections, WebSocketConnection
from queuectl.web.gateway import Gateway

SHUTDOWN_SECONDS = 5
#: How much less of a busy processor the gateway gets: who enqueues goes before who looks.
NICENESS = 5
#: A message of a WebSocket, which a browser may send: the protocol's largest frame and a little.
WEBSOCKET_BYTES_MAX = (4 << 20) + 64
#: A client that takes nothing of what was sent to it for so long is gone (TCP_USER_TIMEOUT).
UNREAD_MS_MAX = 60_000
_BACKLOG = 512
#: What asyncio holds for each connection with TLS to read into; of itself it takes 256 KiB.
_TLS_BUFFER_BYTES = 32 << 10


class _Server(Server):
    """
    uvicorn's server, which says when it is ready and tells streams when it ends.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for signo in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signo, self.handle_exit, signo, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1")
        self._gateway.stop()
        await super().shutdown(sockets)


def serve(configuration: Configuration, announce: Callable[[str, str | None], None]) -> None:
    """
    Serve until a signal says to stop. *announce* is called with the gateway's URL and a one-time
    link, if there is one, when it listens.

    Raises UsageError if it cannot listen, or has no usable certificate.
    """
    log.configure()
    allow_descriptors()
    os.nice(NICENESS)
    listening = listen(configuration)
    port = listening.getsockname()[1]
    with listening:
        asyncio.run(_serve(configuration, listening, port, announce))


async def _serve(
    configuration: Configuration,
    listening: socket.socket,
    port: int,
    announce: Callable[[str, str | None], None],
) -> None:
    gateway = Gateway(configuration)
    gateway.hosts = hosts_of(configuration, port)
    url = f"{configuration.scheme}://{_name_of(configuration)}:{port}"

    def ready() -> None:
        link = None
        if not configuration.tokens_only:
            link = f"{url}/login/{gateway.sessions.make_link(gateway.clock())}"
        log.log.info("web_started", url=url, socket=configuration.socket)
        announce(url, link)
        notify("READY=1", f"STATUS=Serving {url}")

    server = _Server(uvicorn_config(build(gateway), configuration), gateway, ready)
    # What is there now stays to the end: no collection need look at it again.
    gc.collect()
    gc.freeze()
    sweeping = asyncio.create_task(gateway.sweep_for_ever())
    try:
        await server.serve([listening])
    finally:
        sweeping.cancel()
        gateway.close()
        log.log.info("web_stopped")


def listen(configuration: Configuration) -> socket.socket:
    """
    Return a socket that is bound as configured. Raises UsageError.
    """
    family = socket.AF_INET6 if ":" in configuration.bind else socket.AF_INET
    # asyncio turns Nagle's algorithm off where it is told that this is TCP, and only there. Else
    # each answer would wait 40 ms for the client's delayed acknowledgement of its headers.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS_MAX)
    try:
        listening.bind((configuration.bind, configuration.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        where = f"{host_in_url(configuration.bind)}:{configuration.port}"
        raise UsageError(f"cannot listen at {where}: {error.strerror}; try --port 0") from error
    return listening


def allow_descriptors() -> None:
    """
    Let this process have as many descriptors as it may: a connection is one, a stream two.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def notify(*lines: str) -> None:
    """
    Tell the service manager, if there is one (sd_notify(3)).
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):  # A name in the abstract namespace.
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        try:
            manager.sendto("\n".join(lines).encode(), path)
        except OSError:
            pass  # It is not there to listen.


def uvicorn_config(app: ASGIApp, configuration: Configuration) -> uvicorn.Config:
    """
    Return how uvicorn is to serve *app*. Raises UsageError without a usable certificate.
    """
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(Connection, Connections(), _tls_context(configuration))),
        ws=WebSocketConnection,
        ws_max_size=WEBSOCKET_BYTES_MAX,
        ws_per_message_deflate=False,  # A few bytes can be made of many, by anybody.
        interface="asgi3",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # See arrival.py.
        server_header=False,
        timeout_keep_alive=HEAD_SECONDS_MAX,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    config.load()
    return config


def _tls_context(configuration: Configuration) -> ssl.SSLContext | None:
    if configuration.tls_cert is None:
        return None
    sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(configuration.tls_cert, configuration.tls_key)
    except OSError as error:  # An ssl.SSLError is one.
        raise UsageError(f"--tls-cert, --tls-key: cannot be used: {error}") from error
    return context


def _name_of(configuration: Configuration) -> str:
    """
    Return the name by which a browser finds the gateway.
    """
    if configuration.bind in ("0.0.0.0", "::"):  # noqa: S104  A comparison.
        return "localhost"
    return host_in_url(configuration.bind)
