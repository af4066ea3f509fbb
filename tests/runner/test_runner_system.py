"""
A runner that is root and its daemon that is not: who may connect, and what the command line asks.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from runner_accounts import POLICY, UID, USER, as_account, needs_root
from runner_client import DEADLINE_S, Client, Output, RunnerProcess

from queuectld.runner import messages

pytestmark = needs_root

DAEMON = "daemon"  # stands in for the account of queuectld


@pytest.fixture
def runner(folder: Path):
    (folder / "policy").write_text(POLICY)
    options = ["--policy", str(folder / "policy"), "--daemon-user", DAEMON]
    with RunnerProcess(folder / "runner", *options) as runner:
        runner.connect().close()
        yield runner


def test_the_socket_is_the_daemons_alone(runner: RunnerProcess):
    """
    The directory stays root's; the daemon's group can go through it, and nobody can list it. The
    socket is the daemon's, the ledger root's.
    """
    daemon = pwd.getpwnam(DAEMON)
    found = {
        name: (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        for name in (".", "runner.sock", "ledger")
        for status in [(runner.directory / name).stat()]
    }
    assert {
        ".": (0, daemon.pw_gid, 0o710),
        "runner.sock": (daemon.pw_uid, 0, 0o600),
        "ledger": (0, 0, 0o600),
    } == found


def test_the_daemon_is_served(runner: RunnerProcess, folder_output: Output):
    """
    Connected under its own account and group, with no other right.
    """
    daemon = pwd.getpwnam(DAEMON)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(daemon.pw_gid, daemon.pw_gid, daemon.pw_gid)
            os.setresuid(daemon.pw_uid, daemon.pw_uid, daemon.pw_uid)
            client = Client(runner.directory)
            client.hello()
            how = {"uid": UID, "user": USER}
            assert 0 == client.run(["id", "-u"], folder_output.fd, **how).status
            client.start(["true"], folder_output.fd, job=2, uid=0, user="root")
            assert messages.ROOT == client.refused().reason
            code = 0
        finally:
            os._exit(code)
    assert 0 == os.waitpid(pid, 0)[1]
    assert f"{UID}\n" == folder_output.text


def test_nobody_else_reaches_the_socket(runner: RunnerProcess):
    """
    Not even a member of the daemon's group, should it have more.
    """

    def reach() -> None:
        with pytest.raises(PermissionError):
            Client(runner.directory)

    as_account(reach)
    gid = pwd.getpwnam(DAEMON).pw_gid

    def reach_in_the_group() -> None:
        with pytest.raises(PermissionError):
            os.listdir(runner.directory)
        with pytest.raises(PermissionError):
            Client(runner.directory)

    as_account(reach_in_the_group, gid=gid)


def test_the_peer_is_asked_for_even_so(runner: RunnerProcess):
    """
    A socket that was opened to others by mistake is closed to them all the same.
    """
    runner.directory.chmod(0o711)
    (runner.directory / "runner.sock").chmod(0o666)

    def reach() -> None:
        client = Client(runner.directory)
        assert client.is_closed()

    as_account(reach)
    assert f"closed a connection of uid {UID}" in runner.stderr
    runner.greeted()


def test_the_directory_is_mended(folder: Path):
    """
    One that was made readable, as service managers do, is closed before there is a socket; one
    that others can write is refused, for they could have put something there.
    """
    (folder / "policy").write_text(POLICY)
    options = ["--policy", str(folder / "policy"), "--daemon-user", DAEMON]
    directory = folder / "runner"
    directory.mkdir()
    directory.chmod(0o755)
    with RunnerProcess(directory, *options) as runner:
        runner.greeted()
        assert 0o710 == stat.S_IMODE(directory.stat().st_mode)
    directory.chmod(0o775)
    with RunnerProcess(directory, *options) as runner:
        assert 77 == runner.process.wait(DEADLINE_S)
    os.chown(directory, UID, 0)
    directory.chmod(0o710)
    with RunnerProcess(directory, *options) as runner:
        assert 77 == runner.process.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--daemon-user", DAEMON], 64, "needs --policy"),
        (["--executor", "/usr/bin/true"], 64, "needs --policy"),
        (["--policy"], 64, "without its value"),
        (["--policy", ""], 64, "without its value"),
        (["--policy", "{policy}", "--daemon-user", "no-such-user"], 67, "no account no-such-user"),
        (["--policy", "{folder}/missing"], 77, "No such file"),
        (["--policy", "{open}"], 77, "lets others write"),
        (["--policy", "{wrong}"], 77, "the nearest is uid_min"),
        (["--policy", "{policy}", "--executor", "{open}"], 77, "lets others write"),
        (["--policy", "{policy}", "--executor", "{folder}/missing"], 77, "No such file"),
    ],
)
def test_what_the_command_line_asks_must_be_there(
    folder: Path, options: list[str], code: int, said: str
):
    """
    One line, and the exit code of its kind.
    """
    names = {"folder": folder}
    for name, text in (("policy", ""), ("open", ""), ("wrong", "uidmin = 1")):
        names[name] = folder / name
        names[name].write_text(text)
    names["open"].chmod(0o666)
    done = subprocess.run(
        [*RunnerProcess.COMMAND, "--dir", str(folder / "runner")]
        + [option.format(**names) for option in options],
        cwd=RunnerProcess.ROOT,
        capture_output=True,
        text=True,
    )
    assert (code, 1) == (done.returncode, done.stderr.count("\n"))
    assert said in done.stderr


def test_only_root_has_a_policy(folder: Path):
    """
    Exit code 77: without root there is one account only.
    """
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("no Python where others can execute it")
    for package in ("queuectl", "queuectld"):  # Of the first its version, no more.
        shutil.copytree(RunnerProcess.ROOT / package, folder / "code" / package)
    for path in [folder / "code", *(folder / "code").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "policy").write_text(POLICY)
    done = subprocess.run(
        [python, "-m", "queuectld.runner.main", "--dir", "/run/x", "--policy", folder / "policy"],
        cwd=folder / "code",
        user=UID,
        group=UID,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert (77, 1) == (done.returncode, done.stderr.count("\n"))
    assert "only root" in done.stderr


def test_capabilities_that_jobs_would_inherit_are_given_up(folder: Path):
    """
    Whatever the runner was started with, its own rights stay and jobs get none: a job must not
    have more than its account.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv here")
    code = (
        "from queuectld.runner.capabilities import give_up_inheritable; give_up_inheritable(); "
        "print(open('/proc/self/status').read())"
    )
    command = [setpriv, "--inh-caps=+chown,+perfmon", "--ambient-caps=+chown"]
    sets: list[dict[str, int]] = []
    for program in (["cat", "/proc/self/status"], [sys.executable, "-c", code]):
        said = subprocess.run(
            [*command, *program],
            cwd=RunnerProcess.ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        lines = [line.split(":\t") for line in said.splitlines() if line.startswith("Cap")]
        sets.append({name: int(value, 16) for name, value in lines})
    before, after = sets
    assert before["CapInh"] != 0
    assert before["CapAmb"] != 0
    assert {**before, "CapInh": 0, "CapAmb": 0} == after
