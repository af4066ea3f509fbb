"""
What tests of jobs under other accounts need: accounts that every Linux host has, a policy that
allows them, and programs whose start hangs.
"""

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_client import Client, Output

from queuectld.runner import messages

USER = "nobody"
UID = 65534
POLICY = f'allow_users = ["{USER}", "daemon"]\n'

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start jobs under other accounts"
)


def run(client: Client, argv: list[str], output: Output, **how: Any) -> messages.Exited:
    return client.run(argv, output.fd, **{"uid": UID, "user": USER, **how})


def start(client: Client, argv: list[str], output: Output, **how: Any) -> None:
    client.start(argv, output.fd, **{"uid": UID, "user": USER, **how})


class Leased:
    """
    A program whose execve(2) waits until `release`: another process holds a lease on the file.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        path.write_text(text)
        path.chmod(0o755)
        self._before = signal.signal(signal.SIGIO, lambda _signo, _frame: None)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            signal.signal(signal.SIGIO, self._before)


def as_account(act: Callable[[], None], uid: int = UID, gid: int = UID) -> None:
    """
    Do something in a process of the account.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            act()
            code = 0
        finally:
            os._exit(code)
    assert 0 == os.waitpid(pid, 0)[1]
