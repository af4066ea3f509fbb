"""
The real command line against a real daemon.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from daemon_process import DEADLINE_S, DaemonProcess


class Outcome(NamedTuple):
    """
    What a command did: exit code, stdout, stderr.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """
        The one JSON document on stdout.
        """
        return msgspec.json.decode(self.out)


class Shell:
    """
    A shell whose commands go to one daemon. Called with the words after `queuectl`.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.directory = daemon.directory
        self.environment = {**daemon.environment, "QUEUECTL_SOCKET": daemon.socket}

    def __call__(self, *words: str, stdin: bytes = b"", **environment: str) -> Outcome:
        done = subprocess.run(
            self.command(*words),
            env={**self.environment, **environment},
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=3 * DEADLINE_S,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def command(self, *words: str) -> list[str]:
        """
        Return the command line of a process.
        """
        return [sys.executable, "-P", "-m", "queuectl", *words]

    def ok(self, *words: str, stdin: bytes = b"") -> str:
        """
        Run a command that must succeed and say nothing; return its output without the newline.
        """
        outcome = self(*words, stdin=stdin)
        assert (0, "") == (outcome.code, outcome.err), outcome
        return outcome.out.rstrip("\n")

    def popen(self, *words: str) -> "subprocess.Popen[bytes]":
        """
        Start a command; the test ends it.
        """
        return subprocess.Popen(
            self.command(*words),
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """
    A daemon for all tests of a file: for those that look only at jobs of their own.
    """
    daemon = DaemonProcess(os.fspath(tmp_path_factory.mktemp("shared")))
    try:
        yield Shell(daemon.start())
    finally:
        daemon.clean_up()


@pytest.fixture
def fresh(daemon: DaemonProcess) -> Shell:
    """
    A daemon in a fresh state.
    """
    return Shell(daemon)


@pytest.fixture
def unstarted(daemons: Callable[..., DaemonProcess]) -> Shell:
    """
    A place for a daemon, where none runs: the command line may start one.
    """
    shell = Shell(daemons())
    shell.environment["QUEUECTL_STATE_DIR"] = shell.daemon.state_dir
    return shell


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    The home of a user who has set nothing up: neither a host, nor a token, nor a socket.
    """
    for name in list(os.environ):
        if name.startswith(("QUEUECTL_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
