import ctypes
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_accounts import POLICY
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
def folder() -> Iterator[Path]:
    """
    A folder that only root can write, with all above it, and others can go through. (The usual
    folders of tests are below one that all can write.)
    """
    with tempfile.TemporaryDirectory(dir="/run", prefix="queuectl-test-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture
def folder_output(folder: Path) -> Iterator[Output]:
    output = Output(folder / "output")
    yield output
    os.close(output.fd)


@pytest.fixture(scope="session")
def executor() -> Iterator[str]:
    """
    The path of the program that executor.c becomes, where only root can write.
    """
    source = RunnerProcess.ROOT / "queuectld" / "runner" / "executor.c"
    with tempfile.TemporaryDirectory(dir="/run", prefix="queuectl-test-") as name:
        path = f"{name}/executor"
        try:
            subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", path, source], check=True)
        except FileNotFoundError:
            pytest.skip("no C compiler here")
        yield path


@pytest.fixture(params=["forked", "executor"])
def policy_options(request: pytest.FixtureRequest, folder: Path) -> list[str]:
    """
    What starts a runner for the accounts in POLICY, in either of the two ways it has.
    """
    (folder / "policy").write_text(POLICY)
    options = ["--policy", str(folder / "policy")]
    if request.param == "executor":
        options += ["--executor", request.getfixturevalue("executor")]
    return options


@pytest.fixture
def account_runner(folder: Path, policy_options: list[str]) -> Iterator[RunnerProcess]:
    with RunnerProcess(folder / "runner", *policy_options) as runner:
        yield runner


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
