"""
Servers of this checkout that a benchmark asks over HTTP, each in a process of its own.
"""

import json
import os
import subprocess
import sys
from typing import Self

from bench.service import PATIENCE_S, ROOT, Service
from queuectl.tokens import CreateToken, Scope, TokenCreated


class Server:
    """
    A process that serves HTTP at a port of this host and prints a line that says where.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline()
        self.pid = self._process.pid
        self.port = 0
        #: What a request needs besides its own headers, as lines.
        self.headers = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_S)


class Gateway(Server):
    """
    A gateway in front of *service*, and a token for it that is good for *scope*.
    """

    def __init__(self, service: Service, scope: Scope) -> None:
        super().__init__("queuectl", "--socket", service.socket, "--jsonl", "web", "--port", "0")
        self.url: str = json.loads(self.said)["url"]
        self.port = int(self.url.rpartition(":")[2])
        with service.client() as client:
            self.token = client.call(CreateToken(scopes=[scope]), TokenCreated).text
        self.headers = f"Authorization: Bearer {self.token}\r\n"


class BareRoute(Server):
    """
    The process of bare_route.py.
    """

    def __init__(self) -> None:
        super().__init__("bench.bare_route")
        self.port = int(self.said)
