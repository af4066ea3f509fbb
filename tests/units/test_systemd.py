"""
What the service manager is told and what is taken from it, with a socket of the test's as systemd.

A daemon's life is tried twice: with Python's systemd module, where that is there for this Python,
be it only for the system's own, and in an interpreter that has none.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon_process import PACKAGES, DaemonProcess, wait_until

from queuectl.client import Client
from queuectl.protocol import Status, StatusReport
from queuectld.runtime import systemd_protocols
from queuectld.runtime.systemd import (
    EXTEND_EVERY_MS,
    ServiceManager,
    SystemdUnusable,
    from_environment,
)

DEBIAN = Path("/usr/lib/python3/dist-packages/systemd")


def has_library() -> bool:
    try:
        return importlib.util.find_spec("systemd.daemon") is not None
    except ModuleNotFoundError:  # Not even the package.
        return False


@pytest.fixture(params=["systemd-python", "without"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """
    A folder from which a daemon imports the systemd module, or fails to.
    """
    if request.param == "without":
        (tmp_path / "systemd.py").touch()  # It comes first, and has no module `daemon` inside.
        return str(tmp_path)
    if has_library():
        return ""
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}-"
    if not list(DEBIAN.glob(f"_daemon.{tag}*")):
        pytest.skip("needs python3-systemd for this Python")
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "systemd").symlink_to(DEBIAN)
    return str(folder)


#: Gives a program descriptor 3 and the variables that go with it. They name its pid.
PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
variables = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, **variables})
"""


class Told:
    """
    The end of NOTIFY_SOCKET that systemd has: collects what a daemon says.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(path)

    def has(self, start: str) -> bool:
        """
        Whether a line that begins with *start* was said by now.
        """
        while True:
            try:
                self.lines += self._socket.recv(65536).decode().splitlines()
            except BlockingIOError:
                return any(line.startswith(start) for line in self.lines)

    def wait_for(self, start: str) -> None:
        """
        Wait for a line.
        """
        wait_until(lambda: self.has(start), what=f"{start} in {self.lines}")

    def close(self) -> None:
        """
        Stop listening.
        """
        self._socket.close()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    """
    Somebody to tell.
    """
    listener = Told(f"{tmp_path}/notify")
    yield listener
    listener.close()


def start_service(
    place: DaemonProcess, environment: dict[str, str], passed: int | None = None
) -> None:
    """
    Start a daemon as systemd does: no --ready-fd, variables, and a socket as descriptor 3.
    """
    command = [sys.executable, "-P", "-m", "queuectld", "--state-dir", place.state_dir]
    if passed is None:
        command += ["--socket", place.socket]
    else:
        command = [sys.executable, "-c", PASS, str(passed), *command]
    with open(place.log_path, "ab") as log:
        place.process = subprocess.Popen(
            command,
            env={**place.environment, **environment},
            stderr=log,
            cwd="/",
            pass_fds=() if passed is None else (passed,),
        )


@pytest.fixture
def start(
    daemons: Callable[..., DaemonProcess], library: str, told: Told
) -> Callable[..., DaemonProcess]:
    """
    A function that starts a daemon as a service that notifies.
    """

    def started(
        environment: dict[str, str] | None = None, passed: int | None = None
    ) -> DaemonProcess:
        place = daemons()
        path = f"{library}:{PACKAGES}" if library else PACKAGES
        variables = {"NOTIFY_SOCKET": told.path, "PYTHONPATH": path}
        start_service(place, {**variables, **(environment or {})}, passed)
        return place

    return started


def test_a_services_life(start: Callable[..., DaemonProcess], told: Told) -> None:
    """
    READY when clients are served, STATUS with counts as they change, RELOADING and READY on
    SIGHUP, STOPPING at the end.
    """
    daemon = start()
    told.wait_for("READY=1")
    daemon.status()
    told.wait_for("STATUS=0 running, 0 waiting, 0 dead")
    daemon.enqueue("exit 1", max_retries=0)
    told.wait_for("STATUS=0 running, 0 waiting, 1 dead")
    assert not told.has("RELOADING=1")
    told.lines.clear()
    daemon.signal(signal.SIGHUP)
    told.wait_for("RELOADING=1")
    told.wait_for("READY=1")
    assert not told.has("STOPPING=1")
    assert not told.has("WATCHDOG=1")
    assert 0 == daemon.stop()
    told.wait_for("STOPPING=1")


def test_the_watchdog_is_fed(start: Callable[..., DaemonProcess], told: Told) -> None:
    """
    An idle daemon gives its sign of life again and again, and a stopped one none.
    """
    daemon = start({"WATCHDOG_USEC": "400000"})
    told.wait_for("READY=1")

    def thrice() -> bool:
        told.has("")
        return told.lines.count("WATCHDOG=1") >= 3

    wait_until(thrice)
    daemon.signal(signal.SIGSTOP)
    stat = Path(f"/proc/{daemon.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    told.has("")
    count = told.lines.count("WATCHDOG=1")
    told.has("")
    assert count == told.lines.count("WATCHDOG=1")
    daemon.signal(signal.SIGCONT)
    wait_until(lambda: told.has("") and told.lines.count("WATCHDOG=1") > count)


def test_another_process_is_meant(start: Callable[..., DaemonProcess], told: Told) -> None:
    """
    A watchdog for another pid is not ours to feed.
    """
    daemon = start({"WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"})
    told.wait_for("READY=1")
    told.wait_for("STATUS=0 running")
    daemon.stop()
    told.wait_for("STOPPING=1")
    assert not told.has("WATCHDOG")


def test_a_passed_socket_is_served_and_left(
    start: Callable[..., DaemonProcess], told: Told, tmp_path: Path
) -> None:
    """
    Clients that connected before the daemon was there are served; its file stays when it ends, and
    the next client waits for the next daemon.
    """
    path = f"{tmp_path}/passed.sock"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(8)
    early = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    early.connect(path)
    daemon = start(passed=listening.fileno())
    told.wait_for("READY=1")
    with Client(path) as client:
        report = client.call(Status(), StatusReport)
    assert daemon.pid == report.daemon.pid
    daemon.socket = path
    [job_id] = daemon.enqueue("true")
    daemon.wait_for(job_id, "completed")
    assert 0 == daemon.stop()
    assert os.path.exists(path)
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting.connect(path)
    for each in (early, waiting, listening):
        each.close()


def test_a_socket_that_cannot_be_served_is_refused(
    start: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """
    A descriptor that is no listening Unix stream socket ends the start with its reason.
    """
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with datagrams, silent, open("/dev/null") as nothing:
        for each in (datagrams, silent, nothing):
            daemon = start(passed=each.fileno())
            assert 71 == daemon.wait()
            assert "systemd passed" in daemon.log
            assert not os.path.exists(daemon.state_dir)


def test_a_socket_that_has_no_file_is_told_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    A service manager in a container may give itself a name only, written with an @.
    """
    name = f"queuectl-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert systemd_protocols.notify("READY=1\nSTATUS=Größe")
        assert b"READY=1\nSTATUS=Gr\xc3\xb6\xc3\x9fe" == manager.recv(4096)
    with pytest.raises(ConnectionRefusedError):
        systemd_protocols.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not systemd_protocols.notify("READY=1")


def test_descriptors_of_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Variables that were inherited from the process that was meant name no descriptors of ours.
    """
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert [] == systemd_protocols.listen_fds(False)
    assert "1" == os.environ["LISTEN_FDS"]
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "many")
    assert [] == systemd_protocols.listen_fds()
    assert "LISTEN_FDS" not in os.environ


def test_what_was_passed_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Descriptors count from 3, and no program that the daemon starts gets them.
    """
    script = (
        "import os; from queuectld.runtime.systemd_protocols import listen_fds; "
        "os.dup2(1, 3); os.dup2(1, 4); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2'); "
        "print(listen_fds(), os.get_inheritable(3), os.get_inheritable(4))"
    )
    monkeypatch.setenv("PYTHONPATH", PACKAGES)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert b"[3, 4] False False\n" == done.stdout


def test_started_by_a_program_it_is_no_service(daemons: Callable[..., DaemonProcess]) -> None:
    """
    A service's variables that a client passed on by starting the daemon are not the daemon's.
    """
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "LISTEN_FDS": "1"}
    daemon = daemons(environment=environment).start()
    assert 0 == daemon.stop()


def test_without_systemd_nothing_is_said() -> None:
    """
    Without variables nobody is told anything, and nothing has a deadline.
    """
    environment = {"PATH": "/bin", "LISTEN_PID": "1", "LISTEN_FDS": "3", "WATCHDOG_USEC": "5"}
    manager = from_environment(environment)
    assert {"PATH": "/bin"} == environment
    assert manager.listening is None
    manager.ready()
    manager.attend(0, healthy=True, status=lambda: "fine")
    assert manager.next_deadline() is None


def test_the_status_changes_once_a_second_at_most() -> None:
    """
    A change within the second is told when it is over, and only the last. As long as nothing may be
    told, no line is made.
    """
    lines: list[str] = []
    manager = ServiceManager(lines.append)
    told_at: list[int] = []
    asked_at: list[int] = []

    def line_at(now: int) -> str:
        asked_at.append(now)
        return f"{min(now, 2_500)}"

    for now in range(0, 5_000, 10):
        text = f"{min(now, 2_500)}"
        before = len(lines)
        manager.attend(now, healthy=True, status=lambda now=now: line_at(now))  # type: ignore[misc]
        if len(lines) > before:
            told_at.append(now)
        if text != lines[-1].removeprefix("STATUS="):
            assert manager.next_deadline() == told_at[-1] + 1_000
    assert [0, 1_000, 2_000, 3_000] == told_at
    assert told_at == [at for at in asked_at if at < 4_000]
    assert "STATUS=2500" == lines[-1]
    assert manager.next_deadline() is None


def test_a_sick_daemon_gives_no_sign_of_life() -> None:
    """
    The loop turns but the disk hangs: no sign, until it is well again.
    """
    lines: list[str] = []
    manager = ServiceManager(lines.append, watchdog_ms=30_000)
    for now in range(0, 120_000, 5_000):
        healthy = not 30_000 <= now < 90_000
        manager.attend(now, healthy=healthy, status=str)
        assert manager.next_deadline() is not None
        assert 0 < (manager.next_deadline() or 0) - now <= 15_000
    assert ["WATCHDOG=1"] * 4 == lines


def test_what_a_signal_interrupts_is_said_again() -> None:
    """
    READY is said once, and a manager that was too busy at that moment must hear it.
    """
    lines: list[str] = []
    interruptions = 2

    def notify(line: str) -> None:
        nonlocal interruptions
        if interruptions:
            interruptions -= 1
            raise InterruptedError
        lines.append(line)

    ServiceManager(notify).ready()
    assert ["READY=1"] == lines


def test_a_long_recovery_asks_for_time() -> None:
    """
    Every few seconds of a recovery the time limit is put off; a manager that is gone is no fault.
    """
    lines: list[str] = []
    manager = ServiceManager(lines.append)
    for now in range(1, 20_000):
        manager.recovering(now, now)
    assert 20_000 // EXTEND_EVERY_MS == len(lines)
    assert lines[0].startswith("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=Recovering: ")

    def gone(_lines: str) -> None:
        raise ConnectionRefusedError

    ServiceManager(gone).ready()


def test_too_many_sockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One socket is served; which of two would be a guess.
    """

    class Library:
        @staticmethod
        def listen_fds(_unset: bool) -> list[int]:
            return [3, 4]

    monkeypatch.setitem(sys.modules, "systemd", Library)
    monkeypatch.setitem(sys.modules, "systemd.daemon", Library)
    with pytest.raises(SystemdUnusable, match="2 descriptors"):
        from_environment({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_the_machines_socket_without_systemd(daemons: Callable[..., DaemonProcess]) -> None:
    """
    A system daemon that listens for itself lets its group in, and starts no runner: it waits for
    the one at its place.
    """
    daemon = daemons(environment={"QUEUECTL_RUNNER_DIR": "/nowhere"})
    daemon.start("--system", "--config-dir", daemon.directory)
    assert 0o660 == os.stat(daemon.socket).st_mode & 0o777
    report = daemon.status()
    assert ("system", None) == (report.mode, report.runner)
    assert any("the runner is not connected" in note for note in report.notes)
    assert 0 == daemon.stop()
    assert not os.path.exists(daemon.socket)
