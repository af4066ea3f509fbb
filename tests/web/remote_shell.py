"""
The command line of another machine: processes with a home of their own, no daemon, and a token.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from daemon_process import DEADLINE_S, PACKAGES
from gateway_process import GatewayProcess


class Outcome(NamedTuple):
    """
    What a command did.
    """

    code: int
    out: str
    err: str


class RemoteShell:
    """
    Called with the words after `queuectl`. *command* is put before it: `ip netns exec`, for one.
    """

    def __init__(
        self, home: Path, gateway: GatewayProcess, token: str, command: Sequence[str] = ()
    ) -> None:
        self.home = home
        self.prefix = command
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": PACKAGES,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "SECRET_OF_HERE": "s3cret",
            "XDG_RUNTIME_DIR": str(home / "run"),
            "QUEUECTL_HOST": gateway.url,
            "QUEUECTL_TOKEN": token,
        }

    def popen(self, *words: str) -> "subprocess.Popen[bytes]":
        """
        Start a command; the test ends it.
        """
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-P", "-m", "queuectl", *words],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *words: str) -> Outcome:
        with self.popen(*words) as process:
            try:
                out, err = process.communicate(timeout=3 * DEADLINE_S)
            finally:
                process.kill()
        assert b"Traceback" not in err, err.decode()
        return Outcome(process.returncode, out.decode(), err.decode())

    def ok(self, *words: str) -> str:
        """
        Run a command that must succeed and say nothing; return its output without the newline.
        """
        outcome = self(*words)
        assert (0, "") == (outcome.code, outcome.err), outcome
        return outcome.out.rstrip("\n")
