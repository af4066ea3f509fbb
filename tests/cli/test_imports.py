"""
Requirement: enqueueing one job imports next to nothing. What a process imports is what it costs.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import PACKAGES
from daemon_twin import DaemonTwin, Peer

from queuectl.protocol import Enqueued

FORBIDDEN = {
    "argparse",
    "asyncio",
    "dataclasses",
    "difflib",
    "email",
    "http",
    "importlib.metadata",
    "json",
    "logging",
    "multiprocessing",
    "pathlib",
    "queuectld",
    "rich",
    "shlex",
    "shutil",
    "ssl",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "urllib",
}
#: All of ours that one plain enqueue may import.
OURS = {
    "queuectl",
    "queuectl.cli",
    "queuectl.client",
    "queuectl.commands",
    "queuectl.commands.enqueue",
    "queuectl.discovery",
    "queuectl.environment",
    "queuectl.errors",
    "queuectl.escape",
    "queuectl.framing",
    "queuectl.jobspec",
    "queuectl.options",
    "queuectl.protocol",
    "queuectl.session",
    "queuectl.views",
}


def modules_after(code: str, environment: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        env={"PYTHONPATH": PACKAGES, **environment},
        capture_output=True,
        check=True,
        text=True,
        timeout=30,
    )
    return set(done.stdout.split())


@pytest.fixture
def loaded(tmp_path: Path) -> set[str]:
    path = str(tmp_path / "q.sock")

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(Enqueued(call=peer.receive().call, ids=["1"]))

    code = (
        "from queuectl.cli import main\n"
        "assert main(['-q', 'enqueue', 'true']) == 0\n"
        "print(*sys.modules)\n"
    )
    with DaemonTwin(path, script):
        return modules_after(code, {"QUEUECTL_SOCKET": path, "PATH": "/usr/bin:/bin"})


def test_enqueue_imports_nothing_heavy(loaded: set[str]) -> None:
    """
    Nothing that a client of one request can do without.
    """
    assert set() == FORBIDDEN & loaded


def test_enqueue_imports_only_its_own_path(loaded: set[str]) -> None:
    """
    A module of ours more is a cost for every job: add it here on purpose or not at all.
    """
    assert {each for each in loaded if each.partition(".")[0] == "queuectl"} == OURS


def test_the_client_library_stands_alone() -> None:
    """
    A program that uses the client does not get the command line with it.
    """
    code = "import queuectl.client; print(*sys.modules)"
    loaded = modules_after(code, {})

    assert not {"queuectl.cli", "queuectl.commands", "queuectl.options"} & loaded
    assert set() == FORBIDDEN & loaded
