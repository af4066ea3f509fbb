import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_client import Client, Output, RunnerProcess

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    output = Output(tmp_path / "output")
    yield output
    os.close(output.fd)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[RunnerProcess]:
    with RunnerProcess(tmp_path / "runner") as runner:
        yield runner


@pytest.fixture
def client(runner: RunnerProcess) -> Client:
    return runner.greeted()


@pytest.fixture
def reaper() -> Iterator[None]:
    """
    Jobs whose runner was killed become children of the test process, which reaps them when it
    chooses to: what init does, at a known moment.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert 0 == libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    assert 0 == libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("QUEUECTL_SEED") or random.SystemRandom().getrandbits(32))
    print(f"QUEUECTL_SEED={seed}")
    return random.Random(seed)
