"""
Which process is taken for the run of an INTENT, and which others are not, whatever they claim.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_accounts import UID, needs_root
from runner_client import PATH, Output, RunnerProcess, wait_until
from runner_ledger import NOW, Directory, unseen

from queuectld.runner import process
from queuectld.runner.adoption import find, resolve, traces
from queuectld.runner.clock import boottime_ns
from queuectld.runner.ledger import Intent, Started
from queuectld.runner.messages import UID_OWN

AT = 77
NAMED = {"PATH": PATH, "QUEUECTL_JOB_ID": "backup", "QUEUECTL_ATTEMPT": "3"}
UNNAMED = {"PATH": PATH}
OTHER_UID = 1
SLEEP = ["sleep", "1000"]


class Scene:
    """
    A ledger with the INTENT of attempt 3 of job 1, and processes that may be it.
    """

    def __init__(self, path: Path) -> None:
        self.directory = Directory(path)
        self.ledger = self.directory.open()
        self.output = Output(path / "output")
        self.processes: list[subprocess.Popen[bytes]] = []

    def intend(self, uid: int = UID_OWN, made_from_ns: int | None = None) -> None:
        since_ns = boottime_ns() if made_from_ns is None else made_from_ns
        env = {name.encode(): value.encode() for name, value in NAMED.items()}
        left = traces(self.output.fd, env)
        self.ledger.intend(*Intent(1, 3, AT, since_ns, uid, *left))

    def make(
        self,
        env: dict[str, str] | None = None,
        output_fd: int = subprocess.DEVNULL,
        argv: list[str] = SLEEP,
        **how: Any,
    ) -> int:
        """
        A process that leads a session of its own and executes its program; its pid.
        """
        how = {"start_new_session": True, "stdin": subprocess.DEVNULL, **how}
        made = subprocess.Popen(argv, env=env or UNNAMED, stdout=output_fd, **how)
        self.processes.append(made)
        return made.pid

    def resolved(self) -> Started | None:
        """
        The run that the INTENT is now; None: an end that nobody saw.
        """
        resolve(self.ledger, NOW)
        assert [] == self.ledger.intents()
        if found := [each for each in self.ledger.started() if each.job == 1]:
            assert [] == self.ledger.exits()
            return found[0]
        assert [unseen(1, 3, started_at=AT)] == self.ledger.exits()
        return None

    def resolved_pid(self) -> int | None:
        started = self.resolved()
        return None if started is None else started.pid

    def close(self) -> None:
        for each in self.processes:
            each.kill()
            each.wait()
        os.close(self.output.fd)
        for ledger in self.directory.open_ledgers:
            ledger.close()
        os.close(self.directory.fd)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_a_process_with_the_output_is_the_run(scene: Scene):
    """
    STARTED says so, to the next runner too: its pid, when it was made, whose it is, and that it was
    found. By that it is adopted.
    """
    scene.intend()
    pid = scene.make(output_fd=scene.output.fd)
    started = scene.resolved()
    assert started is not None
    made = process.read(pid)
    assert made is not None
    made_ns = made.start_ns
    assert Started(1, 3, AT, pid, made_ns, made_ns, UID_OWN, is_found=True) == started
    assert [started] == scene.directory.open().started()
    pidfd, is_child = find(started)
    assert pidfd >= 0
    assert is_child
    os.close(pidfd)


def test_without_a_process_it_is_an_end_nobody_saw(scene: Scene):
    """
    Of the time that the INTENT says.
    """
    scene.intend()
    assert scene.resolved() is None


@pytest.mark.parametrize(
    "env",
    [
        UNNAMED,
        {**NAMED, "QUEUECTL_JOB_ID": "restore"},
        {**NAMED, "QUEUECTL_ATTEMPT": "2"},
        {name: value for name, value in NAMED.items() if name != "QUEUECTL_JOB_ID"},
        {name: value for name, value in NAMED.items() if name != "QUEUECTL_ATTEMPT"},
    ],
)
def test_one_without_the_traces_is_not_taken(scene: Scene, env: dict[str, str], tmp_path: Path):
    """
    Another output, and variables of another job or attempt, or of none.
    """
    # Those of root's processes would not count anyway.
    uid = os.geteuid() or UID
    scene.intend(uid=uid)
    other = Output(tmp_path / "other")
    scene.make(env, output_fd=other.fd, user=uid)
    os.close(other.fd)
    assert scene.resolved() is None


def test_one_that_was_there_before_is_not_taken(scene: Scene):
    """
    It bears all traces, and is older than the INTENT.
    """
    pid = scene.make(NAMED, output_fd=scene.output.fd)
    made = process.read(pid)
    assert made is not None
    scene.intend(made_from_ns=made.start_ns + 1_000_000_000)
    assert scene.resolved() is None


def test_one_that_leads_no_session_is_not_taken(scene: Scene):
    """
    Each run leads its own, to its end.
    """
    scene.intend()
    scene.make(NAMED, output_fd=scene.output.fd, start_new_session=False)
    assert scene.resolved() is None


def test_one_whose_parent_is_younger_is_not_taken(scene: Scene):
    """
    A run became the child of one that was there before its runner. This one was made by something
    that the run could have made.
    """
    scene.intend()
    code = "setsid sleep 1000 & echo $!; wait"
    argv = ["sh", "-c", code]
    scene.make(NAMED, output_fd=scene.output.fd, argv=argv, start_new_session=False)
    pid = int(wait_until(lambda: scene.output.text, "its pid"))

    def leads() -> bool:
        found = process.read(pid)
        return found is not None and found.session == pid

    wait_until(leads, "its session")
    try:
        assert scene.resolved() is None
    finally:
        os.kill(pid, signal.SIGKILL)


def test_one_that_has_ended_is_not_taken(scene: Scene):
    """
    A zombie was a process.
    """
    scene.intend()
    pid = scene.make(NAMED, output_fd=scene.output.fd, argv=["true"])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert scene.resolved() is None


def test_one_that_is_another_run_is_not_taken(scene: Scene):
    """
    One process is one attempt: that of the STARTED that names it.
    """
    scene.intend()
    pid = scene.make(NAMED, output_fd=scene.output.fd)
    scene.ledger.intend(*Intent(2, 1, AT, boottime_ns(), UID_OWN, 0, 0, 0))
    scene.ledger.start(Started(2, 1, AT, pid, 0, boottime_ns()))
    assert scene.resolved() is None


@needs_root
@pytest.mark.parametrize("hidepid", [1, 2])
def test_hidden_processes_are_passed_over(hidepid: int):
    """
    Where accounts do not see the processes of others, each looks among its own.
    """
    code = f"""
import os, subprocess
from queuectld.runner import process
os.setgroups([])
os.setresgid({UID}, {UID}, {UID})
os.setresuid({UID}, {UID}, {UID})
own = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
try:
    own.stdin.write(b"its program is executed")
    own.stdout.read(1)
    print({{os.getpid(), own.pid}} <= {{each.pid for each in process.every()}})
    print(process.real_uid(own.pid))
    print(process.read(1), process.real_uid(1))
finally:
    own.kill()
"""
    command = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-c", code]
    done = subprocess.run(
        argv, cwd=RunnerProcess.ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert f"True\n{UID}\nNone None\n" == done.stdout


@needs_root
@pytest.mark.parametrize("uid", [UID, OTHER_UID])
@pytest.mark.parametrize("by", ["variables", "output"])
def test_one_of_another_account_is_not_taken(scene: Scene, uid: int, by: str):
    """
    Whatever it claims: by root's hand it would be signalled.
    """
    scene.intend(uid=UID)
    if by == "variables":
        pid = scene.make(NAMED, user=uid)
    else:
        pid = scene.make(output_fd=scene.output.fd, user=uid)
    assert (pid if uid == UID else None) == scene.resolved_pid()


@needs_root
@pytest.mark.parametrize("uid", [UID, 0, UID_OWN])
@pytest.mark.parametrize("by", ["variables", "output"])
def test_variables_of_roots_processes_do_not_count(scene: Scene, uid: int, by: str):
    """
    A set-user-ID program is root's and has the variables of whoever executed it, for runs of any
    account; the output it can only have from the run itself.
    """
    scene.intend(uid=uid)
    if by == "variables":
        scene.make(NAMED)
        assert scene.resolved() is None
    else:
        pid = scene.make(output_fd=scene.output.fd)
        assert pid == scene.resolved_pid()
