"""
Requirement: what holds for connections holds for those with TLS from their first byte on. Whoever
opens one and stays silent takes no place for long and keeps nobody out.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Callable

import httpx
import pytest
from daemon_process import DEADLINE_S, DaemonProcess
from gateway_process import GatewayProcess
from raw_http import RawHttp

from queuectl.web.connections import CONNECTIONS_MAX, HEAD_SECONDS_MAX

#: What 2,000 connections may take, each in the middle of a handshake.
RSS_BYTES_MAX = 400 << 20


@pytest.fixture
def tls_gateway(
    web_daemon: DaemonProcess,
    gateways: Callable[..., GatewayProcess],
    certificate: tuple[str, str],
) -> GatewayProcess:
    """
    A gateway that speaks TLS.
    """
    cert, key = certificate
    return gateways(web_daemon, "--tls-cert", cert, "--tls-key", key).start()


def descriptor_count(gateway: GatewayProcess) -> int:
    """
    Return how many files and sockets the gateway has open.
    """
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))


def test_silent_strangers_are_bounded(
    tls_gateway: GatewayProcess, certificate: tuple[str, str]
) -> None:
    """
    More of them than there are places take no more memory, keep nobody out, and hold up no end.
    """
    before = descriptor_count(tls_gateway)
    strangers = [RawHttp(tls_gateway) for _ in range(CONNECTIONS_MAX + 300)]
    context = ssl.create_default_context(cafile=certificate[0])
    assert (
        200 == httpx.get(f"{tls_gateway.url}/healthz", verify=context, trust_env=False).status_code
    )
    assert before + CONNECTIONS_MAX >= descriptor_count(tls_gateway)
    assert RSS_BYTES_MAX >= tls_gateway.rss_bytes()
    assert 0 == tls_gateway.stop()
    for each in strangers:
        each.socket.close()


def test_a_silent_stranger_must_go(tls_gateway: GatewayProcess) -> None:
    """
    The handshake has the time that a request's head has, and what is no handshake ends it.
    """
    with RawHttp(tls_gateway) as silent, RawHttp(tls_gateway) as plain:
        plain.request("GET", "/healthz")
        assert b"HTTP" not in plain.read_all()
        silent.socket.settimeout(HEAD_SECONDS_MAX + DEADLINE_S)
        assert b"" == silent.read_all()


def test_a_request_that_comes_with_the_handshake(
    tls_gateway: GatewayProcess, certificate: tuple[str, str]
) -> None:
    """
    A client may send its first request together with the end of the handshake: none of it is lost.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=certificate[0])
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", tls_gateway.port), DEADLINE_S) as connection:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65_536))
        host = f"Host: 127.0.0.1:{tls_gateway.port}"
        tls.write(f"GET /healthz HTTP/1.1\r\n{host}\r\n\r\n".encode())
        connection.sendall(outgoing.read())  # The end of the handshake and the request.
        answer = b""
        while b"ok" not in answer:
            data = connection.recv(65_536)
            assert data, answer
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    answer += tls.read()
    assert answer.startswith(b"HTTP/1.1 200 OK")
