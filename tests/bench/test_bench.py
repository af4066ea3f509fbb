"""
The benchmarks run. How fast anything was is not looked at: that is for people to read.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# `startup` is left out: it installs the project with pip.
FIGURES = {
    "pipeline": ["enqueue, one job a request", "fdatasync", "echo"],
    "drain": ["drain of", "C posix_spawn loop"],
    "latency": ["enqueue to start, idle", "subprocess.run"],
    "million": ["memory per job", "status", "list --limit 100", "list --state dead", "restart"],
    "accounts": ["another account, none queued", "another account, 100 queued", "own account"],
    "rest": ["POST of one job, 64 connections", "POST of 2 jobs", "bare route"],
    "activation": ["first answer after socket activation, 10 queued", "none queued"],
    "dashboards": ["enqueue with 2 dashboards", "the gateway's memory", "bytes of the first page"],
    "scrape": ["metrics_get, 2 queues", "history_get, 2 queues", "GET /metrics, 2 queues"],
    "live": ["a line to a WebSocket, p99", "tail -f", "2 quiet jobs looked at"],
}
TRUSTED = Path("/var/lib")

if os.geteuid() == 0:  # It connects as several accounts.
    FIGURES["crowd"] = ["status among", "a connection each", "memory for the crowd"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_benchmark_prints_its_rows(name: str, tmp_path: Path) -> None:
    """
    With tiny counts: what it measures, its peer and the command that repeats it; nothing is left.
    """
    if name == "accounts" and os.geteuid() != 0:
        pytest.skip("only root can start jobs of other accounts")
    command = [sys.executable, ROOT / "bench" / "run.py", "--rounds", "1", "--scale", "0.0001"]
    done = subprocess.run(
        [*command, "--dir", tmp_path, name],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    # 1: a target was missed, as it may be with such counts.
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    for words in [*FIGURES[name], f"bench/run.py {name}"]:
        assert words in done.stdout
    assert [] == list(tmp_path.iterdir())
    assert [] == list(TRUSTED.glob("queuectl-bench-*"))


def test_an_unknown_benchmark_is_refused() -> None:
    """
    Exit code 2, and the names that there are.
    """
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "run.py", "drian"], capture_output=True, text=True
    )
    assert 2 == done.returncode
    for name in FIGURES:
        assert name in done.stderr
