"""
SIGHUP: the runner executes its program anew, in the same process, and nobody's run notices.
"""

import errno
import fcntl
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runner_accounts import UID, USER, Leased, needs_root
from runner_client import DEADLINE_S, PATH, Client, Output, RunnerProcess, wait_until

from queuectl import __version__
from queuectld.runner import messages, process, renewal
from queuectld.runner.renewal import Inheritance, Renewal

GOES_ON = "goes on as version"
RENEWAL_COUNT = 5


def renewed(runner: RunnerProcess) -> tuple[Client, list[messages.Event]]:
    """
    Have a runner renewed; a connection to the new one, and its list.
    """
    count = runner.stderr.count(GOES_ON)
    runner.process.send_signal(signal.SIGHUP)
    wait_until(lambda: runner.stderr.count(GOES_ON) > count, "the new runner")
    return runner.meet()


def fd_count(runner: RunnerProcess) -> int:
    return len(os.listdir(f"/proc/{runner.process.pid}/fd"))


def test_a_run_does_not_notice(runner: RunnerProcess, client: Client, output: Output):
    """
    It stays a child of the runner: its status is known, and so is its usage. The runner is the same
    process still, and knows what it started.
    """
    before = runner.connect().hello()[0]
    client = runner.greeted()
    os.mkfifo(output.path.parent / "go")
    client.start(["sh", "-c", "read x < go; exit 7"], output.fd, cwd=str(output.path.parent))
    running = client.running()
    for _ in range(3):
        client, events = renewed(runner)
        assert [running] == events
    welcome = runner.connect().hello()[0]
    client = runner.greeted()
    assert (before.pid, before.started_at) == (welcome.pid, welcome.started_at)
    client.start(["true"], output.fd)
    assert messages.DUPLICATE == client.refused().stage
    (output.path.parent / "go").write_text("\n")
    exited = client.exited()
    assert (0x700, True, True) == (exited.status, exited.known, exited.usage_known)


def test_what_was_sent_before_is_done(runner: RunnerProcess, output: Output, rng: random.Random):
    """
    Renewed again and again, at any moment and twice at once, while jobs are started: each job that
    the daemon could send ran once and has its own exit code.
    """
    codes: dict[int, int] = {}
    ends: dict[int, messages.Exited] = {}
    client = runner.greeted()
    job = asked_count = 0
    while (renewal_count := runner.stderr.count(GOES_ON)) < RENEWAL_COUNT:
        if asked_count == renewal_count and rng.random() < 0.1:
            asked_count += 1
            for _ in range(rng.randrange(1, 3)):
                runner.process.send_signal(signal.SIGHUP)
        job += 1
        how = ["sh", "-c", f"echo {job}; exit {job % 100}"]
        try:
            client.start(how, output.fd, job=job)
        except BrokenPipeError:
            client, events = runner.meet()
            note(events, ends)
            client.start(how, output.fd, job=job)
        codes[job] = job % 100

    def have_all_ended() -> bool:
        asked, events = runner.meet()
        asked.close()
        note(events, ends)
        return codes.keys() <= ends.keys()

    wait_until(have_all_ended, "every end")
    assert codes == {job: os.waitstatus_to_exitcode(end.status) for job, end in ends.items()}
    assert all(end.known and end.usage_known for end in ends.values())
    assert sorted(codes) == sorted(map(int, output.text.split()))
    assert runner.process.poll() is None


def note(events: list[messages.Event], ends: dict[int, messages.Exited]) -> None:
    for event in events:
        if isinstance(event, messages.Exited):
            ends[event.job] = event


def test_a_run_that_was_told_to_stop_ends_with_its_last_process(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    What the runner before knew of it holds: its end waits for a child that does not listen, and
    after a SIGKILL nothing is left.
    """
    script = (
        "trap 'exit 3' TERM; (trap '' TERM; echo up; while :; do sleep 0.01; done) & wait; wait"
    )
    client.start(["sh", "-c", script], output.fd)
    leader = client.running().pid
    wait_until(lambda: output.text == "up\n", "the child")
    client.send(messages.pack_signal(1, 1, signal.SIGTERM))
    wait_until(lambda: process.read(leader).state == b"Z", "the leader's end")
    client, events = renewed(runner)
    assert [(1, leader)] == [(event.job, event.pid) for event in events]
    client.sync()
    assert process.living({leader})
    client.send(messages.pack_signal(1, 1, signal.SIGKILL))
    assert 0x300 == client.exited().status
    assert [] == process.living({leader})


@needs_root
@pytest.mark.parametrize("interpreter", ["/bin/sh", "/no/such/interpreter"])
def test_a_start_that_hangs_is_handed_over(
    account_runner: RunnerProcess, folder_output: Output, folder: Path, interpreter: str
):
    """
    One that has not become its program yet does so under the new runner, or is refused by it.
    """
    program = Leased(folder / "program", f"#!{interpreter}\nexit 5\n")
    try:
        client = account_runner.greeted()
        client.start([str(program.path)], folder_output.fd, uid=UID, user=USER)
        client, events = renewed(account_runner)
        assert [(1, 1)] == [(event.job, event.attempt) for event in events]
    finally:
        program.release()
    if interpreter == "/bin/sh":
        event = client.receive()
        while isinstance(event, messages.Running):
            event = client.receive()
        assert (5 << 8, True) == (event.status, event.usage_known)
    else:
        assert messages.Refused(1, 1, errno.ENOENT, messages.EXEC) == client.refused()
        assert [] == renewed(account_runner)[1]


@pytest.mark.usefixtures("reaper")
def test_a_run_of_a_killed_runner_is_handed_over(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    Not a child, so its pidfd is: the one thing by which its end can be learned.
    """
    client.start(["sleep", "1000"], output.fd)
    running = client.running()
    runner.kill()
    with RunnerProcess(runner.directory) as adopter:
        adopter.greeted()
        client, events = renewed(adopter)
        assert [running] == events
        os.kill(running.pid, signal.SIGINT)
        os.waitpid(running.pid, 0)
        exited = client.exited()
        assert exited.status == (signal.SIGINT if exited.known else 0)
        assert not exited.usage_known


def test_jobs_find_the_same_around_them(runner: RunnerProcess, client: Client, output: Output):
    """
    Limits, directory, descriptors, signals and environment of a job are those that jobs of the
    first runner had, and the runner has as many descriptors as before.
    """
    script = (
        "ulimit -n; ls /proc/self/fd; pwd; env; umask; "
        "grep -E '^(Sig(Blk|Ign)|Groups)' /proc/self/status"
    )
    found = []
    counts = []
    for job in range(3):
        client.run(["sh", "-c", script], output.fd, job, env={"PATH": PATH})
        found.append(output.text)
        os.truncate(output.path, 0)
        counts.append(fd_count(runner))
        client.close()
        client = renewed(runner)[0]
    assert found[0] == found[1] == found[2]
    assert counts[0] == counts[1] == counts[2]


def test_an_end_that_was_asked_for_is_not_missed(tmp_path: Path, rng: random.Random):
    """
    A SIGTERM that comes at any moment of a renewal ends the runner in order.
    """
    for _ in range(8):
        with RunnerProcess(tmp_path / "runner", "--stay") as runner:
            runner.greeted()
            runner.process.send_signal(signal.SIGHUP)
            select.select([], [], [], rng.random() * 0.3)
            runner.process.send_signal(signal.SIGTERM)
            assert 0 == runner.process.wait(DEADLINE_S), runner.stderr


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    A copy of the program, to be changed while it runs.
    """
    tree = tmp_path / "tree"
    for package in ("queuectl", "queuectld"):
        shutil.copytree(RunnerProcess.ROOT / package, tree / package)
    monkeypatch.setattr(RunnerProcess, "ROOT", tree)
    monkeypatch.setenv("PYTHONPATH", str(tree))
    return tree


def test_a_new_version_takes_over(tree: Path, tmp_path: Path, output: Output):
    """
    A version that cannot start is found out before it matters; one that can is in force.
    """
    with RunnerProcess(tmp_path / "runner", "--stay") as runner:
        client = runner.greeted()
        client.start(["sleep", "1000"], output.fd)
        running = client.running()
        module = tree / "queuectld/runner/runs.py"
        text = module.read_text()
        module.write_text("import nothing_of_that_name\n")
        runner.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "everything stays as it was" in runner.stderr, "the complaint")
        assert "nothing_of_that_name" in runner.stderr
        client.sync()

        module.write_text(text)
        version = tree / "queuectl/__init__.py"
        version.write_text(
            re.sub(r"(?m)^__version__ = .*$", '__version__ = "99"', version.read_text())
        )
        assert [running] == renewed(runner)[1]
        assert "99" == runner.connect().hello()[0].program_version != __version__


def test_without_its_ledger_it_stays_as_it_is(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    The new runner would not know what runs, so there is none.
    """
    client.start(["sleep", "1000"], output.fd)
    running = client.running()
    (runner.directory / "ledger").unlink()
    runner.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "somebody removed the ledger" in runner.stderr, "the complaint")
    assert [running] == runner.meet()[1]


def test_an_execution_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """
    A program that was removed after it was checked: descriptors, limits, signals and directory are
    what they were.
    """
    monkeypatch.setattr(sys, "orig_argv", ["/no/such/program"])
    monkeypatch.chdir("/")
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    kept_fd = os.open("/dev/null", os.O_RDONLY)

    def now() -> tuple[object, ...]:
        return (
            resource.getrlimit(resource.RLIMIT_NOFILE),
            signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            os.getcwd(),
            [fcntl.fcntl(fd, fcntl.F_GETFD) for fd in (directory_fd, kept_fd)],
            len(os.listdir("/proc/self/fd")),
        )

    before = now()
    made = Renewal(directory_fd, lambda line: None)
    with pytest.raises(FileNotFoundError):
        made.execute(Inheritance(listener_fd=kept_fd, reports={"1.1.1": kept_fd}), 64)
    assert before == now()
    os.close(directory_fd)
    os.close(kept_fd)


def check(*options: str, inherits: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [*RunnerProcess.COMMAND, *options, "--check"],
        cwd=RunnerProcess.ROOT,
        env={**os.environ, **({renewal.VARIABLE: inherits} if inherits else {})},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_check_starts_nothing(tmp_path: Path, runner: RunnerProcess, client: Client):
    """
    It makes no directory and disturbs no runner; what would stop the start is its exit code.
    """
    assert (0, "") == check("--dir", str(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()
    assert (0, "") == check("--dir", str(runner.directory))
    client.sync()
    code, said = check("--dir", str(tmp_path), "--policy", str(tmp_path / "missing"))
    assert (77, 1) == (code, said.count("\n"))
    code, said = check("--dir", str(tmp_path), inherits=f"{renewal.VERSION + 1}:-1")
    assert (65, 1) == (code, said.count("\n"))
    (tmp_path / "ledger").write_bytes(b"")
    assert (0, "") == check("--dir", str(tmp_path))
