"""
Pidfds in systemd's keeping. The test is the service manager: it listens where NOTIFY_SOCKET says,
and hands back what it was given.
"""

import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_client import DEADLINE_S, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process
from queuectld.runner.fd_store import (
    RETRY_MS,
    STORE_AFTER_MS,
    FdStore,
    name_of,
    take_listen_fds,
)


class Manager:
    """
    The socket that services talk to.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(DEADLINE_S)

    def heard(self) -> tuple[list[str], list[int]]:
        """
        The next message, its lines, and the descriptors with it.
        """
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 1)
        return data.decode().split("\n"), fds

    def is_quiet(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


@pytest.fixture
def store(manager: Manager) -> FdStore:
    return FdStore(manager.path)


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_what_lasts_is_stored_until_it_is_known(manager: Manager, store: FdStore, fd: int) -> None:
    """
    Not before its time, without having systemd watch it, and dropped when its end is acknowledged.
    """
    store.keep((1, 2), "1.2.3", fd, at=STORE_AFTER_MS)
    assert STORE_AFTER_MS == store.next_at()
    store.attend(STORE_AFTER_MS - 1)
    assert manager.is_quiet()
    store.attend(STORE_AFTER_MS)
    lines, fds = manager.heard()
    assert ["FDSTORE=1", "FDNAME=1.2.3", "FDPOLL=0"] == lines
    assert os.path.samestat(os.fstat(fd), os.fstat(fds[0]))
    os.close(fds[0])
    store.let_go((1, 2))
    assert None is store.next_at()
    assert ["1.2.3"] == store.names()
    store.remove((1, 2))
    assert 0 == store.next_at()
    store.attend(9999)
    assert (["FDSTOREREMOVE=1", "FDNAME=1.2.3"], []) == manager.heard()
    assert [] == store.names()


def test_what_is_short_is_never_mentioned(manager: Manager, store: FdStore, fd: int) -> None:
    """
    A run that ends before its time costs systemd nothing.
    """
    store.keep((1, 1), "1.1.1", fd, at=STORE_AFTER_MS)
    store.let_go((1, 1))
    store.remove((1, 1))
    assert None is store.next_at()
    store.attend(STORE_AFTER_MS)
    assert manager.is_quiet()


def test_what_finds_no_room_is_said_again(manager: Manager, store: FdStore, fd: int) -> None:
    """
    Nothing waits while the manager does not read; all is said once it does.
    """
    for job in range(2000):
        store.keep((job, 1), name_of(job, 1, 7), fd, at=STORE_AFTER_MS)
    now = STORE_AFTER_MS
    store.attend(now)
    stored_count = len(store.names())
    assert 0 < stored_count < 2000
    assert now + RETRY_MS == store.next_at()
    heard = []
    while len(heard) < 2000:
        while not manager.is_quiet():
            lines, fds = manager.heard()
            heard.append(lines[1])
            os.close(fds[0])
        now += RETRY_MS
        store.attend(now)
    assert [f"FDNAME={name_of(job, 1, 7)}" for job in range(2000)] == heard


def test_what_nobody_knows_any_more_is_dropped(manager: Manager, store: FdStore) -> None:
    """
    Of what a runner before left, only that is kept which the ledger knows too.
    """
    store.restore(["1.1.5", "2.1.5", "nonsense", "1.1.4"], [(1, 1), (3, 1)])
    store.attend(0)
    dropped = [manager.heard()[0][1] for _ in range(3)]
    assert ["FDNAME=2.1.5", "FDNAME=nonsense", "FDNAME=1.1.4"] == dropped
    assert ["1.1.5"] == store.names()


def test_without_a_manager_nothing_is_kept(fd: int) -> None:
    """
    No NOTIFY_SOCKET: there is never anything to do.
    """
    store = FdStore("")
    store.keep((1, 1), "1.1.1", fd, at=STORE_AFTER_MS)
    assert None is store.next_at()
    store.remove((1, 1))
    assert None is store.next_at()


def test_descriptors_that_are_not_for_this_process_are_left() -> None:
    """
    The variables are those of another: it forgot to take them out.
    """
    variables = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert {} == take_listen_fds(variables, 2)
    assert {"HOME": "/"} == variables


def hand_over(runner: RunnerProcess, fds: dict[str, int]) -> "RunnerProcess":
    """
    Start a runner as systemd does, with descriptors from 3 on.
    """
    moves = " ".join(f"{n}<&{fd} {fd}<&-" for n, fd in enumerate(fds.values(), 3))
    script = f'exec {moves}; LISTEN_PID=$$ exec env "$@"'
    names = f"LISTEN_FDNAMES={':'.join(fds)}"
    command = ["bash", "-c", script, "bash", f"LISTEN_FDS={len(fds)}", names]
    next_runner = RunnerProcess.__new__(RunnerProcess)
    next_runner.__dict__.update(runner.__dict__, clients=[])
    with runner.stderr_path.open("ab") as stderr:
        next_runner.process = subprocess.Popen(
            [*command, *RunnerProcess.COMMAND, "--dir", str(runner.directory)],
            cwd=RunnerProcess.ROOT,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=tuple(fds.values()),
        )
    return next_runner


@pytest.mark.usefixtures("reaper")
def test_an_end_between_two_runners_is_known(
    tmp_path: Path, manager: Manager, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A run ends and is reaped while there is no runner; the next one has its exit code from the
    pidfd that was in store, if the kernel tells it, and has it dropped after ACK.
    """
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    with RunnerProcess(tmp_path / "runner") as runner:
        client = runner.greeted()
        assert (["READY=1"], []) == manager.heard()
        client.start(
            ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"], output.fd
        )
        running = client.running()
        wait_until(lambda: output.text, "the trap")
        lines, fds = manager.heard()
        name = name_of(1, 1, running.started_at)
        assert f"FDNAME={name}" == lines[1]
        info = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
        assert str(running.pid) == re.search(r"^Pid:\s*(\d+)", info, re.MULTILINE)[1]
        runner.kill()
        os.kill(running.pid, signal.SIGTERM)
        os.waitpid(running.pid, 0)
        try:
            expected = (process.exit_status(fds[0]), True)
        except OSError:
            expected = (0, False)
        with hand_over(runner, {"9.9.9": os.dup(fds[0]), name: fds[0]}) as next_runner:
            client = next_runner.connect()
            _, events = client.hello()
            exited = events[0] if isinstance(events[0], messages.Exited) else client.exited()
            assert expected == (exited.status, exited.known)
            assert (["READY=1"], ["FDSTOREREMOVE=1", "FDNAME=9.9.9"]) == tuple(
                manager.heard()[0] for _ in range(2)
            )
            client.send(messages.pack_ack(1, 1))
            assert ["FDSTOREREMOVE=1", f"FDNAME={name}"] == manager.heard()[0]
