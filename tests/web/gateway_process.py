"""
A real `queuectl web` in a process of its own, and clients of it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys

import httpx
from daemon_process import DEADLINE_S, DaemonProcess

from queuectl.client import Client
from queuectl.tokens import CreateToken, Scope, TokenCreated


class GatewayProcess:
    """
    A gateway on a free port of 127.0.0.1, in front of *daemon*. *command* is put before its own.
    """

    def __init__(
        self,
        daemon: DaemonProcess,
        *options: str,
        name: str = "web",
        command: tuple[str, ...] = (),
    ) -> None:
        self.daemon = daemon
        self.options = options
        self.command = command
        self.log_path = f"{daemon.directory}/{name}.log"
        #: Where it listens: `http://127.0.0.1:PORT`.
        self.url = ""
        #: The one-time link that it printed; None with --tokens-only.
        self.link: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[httpx.Client] = []

    def start(self) -> "GatewayProcess":
        """
        Start it, and wait until it listens.
        """
        command = [*self.command, sys.executable, "-P", "-m", "queuectl"]
        command += ["--socket", self.daemon.socket, "--jsonl", "web", *self.options]
        if "--port" not in self.options:
            command += ["--port", "0"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=self.daemon.environment,
            )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert readable, f"not ready within {DEADLINE_S} s\n{self.log}"
        line = self.process.stdout.readline()
        assert line, self.log
        said = json.loads(line)
        self.url, self.link = said["url"], said["link"]
        return self

    def stop(self) -> int:
        """
        SIGTERM; return the exit code.
        """
        self.close_clients()
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        return code

    def clean_up(self) -> None:
        """
        End it. Called whatever happened before.
        """
        self.close_clients()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    @property
    def log(self) -> str:
        """
        What it logged so far.
        """
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def events(self, name: str) -> list[dict[str, object]]:
        """
        Return the events of that name that it logged so far.
        """
        lines = self.log.splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in found if each["event"] == name]

    @property
    def port(self) -> int:
        """
        The port that it listens on.
        """
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """
        Its process id.
        """
        assert self.process is not None
        return self.process.pid

    def rss_bytes(self) -> int:
        """
        How much memory it holds.
        """
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def socket_count(self) -> int:
        """
        How many sockets it has: of clients, and of its connections to the daemon.
        """
        count = 0
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
                count += os.readlink(f"/proc/{self.pid}/fd/{name}").startswith("socket:")
        return count

    # --- clients --------------------------------------------------------------------------------

    def client(self, **headers: str) -> httpx.Client:
        """
        Return an HTTP client that is nobody yet.
        """
        client = httpx.Client(
            base_url=self.url, headers=headers, timeout=DEADLINE_S, trust_env=False
        )
        self._clients.append(client)
        return client

    def token_client(self, *scopes: Scope, token: str | None = None) -> httpx.Client:
        """
        Return a client with a new token of these scopes (none: all), or with *token*.
        """
        token = token or self.make_token(*scopes)
        return self.client(Authorization=f"Bearer {token}")

    def browser(self, link: str | None = None) -> httpx.Client:
        """
        Return a client that is logged in by a one-time link, and sends what a page's script does.
        """
        client = self.client()
        answer = client.get(link or self.link or "")
        assert answer.status_code == 200, answer.text
        session = client.get("/session").json()
        client.headers["X-CSRF-Token"] = session["csrf_token"]
        client.headers["Origin"] = self.url
        client.headers["Sec-Fetch-Site"] = "same-origin"
        return client

    def make_token(self, *scopes: Scope, lifetime_ms: int | None = None) -> str:
        """
        Return a new token of the account that the tests run under.
        """
        given: list[Scope] = list(scopes) or ["read", "submit", "manage"]
        with Client(self.daemon.socket) as client:
            request = CreateToken(scopes=given, lifetime_ms=lifetime_ms)
            return client.call(request, TokenCreated).text

    def close_clients(self) -> None:
        """
        Close the clients' connections.
        """
        while self._clients:
            self._clients.pop().close()
