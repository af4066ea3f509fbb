"""
Requirements on finding and starting the daemon: the documented order, nothing that another user
could control, and a start that says why it failed.
"""

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from queuectl import autostart, discovery
from queuectl.discovery import Place
from queuectl.errors import AccessDenied, DaemonUnreachable, UsageError

VARIABLES = ("QUEUECTL_SOCKET", "QUEUECTL_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    A user with a runtime directory, and no system daemon.
    """
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(discovery, "SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    return tmp_path


def test_the_users_own_socket_is_the_default(home: Path) -> None:
    """
    With nobody anywhere, a daemon may be started there.
    """
    assert discovery.locate() == Place(f"{home}/run/queuectl/queuectl.sock", may_start=True)


def test_the_systems_socket_if_the_users_is_not_live(home: Path) -> None:
    """
    A user's daemon that runs comes before the system's; a socket file alone does not count.
    """
    (home / "system.sock").touch()
    own = home / "run/queuectl/queuectl.sock"
    assert discovery.locate() == Place(f"{home}/system.sock", may_start=False)
    own.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own))
        assert discovery.locate() == Place(f"{home}/system.sock", may_start=False)
        listener.listen()
        assert discovery.locate() == Place(str(own), may_start=True)


def test_what_is_asked_for_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The option, then the variable; a daemon is started there only if the place is one's own.
    """
    own = discovery.user_socket()
    monkeypatch.setenv("QUEUECTL_SOCKET", "/var/x.sock")
    assert discovery.locate("/srv/y.sock") == Place("/srv/y.sock", may_start=False)
    assert discovery.locate() == Place("/var/x.sock", may_start=False)
    assert discovery.locate(own) == Place(own, may_start=True)
    monkeypatch.setenv("QUEUECTL_STATE_DIR", "/var/state")
    assert discovery.locate() == Place("/var/x.sock", may_start=True)
    assert discovery.locate("/srv/y.sock") == Place("/srv/y.sock", may_start=False)


def test_the_state_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The variable, the XDG directory if it is absolute, else below the home directory.
    """
    assert discovery.state_dir() == f"{home}/.local/state/queuectl"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert discovery.state_dir() == f"{home}/.local/state/queuectl"
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert discovery.state_dir() == "/srv/state/queuectl"
    monkeypatch.setenv("QUEUECTL_STATE_DIR", "/srv/own")
    assert discovery.state_dir() == "/srv/own"


def test_without_a_home_directory_the_state_needs_a_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Better no daemon than a state directory under the current directory.
    """
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UsageError, match="set QUEUECTL_STATE_DIR"):
        discovery.state_dir()


@pytest.mark.parametrize("kind", ["link", "file", "open", "foreign"])
def test_a_directory_that_another_could_control_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """
    In /tmp anyone may make a directory of our name first: a link, a file, one open to others, one
    of another user.
    """
    path = tmp_path / "queuectl"
    if kind == "link":
        path.symlink_to(tmp_path)
    elif kind == "file":
        path.touch()
    else:
        path.mkdir(mode=0o700)
        if kind == "open":
            path.chmod(0o755)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(AccessDenied, match="refusing to use it"):
        discovery.check_private(str(path))


def test_directories_are_made_private(tmp_path: Path) -> None:
    """
    All that were missing, mode 0700; one that is there is checked, not changed.
    """
    old = os.umask(0o022)
    try:
        discovery.make_private(f"{tmp_path}/a/b")
    finally:
        os.umask(old)
    assert os.stat(f"{tmp_path}/a").st_mode & 0o777 == 0o700
    assert os.stat(f"{tmp_path}/a/b").st_mode & 0o777 == 0o700
    discovery.make_private(f"{tmp_path}/a/b")
    os.chmod(f"{tmp_path}/a/b", 0o750)
    with pytest.raises(AccessDenied):
        discovery.make_private(f"{tmp_path}/a/b")


TWIN = """
import os, sys
fd = int(sys.argv[sys.argv.index("--ready-fd") + 1])
def say(text):
    os.write(fd, text.encode())
"""


class DaemonProgram:
    """
    A program of the daemon's name that does what a test wants, found instead of the daemon.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.package = directory / "packages/queuectld"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").touch()
        self.socket = str(directory / "q.sock")
        self.state = str(directory / "state")

    def start(self, code: str) -> None:
        (self.package / "__main__.py").write_text(TWIN + code)
        autostart.start_daemon(self.socket, self.state)

    def refusal(self, code: str) -> str:
        with pytest.raises(DaemonUnreachable) as caught:
            self.start(code)
        return str(caught.value)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DaemonProgram:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setattr(autostart, "_OTHER_START_SECONDS", 0.2)
    return DaemonProgram(tmp_path)


def test_start_returns_when_the_daemon_is_ready(program: DaemonProgram) -> None:
    """
    With its places as arguments, detached, with nothing of this process but what it needs.
    """
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # As from a shell's `9>lock`.
    program.start(
        "import json\n"
        "fds = [f for f in map(int, os.listdir('/proc/self/fd')) if f > 2 and f != fd]\n"
        "open_fds = [f for f in fds if os.path.exists(f'/proc/self/fd/{f}')]\n"
        "facts = [sys.argv[1:], os.getcwd(), os.getsid(0) == os.getpid(), open_fds]\n"
        "facts.append(os.readlink('/proc/self/fd/0'))\n"
        f"open({str(program.directory / 'facts')!r}, 'w').write(json.dumps(facts))\n"
        "print('to the log', flush=True)\n"
        "say('ready\\n')\n"
    )
    os.close(writer)
    with open(reader, "rb") as rest:
        assert rest.read() == b""  # No copy of the other end is left.
    arguments, directory, own_session, open_fds, stdin = json.loads(
        (program.directory / "facts").read_text()
    )
    assert arguments == [
        "--state-dir", program.state, "--socket", program.socket, "--ready-fd", "3",
    ]  # fmt: skip
    assert (directory, own_session, open_fds, stdin) == ("/", True, [], "/dev/null")
    assert (Path(program.state) / "queuectld.log").read_text() == "to the log\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("say('error: the journal is damaged\\n')", "did not start: the journal is damaged (its"),
        ("print('first'); print('last words')", "did not start: last words (its log:"),
        ("sys.exit(3)", "did not start: it ended without a word (its log:"),
        ("raise RuntimeError('boom')", "did not start: RuntimeError: boom (its log:"),
        ("say('rea')", "did not start: it ended without a word"),
        ("os.kill(os.getpid(), 9)", "did not start: it ended without a word"),
        ("say('error: locked: by another\\n')", "another daemon holds the state directory, but"),
    ],
)
def test_a_start_that_fails_says_why(program: DaemonProgram, code: str, expected: str) -> None:
    """
    The daemon's own line, else the last of its log; never a wait for what does not come.
    """
    assert expected in program.refusal(code)


def test_another_daemon_that_is_starting_is_waited_for(program: DaemonProgram) -> None:
    """
    Who finds the state directory locked connects to the daemon that has it.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(program.socket)
        listener.listen()
        program.start("say('error: locked: by another\\n')")


def test_a_program_that_cannot_be_run(
    program: DaemonProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No interpreter is a daemon that does not start, with the shell's reason.
    """
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert "/nonexistent/python: not found" in program.refusal("")


def test_a_failing_spawn_is_said(program: DaemonProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No process to be had is an unreachable daemon, not a traceback.
    """

    def no_process(*_: object, **__: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", no_process)
    before = len(os.listdir("/proc/self/fd"))
    assert "Resource temporarily unavailable" in program.refusal("")
    assert before == len(os.listdir("/proc/self/fd"))
