"""
The runs without their process: in the test's own, where each call to the system can be made to
fail.
"""

import errno
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_client import DEADLINE_S, PATH, Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process, runs
from queuectld.runner.clock import boottime_ns
from queuectld.runner.connection import close_all
from queuectld.runner.endpoint import peer_uid
from queuectld.runner.ledger import Files, Intent, Ledger, Started
from queuectld.runner.renewal import Inheritance
from queuectld.runner.spawn import Spawner

BOOT = b"b" * 16


class Disk(Files):
    """
    A twin of Files that may be full.
    """

    is_full = False

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no room")
        return super().pwrite(fd, data, offset)


class Room:
    """
    Runs, their ledger, and what they report.
    """

    def __init__(self, path: Path) -> None:
        self.events: list[messages.Event] = []
        self.disk = Disk()
        self.directory_fd = os.open(path, os.O_RDONLY)
        self.epoll = select.epoll()
        self.ledger = Ledger(self.directory_fd, BOOT, 1, self.disk)
        self.runs = runs.Runs(self.epoll, self.ledger, Spawner(), self.report)

    def report(self, message: bytes) -> None:
        self.events.append(messages.unpack_event(message))

    def start(self, job: int, output: Output, argv: list[str], script: str = "") -> None:
        body = messages.pack_body("/", argv, {"PATH": PATH}, script)
        request = messages.unpack_request(messages.pack_start(job, 1, 0o22, body))
        assert isinstance(request, messages.Start)
        fds = [os.dup(output.fd)]
        try:
            self.runs.start(request, fds, is_cut=False)
        finally:
            close_all(fds)

    def told(self) -> messages.Event:
        """
        Wait until something is told.
        """
        deadline = time.monotonic() + DEADLINE_S
        while not self.events:
            assert time.monotonic() < deadline, "waited to be told"
            for fd, _ in self.epoll.poll(0.01):
                self.runs.take_event(fd)
            self.runs.look()
        return self.events.pop(0)

    def running(self, job: int) -> messages.Running:
        """
        Wait to be told that a run lives.
        """
        event = self.told()
        assert isinstance(event, messages.Running), event
        assert job == event.job
        return event

    def end(self, job: int) -> messages.Exited:
        """
        Wait for the end of a run, which may be told to live before.
        """
        event = self.told()
        if isinstance(event, messages.Running):
            assert job == event.job
            event = self.told()
        assert isinstance(event, messages.Exited), event
        assert job == event.job
        return event


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    directory, umask = os.getcwd(), os.umask(0o22)
    room = Room(tmp_path)
    yield room
    room.epoll.close()
    room.ledger.close()
    os.close(room.directory_fd)
    os.umask(umask)
    os.chdir(directory)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def fail(monkeypatch: pytest.MonkeyPatch, name: str, number: int, count: int = 1) -> list[int]:
    """
    Have the next calls of this function of os fail; the list that is returned then holds `number`
    as often.
    """
    failed: list[int] = []
    call: Callable[..., Any] = getattr(os, name)

    def failing(*args: Any, **options: Any) -> Any:
        if len(failed) < count:
            failed.append(number)
            raise OSError(number, os.strerror(number))
        return call(*args, **options)

    monkeypatch.setattr(os, name, failing)
    return failed


@pytest.mark.parametrize(
    ("name", "number", "stage"),
    [
        ("chdir", errno.EACCES, messages.CWD),
        ("memfd_create", errno.EMFILE, messages.SPAWN),
        ("memfd_create", errno.EPERM, messages.SCRIPT),
        ("posix_spawn", errno.EAGAIN, messages.SPAWN),
        ("posix_spawn", errno.ENOMEM, messages.SPAWN),
        ("posix_spawn", errno.EACCES, messages.SCRIPT),
    ],
)
def test_a_call_that_fails_before_the_process_refuses(
    room: Room,
    output: Output,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    stage: int,
):
    """
    The refusal names the stage and the errno, nothing was executed, and the attempt can be started.
    """
    with monkeypatch.context() as patch:
        failed = fail(patch, name, number)
        room.start(1, output, [], "echo ran")
    assert [number] == failed
    assert [messages.Refused(1, 1, number, stage)] == room.events
    room.events.clear()
    assert 0 == len(room.runs)
    assert "" == output.text

    room.start(1, output, [], "echo ran")
    assert 0 == room.end(1).status
    assert "ran\n" == output.text


def test_an_older_kernel_has_no_flag_for_executable_memfds(
    room: Room, output: Output, monkeypatch: pytest.MonkeyPatch
):
    """
    EINVAL from memfd_create is not the end: the flag is left out.
    """
    failed = fail(monkeypatch, "memfd_create", errno.EINVAL)
    room.start(1, output, [], "#!/bin/sh\necho ran")
    room.end(1)

    assert [errno.EINVAL] == failed
    assert "ran\n" == output.text


def test_a_run_without_a_pidfd_is_looked_at(
    room: Room, output: Output, monkeypatch: pytest.MonkeyPatch
):
    """
    Once there is a process it is a run, whatever fails: without a pidfd, looking finds its end.
    """
    failed = fail(monkeypatch, "pidfd_open", errno.ENOMEM)
    fifo = output.path.parent / "fifo"
    os.mkfifo(fifo)
    room.start(1, output, ["sh", "-c", f"read line < '{fifo}'; exit 5"])
    room.running(1)
    assert room.runs.wants_look
    fifo.write_text("\n")
    assert 0x500 == room.end(1).status
    assert [errno.ENOMEM] == failed
    assert not room.runs.wants_look


def test_a_run_that_ends_soon_is_told_of_once(room: Room, output: Output):
    """
    EXITED alone, and there is nothing left to look at.
    """
    room.start(1, output, ["true"])
    room.runs.look()
    assert room.runs.wants_look
    ((fd, _),) = wait_until(lambda: room.epoll.poll(0), "its end")
    assert room.runs.take_event(fd)
    assert not room.runs.wants_look
    room.runs.look()

    (exited,) = room.events
    assert isinstance(exited, messages.Exited)


def test_a_run_that_lives_is_told_of_by_the_second_look(room: Room, output: Output):
    """
    RUNNING: not when it starts, nor at the first look, which may follow at once; and not again.
    """
    room.start(1, output, ["sleep", "1000"])
    room.runs.look()
    assert [] == room.events
    assert room.runs.wants_look
    room.runs.look()
    assert 1 == len(room.events)
    running = room.running(1)
    assert not room.runs.wants_look
    room.runs.look()
    assert [] == room.events
    room.runs.signal(1, 1, signal.SIGKILL)

    assert running.started_at == room.end(1).started_at


def test_nobody_is_untold_after_a_greeting(room: Room, output: Output):
    """
    The list has them all: what it told is not told by the next look.
    """
    room.start(1, output, ["sleep", "1000"])
    (running,) = map(messages.unpack_event, room.runs.announce())
    assert isinstance(running, messages.Running)
    assert not room.runs.wants_look
    room.runs.signal(1, 1, signal.SIGKILL)

    assert isinstance(room.told(), messages.Exited)


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_without_a_pidfd_is_stopped(
    room: Room, output: Output, monkeypatch: pytest.MonkeyPatch, signo: int
):
    """
    It dies as any other.
    """
    with monkeypatch.context() as patch:
        fail(patch, "pidfd_open", errno.ENOMEM)
        room.start(1, output, ["sleep", "1000"])
    room.running(1)
    room.runs.look()
    assert [] == room.events
    room.runs.signal(1, 1, signo)

    assert signo == room.end(1).status


@pytest.mark.parametrize("name", ["listdir", "open"])
def test_a_look_that_fails_is_repeated(
    room: Room, output: Output, monkeypatch: pytest.MonkeyPatch, name: str
):
    """
    While the processes cannot be looked at, a stopped run is not over; the next look kills what
    the first could not reach, a child in a group of its own.
    """
    room.start(1, output, ["sh", "-c", "timeout 1000 sleep 1000 & wait"])
    running = room.running(1)
    wait_until(lambda: len(process.living({running.pid})) == 3, "three processes")
    with monkeypatch.context() as patch:
        failed = fail(patch, name, errno.EMFILE)
        room.runs.signal(1, 1, signal.SIGKILL)
        assert [errno.EMFILE] == failed
    wait_until(lambda: room.epoll.poll(0), "its end")
    with monkeypatch.context() as patch:
        failed = fail(patch, name, errno.EMFILE, count=1000)
        for fd, _ in room.epoll.poll(0):
            assert room.runs.take_event(fd)
        room.runs.look()
        assert len(failed) > 1
    assert [] == room.events
    assert [] != process.living({running.pid})

    assert signal.SIGKILL == room.end(1).status
    assert [] == process.living({running.pid})


def test_a_full_disk_refuses_starts_and_keeps_ends(room: Room, output: Output):
    """
    Without room for its intent a START is refused with ENOSPC; a run that ends meanwhile is told,
    and in the ledger once there is room.
    """
    room.start(1, output, ["sleep", "1000"])
    room.running(1)
    room.disk.is_full = True
    room.start(2, output, ["true"])
    assert messages.Refused(2, 1, errno.ENOSPC, messages.SPAWN) == room.told()
    room.runs.signal(1, 1, signal.SIGKILL)
    exited = room.end(1)
    assert room.ledger.is_waiting
    room.disk.is_full = False
    room.start(2, output, ["true"])
    room.end(2)

    assert not room.ledger.is_waiting
    found = Ledger(room.directory_fd, BOOT, 1)
    assert [exited] == [e for e in found.exits() if e.job == 1]
    found.close()


def test_an_adopted_run_that_nobody_reaps_ends_unknown(room: Room, monkeypatch: pytest.MonkeyPatch):
    """
    Where init does not reap, an adopted leader stays a zombie for ever; its run does not.
    """
    monkeypatch.setattr(runs, "REAPED_MS", 100)
    made_from_ns = boottime_ns()
    command = ["sh", "-c", "sleep 1000 & echo $!; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        # Until then it is a shell, which reaps.
        name = Path(f"/proc/{parent.pid}/comm")
        wait_until(lambda: name.read_text() == "sleep\n", "the parent to be no shell any more")
        try:
            room.ledger.intend(*Intent(1, 1, 5, made_from_ns, messages.UID_OWN, 0, 0, 0))
            room.ledger.start(Started(1, 1, 5, pid, made_from_ns, boottime_ns()))
            room.runs.adopt(Inheritance())
            assert 1 == len(room.runs)
            os.kill(pid, signal.SIGKILL)
            exited = room.end(1)

            assert (5, False, False) == (exited.started_at, exited.known, exited.usage_known)
            found = process.read(pid)
            assert found is not None
            assert b"Z" == found.state
        finally:
            parent.kill()


def test_the_peer_is_known_by_the_kernel(runner: RunnerProcess, client: Client):
    """
    The uid of the other end is that of the process that listens.
    """
    assert os.geteuid() == peer_uid(client.socket)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(runner: RunnerProcess, client: Client):
    """
    Even where the modes of the files let him through.
    """
    runner.directory.chmod(0o777)
    (runner.directory / "runner.sock").chmod(0o777)
    directory_fd = os.open(runner.directory, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        # Not executed: another user may not execute this Python.
        try:
            os.setresuid(12345, 12345, 12345)
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stranger.connect(f"/proc/self/fd/{directory_fd}/runner.sock")
            os._exit(0 if stranger.recv(1) == b"" else 1)
        except BaseException:
            os._exit(2)
    os.close(directory_fd)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert "uid 12345" in runner.stderr
    client.sync()


def test_a_runner_without_standard_descriptors_gives_jobs_theirs(tmp_path: Path, output: Output):
    """
    Started with 0, 1 and 2 closed, the runner puts none of its own there.
    """

    def close() -> None:
        os.closerange(0, 3)

    with RunnerProcess(tmp_path / "runner", preexec=close) as runner:
        program = ["sh", "-c", "readlink /proc/$$/fd/0; echo error >&2"]
        runner.greeted().run(program, output.fd)

    assert "/dev/null\nerror\n" == output.text
