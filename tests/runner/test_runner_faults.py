"""
What may fail between a START and a process under another account: each time a refusal that names
it, no process left, and no descriptor lost.
"""

import errno
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
from runner_accounts import POLICY, UID, needs_root, run, start
from runner_client import Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages
from queuectld.runner.accounts import Account
from queuectld.runner.executor import Executor
from queuectld.runner.program import SpawnError
from queuectld.runner.spawn import Spawner
from queuectld.runner.switch import Switcher, read_report

pytestmark = needs_root

BODY = messages.Body(b"/", [b"true"], {b"PATH": b"/usr/bin:/bin"}, b"", b"nobody")


@pytest.fixture(params=["forked", "executor"])
def switcher(request: pytest.FixtureRequest) -> Switcher | Executor:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spawner = Spawner()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if request.param == "forked":
        return Switcher(spawner)
    return Executor(spawner, os.open(request.getfixturevalue("executor"), os.O_RDONLY))


def report_of(switcher: Switcher | Executor, account: Account) -> tuple[int, int] | None:
    """
    What a child reports; it is awaited, and ends by a signal if there was something.
    """
    with open(os.devnull, "wb") as null:
        pid, report_fd = switcher.start(account, BODY, 0o22, null.fileno())
    status = os.waitpid(pid, 0)[1]
    report = read_report(report_fd)
    os.close(report_fd)
    assert (signal.SIGKILL if report else 0) == status
    return report


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "number"),
    [
        (UID, UID, [UID], None),
        (UID, UID, [], None),
        (UID, UID, [4, 24, 27, UID], None),
        (UID, UID, list(range(1000, 3000)), None),
        # The kernel sorts them, so what is there is not what was asked for.
        (UID, UID, [27, 4], errno.EPERM),
    ],
)
def test_ids_are_what_was_asked_for_or_nothing_runs(
    switcher: Switcher | Executor, uid: int, gid: int, groups: list[int], number: int | None
):
    """
    They are looked at after they were set: what is not exactly so is not executed.
    """
    report = report_of(switcher, Account(uid, gid, groups, {}))

    assert report == (None if number is None else (messages.SWITCH, number))


@pytest.mark.parametrize(
    ("uid", "gid", "group_count"), [(2**32 - 1, UID, 1), (UID, 2**32 - 1, 1), (UID, UID, 65537)]
)
def test_ids_that_cannot_be_are_not_passed_over(
    switcher: Switcher | Executor, uid: int, gid: int, group_count: int
):
    """
    -1 tells the kernel to leave an id as it is: root's. Nothing is executed then, nor with more
    groups than there can be.
    """
    report = report_of(switcher, Account(uid, gid, list(range(1000, 1000 + group_count)), {}))

    assert report is not None
    assert messages.SWITCH == report[0]


def test_nothing_is_lost_by_starting(switcher: Switcher | Executor):
    """
    Descriptors, handlers, mask, directory and umask of the runner are as before.
    """

    def surroundings() -> list[object]:
        umask = os.umask(0)
        os.umask(umask)
        handlers = [signal.getsignal(signo) for signo in signal.valid_signals()]
        fds = os.listdir("/proc/self/fd")
        return [umask, handlers, fds, signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getcwd()]

    before = surroundings()
    assert report_of(switcher, Account(UID, UID, [UID], {})) is None
    relative = BODY._replace(cwd=b"relative")
    with pytest.raises(SpawnError):
        switcher.start(Account(UID, UID, [UID], {}), relative, 0, 1)
    assert before == surroundings()


def test_without_room_for_a_process_nothing_is_lost(
    switcher: Switcher | Executor, monkeypatch: pytest.MonkeyPatch
):
    """
    A fork that fails is a shortage that passes.
    """

    def fail(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "no room")

    monkeypatch.setattr(os, "fork", fail)
    monkeypatch.setattr(os, "posix_spawn", fail)
    before = os.listdir("/proc/self/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(SpawnError) as caught:
        report_of(switcher, Account(UID, UID, [UID], {}))

    assert (messages.SPAWN, errno.EAGAIN) == (caught.value.stage, caught.value.errno)
    assert before == (os.listdir("/proc/self/fd"), signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_descriptors_run_out_and_come_back(account_runner: RunnerProcess, folder_output: Output):
    """
    With room for so few, a START is refused as passing or runs as ever; either way nothing is lost.
    """
    runner, output = account_runner, folder_output
    client: Client = runner.greeted()
    assert 0 == run(client, ["true"], output).status
    count = len(os.listdir(f"/proc/{runner.process.pid}/fd"))
    limits = resource.prlimit(runner.process.pid, resource.RLIMIT_NOFILE)
    refused_count = 0
    for room in range(1, 12):
        resource.prlimit(runner.process.pid, resource.RLIMIT_NOFILE, (count + room, limits[1]))
        start(client, ["true"], output)
        event = client.outcome()
        if isinstance(event, messages.Refused):
            assert messages.Refused(1, 1, errno.EMFILE, messages.SPAWN) == event
            refused_count += 1
        else:
            assert isinstance(event, messages.Exited)
            client.send(messages.pack_ack(1, 1))
    resource.prlimit(runner.process.pid, resource.RLIMIT_NOFILE, limits)

    assert 0 < refused_count < 11
    assert 0 == run(client, ["true"], output).status
    wait_until(
        lambda: count == len(os.listdir(f"/proc/{runner.process.pid}/fd")), "descriptors given back"
    )


def test_a_spoiled_executor_refuses(folder: Path, folder_output: Output, executor: str):
    """
    One whose file was written over: every START is refused by its errno.
    """
    with runner_with_executor(folder, executor) as runner:
        client = runner.greeted()
        (folder / "executor").write_text("not a program")
        start(client, ["true"], folder_output)

        expected = messages.Refused(1, 1, errno.ENOEXEC, messages.SPAWN)
        assert expected == client.refused()


def test_a_replaced_executor_does_not_matter(folder: Path, folder_output: Output, executor: str):
    """
    An upgrade puts another program in its place, which may take other orders: the runner that was
    started with this one goes on with it.
    """
    with runner_with_executor(folder, executor) as runner:
        client = runner.greeted()
        (folder / "other").write_text("not a program")
        (folder / "other").rename(folder / "executor")

        assert 0 == run(client, ["true"], folder_output).status


def runner_with_executor(folder: Path, executor: str) -> RunnerProcess:
    path = folder / "executor"
    shutil.copy(executor, path)
    (folder / "policy").write_text(POLICY)
    options = ["--policy", str(folder / "policy"), "--executor", str(path)]
    return RunnerProcess(folder / "runner", *options)
