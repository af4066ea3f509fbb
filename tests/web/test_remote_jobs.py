"""
Requirements on jobs that are asked for from another machine: what they take over, what becomes of
those who wait for them, and what a token allows.
"""

import json
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon_process import DEADLINE_S, DaemonProcess, wait_until
from gateway_process import GatewayProcess
from remote_shell import RemoteShell

from queuectl.protocol import Done
from queuectl.tokens import ListTokens, RevokeToken, Scope, Tokens


@pytest.fixture
def shell(gateway: GatewayProcess, tmp_path: Path) -> RemoteShell:
    """
    Another machine, in front of the daemon of all tests of this file.
    """
    return RemoteShell(tmp_path, gateway, gateway.make_token())


def test_a_job_takes_nothing_over(shell: RemoteShell) -> None:
    """
    It begins at home on its own machine, with what the account has there, the usual umask, and of
    the variables here those that were named.
    """
    report = "import json, os; print(json.dumps([dict(os.environ), os.getcwd(), os.umask(0)]))"
    words = ["run", "--env", "SECRET_OF_HERE", "--env", "A=b", "--", "python3", "-c", report]
    env, directory, umask = json.loads(shell.ok(*words))
    account = pwd.getpwuid(os.geteuid())
    job = {each: env.pop(each) for each in list(env) if each.startswith("QUEUECTL_")}

    assert {"JOB_ID", "ATTEMPT", "QUEUE", "SLOT"} == {each[9:] for each in job}
    assert {
        "SECRET_OF_HERE": "s3cret",
        "A": "b",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell,
    } == {name: value for name, value in env.items() if name not in ("PWD", "LC_CTYPE")}
    assert (account.pw_dir, 0o022) == (directory, umask)


def test_a_directory_is_one_of_the_other_machine(shell: RemoteShell) -> None:
    """
    Absolute or at home there; what is relative to here means nothing there, in JSON neither.
    """
    assert "/usr" == shell.ok("run", "--cwd", "/usr", "pwd")
    assert pwd.getpwuid(os.geteuid()).pw_dir == shell.ok("run", "--cwd", "~", "pwd")
    (shell.home / "jobs.json").write_text('{"command": "pwd", "cwd": "src"}')
    refused = "must be absolute, or begin with ~ for the account's home, with --host; got 'src'"
    for words in (
        ["enqueue", "--cwd", "src", "pwd"],
        ["run", "--cwd", "src", "pwd"],
        ["run", '{"command": "pwd", "cwd": "src"}'],
        ["enqueue", "-f", "jobs.json"],
        ["enqueue", "--partial", "-f", "jobs.json"],
    ):
        outcome = shell(*words)
        assert (2, True) == (outcome.code, refused in outcome.err), outcome


def test_files_are_read_here(shell: RemoteShell) -> None:
    """
    A script and a file of jobs are this machine's; the other one has neither.
    """
    (shell.home / "greet").write_text("#!/bin/sh\necho hello $1\n")
    assert "hello world" == shell.ok("run", "--script", "greet", "--", "world")

    (shell.home / "jobs.json").write_text('[{"command": "echo one"}, {"command": "echo two"}]')
    first, second = shell.ok("enqueue", "-f", "jobs.json").split()
    shell.ok("wait", first, second)
    assert ("one", "two") == (shell.ok("logs", first), shell.ok("logs", second))


def test_the_whole_environment_is_not_passed_on(shell: RemoteShell) -> None:
    """
    With a reason.
    """
    outcome = shell("enqueue", "--env-all", "true")

    assert 2 == outcome.code
    assert "--env-all: variables of this machine mean nothing on another" in outcome.err


# --- restarts --------------------------------------------------------------------------------


class Follower:
    """
    A command that waits for a job which says that it has begun and ends when it is let go. JOB in
    its words is that job's id, CODE what it does.
    """

    def __init__(self, shell: RemoteShell, daemon: DaemonProcess, words: str) -> None:
        self.go = Path(daemon.directory) / "go"
        code = f"echo begun; until test -e {self.go}; do sleep 0.05; done; echo done; exit 4"
        job = "1"
        if "CODE" not in words:
            (job,) = daemon.enqueue(code, max_retries=0)
        known = {"JOB": job, "CODE": code}
        self.process = shell.popen(*[known.get(word, word) for word in words.split()])

    def let_go(self) -> tuple[int, str]:
        """
        Let the job end; return the command's exit code and its output.
        """
        self.go.touch()
        out, err = self.process.communicate(timeout=DEADLINE_S)
        assert b"Traceback" not in err
        return self.process.returncode, out.decode()


def socket_count(gateway: GatewayProcess) -> int:
    """
    How many sockets a gateway has.
    """
    names = [f"/proc/{gateway.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{gateway.pid}/fd")]
    return sum(os.path.exists(each) and os.readlink(each).startswith("socket:") for each in names)


def await_tunnel(gateway: GatewayProcess, idle_count: int) -> None:
    """
    Return when a tunnel is open in a gateway that had *idle_count* sockets before.
    """
    # The client's, the daemon's at the tunnel's other end, and that of the token's link. The
    # gateway opens the tunnel in the turn in which it has got all of them: then comes this look.
    wait_until(lambda: socket_count(gateway) >= idle_count + 3, what="a tunnel")
    with gateway.client() as client:
        assert 200 == client.get("/healthz").status_code


ENDS = {
    "run CODE": (4, "begun\ndone\n"),
    "logs -f JOB": (0, "begun\ndone\n"),
    "wait JOB": (1, "1 dead\n"),
}


@pytest.fixture
def follow(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess], tmp_path: Path
) -> Iterator[Callable[[str, GatewayProcess], Follower]]:
    """
    A function that starts a command which waits for a job, and returns when it does.
    """
    started: list[Follower] = []

    def start(words: str, gateway: GatewayProcess) -> Follower:
        shell = RemoteShell(tmp_path, gateway, gateway.make_token())
        idle_count = socket_count(gateway)
        follower = Follower(shell, daemon, words)
        started.append(follower)
        await_tunnel(gateway, idle_count)
        wait_until(lambda: daemon.status().jobs.get("processing"), what="the job runs")
        return follower

    yield start
    for follower in started:
        follower.process.kill()
        follower.process.communicate()


@pytest.mark.parametrize("words", ENDS)
def test_who_waits_survives_a_restart_of_the_daemon(
    words: str,
    daemon: DaemonProcess,
    gateways: Callable[..., GatewayProcess],
    follow: Callable[[str, GatewayProcess], Follower],
) -> None:
    """
    As on the daemon's own machine: it goes on where it was, and ends as the job does.
    """
    follower = follow(words, gateways(daemon).start())
    daemon.restart()

    assert ENDS[words] == follower.let_go()


@pytest.mark.parametrize(
    ("words", "how"),
    [("run CODE", "stopped"), ("logs -f JOB", "killed"), ("wait JOB", "stopped")],
)
def test_who_waits_survives_a_restart_of_the_gateway(
    words: str,
    how: str,
    daemon: DaemonProcess,
    gateways: Callable[..., GatewayProcess],
    follow: Callable[[str, GatewayProcess], Follower],
) -> None:
    """
    Told beforehand or not: nothing that it must remember is in the gateway.
    """
    gateway = gateways(daemon).start()
    idle_count = socket_count(gateway)
    follower = follow(words, gateway)
    port = str(gateway.port)
    if how == "killed":
        gateway.clean_up()
    else:
        assert 0 == gateway.stop()
    again = gateways(daemon, "--port", port).start()
    await_tunnel(again, idle_count)

    assert ENDS[words] == follower.let_go()


# --- what a token allows ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "allowed", "refused"),
    [
        (["read"], ["list", "status", "config list"], ["enqueue true", "config set workers 2"]),
        (["submit"], ["enqueue true"], ["list", "cancel 1", "worker start"]),
        (["manage"], ["hold --queue none"], ["enqueue true", "list", "daemon status"]),
    ],
)
def test_a_token_allows_what_its_scopes_say(
    gateway: GatewayProcess,
    tmp_path: Path,
    scopes: list[Scope],
    allowed: list[str],
    refused: list[str],
) -> None:
    """
    The daemon refuses the rest, with exit code 77.
    """
    shell = RemoteShell(tmp_path, gateway, gateway.make_token(*scopes))
    for words in allowed:
        assert shell(*words.split()).code in (0, 1), words
    for words in refused:
        outcome = shell(*words.split())
        assert (77, "") == (outcome.code, outcome.out), words


def test_a_revoked_token_ends_what_it_opened(
    daemon: DaemonProcess,
    gateways: Callable[..., GatewayProcess],
    follow: Callable[[str, GatewayProcess], Follower],
) -> None:
    """
    At once, also where nothing was to be said for long; it is not tried again.
    """
    follower = follow("logs -f JOB", gateways(daemon).start())
    assert follower.process.stdout is not None
    assert b"begun\n" == follower.process.stdout.readline()
    with daemon.client() as client:
        for each in client.call(ListTokens(), Tokens).tokens:
            client.call(RevokeToken(id=each.id), Done)
    _, err = follower.process.communicate(timeout=DEADLINE_S)

    assert 77 == follower.process.returncode, err.decode()
    assert 1 == err.count(b"\n"), err.decode()
