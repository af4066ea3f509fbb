"""
The daemon's side of the runner's socket, for tests, and a runner process of their own.
"""

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from queuectld.runner import messages
from queuectld.runner.endpoint import connect

DEADLINE_S = 20.0
PATH = "/usr/bin:/bin"

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str) -> T:
    """
    The first true answer of `condition`; the test fails when it takes too long.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.005)
    return answer


class Output:
    """
    The output file of a job.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def text(self) -> str:
        return self.path.read_text()


class Client:
    """
    One connection to a runner.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = connect(str(directory))
        self.socket.settimeout(DEADLINE_S)

    def close(self) -> None:
        self.socket.close()

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.socket, [message], list(fds))

    def receive(self) -> messages.Event:
        data = self.socket.recv(messages.MESSAGE_BYTES_MAX)
        assert data, "the runner closed the connection"
        return messages.unpack_event(data)

    def is_closed(self) -> bool:
        """
        Whether the runner closed: nothing but the end is left to read. Waits for it.
        """
        try:
            return self.socket.recv(messages.MESSAGE_BYTES_MAX) == b""
        except ConnectionResetError:
            return True

    def is_quiet(self) -> bool:
        """
        Whether there is nothing to read now.
        """
        return not select.select([self.socket], [], [], 0)[0]

    def hello(self, epoch: int = 1) -> tuple[messages.Welcome, list[messages.Event]]:
        """
        Greet; the WELCOME and the list that follows it.
        """
        self.send(messages.pack_hello(epoch))
        welcome = self.receive()
        assert isinstance(welcome, messages.Welcome)
        events = []
        while not isinstance(event := self.receive(), messages.Ready):
            events.append(event)
        return welcome, events

    def start(
        self,
        argv: Sequence[str],
        output_fd: int,
        job: int = 1,
        attempt: int = 1,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        script: str = "",
        umask: int = 0o022,
        uid: int = messages.UID_OWN,
        user: str = "",
    ) -> None:
        env = env if env is not None else {"PATH": PATH}
        body = messages.pack_body(cwd, argv, env, script, user)
        fds = [output_fd]
        if len(body) > messages.BODY_INLINE_BYTES_MAX:
            fds.append(messages.memfd("body", body))
        self.send(messages.pack_start(job, attempt, umask, body, uid), fds)
        for fd in fds[1:]:
            os.close(fd)

    def running(self) -> messages.Running:
        event = self.receive()
        assert isinstance(event, messages.Running), event
        return event

    def exited(self) -> messages.Exited:
        event = self.outcome()
        assert isinstance(event, messages.Exited), event
        return event

    def refused(self) -> messages.Refused:
        event = self.outcome()
        assert isinstance(event, messages.Refused), event
        return event

    def outcome(self) -> messages.Event:
        """
        The next message that is no RUNNING, which a run that ends soon may or may not have.
        """
        while isinstance(event := self.receive(), messages.Running):
            pass
        return event

    def run(self, argv: Sequence[str], output_fd: int, job: int = 1, **how: Any) -> messages.Exited:
        """
        Start, wait for the end, acknowledge.
        """
        self.start(argv, output_fd, job, **how)
        exited = self.exited()
        self.send(messages.pack_ack(exited.job, exited.attempt))
        return exited

    def sync(self) -> None:
        """
        Wait until the runner has read everything sent so far, by a START that must fail.
        """
        with open(os.devnull, "wb") as null:
            self.start(["/"], null.fileno(), job=2**63, cwd="/nowhere/at/all")
        refused = self.refused()
        assert messages.CWD == refused.stage


class RunnerProcess:
    """
    A runner in a directory, ended with the test.
    """

    ROOT = Path(__file__).resolve().parents[2]
    COMMAND = (sys.executable, "-m", "queuectld.runner.main")

    def __init__(
        self,
        directory: Path,
        *options: str,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.directory = directory
        self.clients: list[Client] = []
        self.stderr_path = directory.parent / f"{directory.name}.stderr"
        with self.stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*self.COMMAND, "--dir", str(directory), *options],
                cwd=self.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                preexec_fn=preexec,
            )

    def __enter__(self) -> "RunnerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            # The polite way first, with no grace: it takes the jobs with it.
            try:
                client = self.connect()
                client.hello(2**63)
                client.send(messages.pack_stop(0))
                self.process.wait(DEADLINE_S)
            except (OSError, AssertionError, subprocess.TimeoutExpired):
                self.process.kill()
        self.process.wait()
        for client in self.clients:
            client.close()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def connect(self) -> Client:
        """
        A connection that has not said HELLO.
        """

        def attempt() -> Client | None:
            try:
                return Client(self.directory)
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, f"the runner ended: {self.stderr}"
                return None

        client = wait_until(attempt, "the runner's socket")
        self.clients.append(client)
        return client

    def greeted(self, epoch: int = 1) -> Client:
        """
        A connection that has said HELLO and read the list.
        """
        return self.meet(epoch)[0]

    def meet(self, epoch: int = 1) -> tuple[Client, list[messages.Event]]:
        """
        A connection that has said HELLO, and the list.
        """
        while True:
            client = self.connect()
            try:
                return client, client.hello(epoch)[1]
            except (BrokenPipeError, ConnectionResetError):
                # The socket of a runner that was killed: a process it has just made still has it,
                # since exec lets the parent go on before it closes descriptors.
                assert self.process.poll() is None, f"the runner ended: {self.stderr}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
