"""
A real daemon and a real gateway for every file of these tests, and clients of it.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chromium import chromium
from daemon_process import DEADLINE_S, DaemonProcess
from gateway_process import GatewayProcess


@pytest.fixture(scope="module")
def web_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """
    A daemon for all tests of a file: for those that look only at jobs of their own.
    """
    daemon = DaemonProcess(os.fspath(tmp_path_factory.mktemp("web")))
    try:
        yield daemon.start()
    finally:
        daemon.clean_up()


@pytest.fixture(scope="module")
def gateway(web_daemon: DaemonProcess) -> Iterator[GatewayProcess]:
    """
    A gateway for all tests of a file.
    """
    gateway = GatewayProcess(web_daemon)
    try:
        yield gateway.start()
    finally:
        gateway.clean_up()


@pytest.fixture(scope="module")
def browser_session(gateway: GatewayProcess) -> httpx.Client:
    """
    A browser that was logged in with the one-time link; its requests carry the CSRF token.
    """
    return gateway.browser()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """
    A real browser, which Playwright drives.
    """
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> httpx.Client:
    """
    A program with a token of all scopes.
    """
    return gateway.token_client()


@pytest.fixture
def gateways() -> Iterator[Callable[..., GatewayProcess]]:
    """
    A function that makes a gateway of a test's own, not started.
    """
    made: list[GatewayProcess] = []

    def make(daemon: DaemonProcess, *options: str) -> GatewayProcess:
        gateway = GatewayProcess(daemon, *options, name=f"web{len(made)}")
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.clean_up()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """
    A certificate for 127.0.0.1 that is its own authority, and its key: two files.
    """
    cert, key = f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=queuectl test", "-keyout", key, "-out", cert]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    return cert, key
