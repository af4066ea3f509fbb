"""
Starting the user's own daemon, for those who have no service manager and want none.

The daemon says on a pipe when it listens: `ready`, or `error: ` and one line. It is started
detached: a session of its own, the root directory as its own (so that it keeps nothing mounted),
stdin from /dev/null, output to a log in its state directory, and none of this process's other
descriptors: a `$(queuectl enqueue ...)` or a flock(1) would wait for ever on a copy held there.
"""

import fcntl
import os
import signal
import sys
import time

from queuectl.discovery import Place, make_private, state_dir
from queuectl.errors import DaemonUnreachable

LOG_NAME = "queuectld.log"

#: How long to wait for a daemon that another process is starting, in seconds.
_OTHER_START_SECONDS = 5.0
_READY_FD = 3
_SIGNALS = [each for each in signal.valid_signals() if each not in (signal.SIGKILL, signal.SIGSTOP)]


def start_at(place: Place) -> None:
    """
    Start a daemon at *place* if that is ours to do.

    Raises DaemonUnreachable if not, which says how one is started.
    """
    if not place.may_start:
        raise DaemonUnreachable(f"no daemon listens at {place.socket}: start that service")
    if os.environ.get("QUEUECTL_AUTOSTART") == "0":
        raise DaemonUnreachable(
            f"no daemon listens at {place.socket} and QUEUECTL_AUTOSTART=0: "
            "start one with `queuectl daemon start`"
        )
    start_daemon(place.socket, state_dir())


def start_daemon(socket: str, directory: str) -> None:
    """
    Start a daemon that listens at *socket* and keeps its state in *directory*; return when it does.

    Raises DaemonUnreachable with the daemon's own reason, AccessDenied.
    """
    make_private(directory)
    log = os.path.join(directory, LOG_NAME)
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8", errors="replace") as ready:
        try:
            _spawn(socket, directory, log, writer)
        finally:
            os.close(writer)
        said = ready.readline().strip()
    if said == "ready":
        return
    if said.startswith("error:"):
        reason = said.removeprefix("error:").strip()
        if "locked" in reason:
            _wait_for_other(socket, reason)
            return
    else:
        reason = last_line(log) or "it ended without a word"
    raise DaemonUnreachable(f"the daemon did not start: {reason} (its log: {log})")


def last_line(path: str) -> str:
    """
    Return the last line of the file at *path* that is not blank; nothing if there is none.
    """
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _spawn(socket: str, directory: str, log: str, writer: int) -> None:
    # posix_spawn(3), not fork(2): this may be a process with threads. It cannot change directory,
    # so a shell does that first.
    python = [sys.executable, "-P", "-m", "queuectld", "--state-dir", directory]
    command = [*python, "--socket", socket, "--ready-fd", str(_READY_FD)]
    high = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 10)  # So that it is not _READY_FD itself.
    try:
        others = [int(name) for name in os.listdir("/proc/self/fd")]
        os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'cd / && exec "$@"', "sh", *command],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in others if fd > 2 and fd != high),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, high, _READY_FD),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=_SIGNALS,
        )
    except OSError as error:
        raise DaemonUnreachable(f"the daemon did not start: {error}") from error
    finally:
        os.close(high)


def _wait_for_other(socket: str, reason: str) -> None:
    from queuectl.client import connect

    deadline = time.monotonic() + _OTHER_START_SECONDS
    while True:
        try:
            connect(socket).close()
        except DaemonUnreachable as error:
            if time.monotonic() > deadline:
                raise DaemonUnreachable(
                    f"another daemon holds the state directory, but none listens at {socket}: "
                    f"{reason}"
                ) from error
            time.sleep(0.02)
        else:
            return
