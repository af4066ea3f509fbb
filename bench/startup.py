"""
What a person waits for: `queuectl enqueue true` from the shell's fork to the exit.

The console script is that of a clean environment, made here as pip makes it, with the dependencies
of queuectl and nothing else: whatever else is installed beside it changes what gets imported.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.rows import Row, Target, take_turns
from bench.service import ROOT, Place, Service

RUNS_PER_ROUND = 5


def measure(place: Place) -> list[Row]:
    """
    Run both commands in turn; ms from spawning to the end.
    """
    command = [str(_clean_environment(place) / "bin" / "queuectl"), "enqueue", "true"]
    python = os.path.realpath(sys.executable)
    with Service(place, slots=0) as service:
        environ = {**os.environ, "QUEUECTL_SOCKET": service.socket}
        ours, peer = take_turns(
            place.rounds * RUNS_PER_ROUND,
            lambda: _run_ms(command, environ),
            lambda: _run_ms([python, "-I", "-S", "-c", "pass"], environ),
        )
    name = "queuectl enqueue true, to exit"
    return [Row(name, ours, "ms", peer, "python3 -I -S -c pass", Target("<=", 5, "ratio"))]


def _clean_environment(place: Place) -> Path:
    path = place.folder("venv")
    # The source is copied: building must not leave anything in the checkout.
    source = place.folder("source")
    for name in ("queuectl", "queuectld", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            subprocess.run(["cp", "-R", ROOT / name, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    pip = [str(path / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(source)], check=True)
    return path


def _run_ms(command: list[str], environ: dict[str, str]) -> float:
    begin = time.monotonic()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], command, environ, file_actions=quiet)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise RuntimeError(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return (time.monotonic() - begin) * 1000
