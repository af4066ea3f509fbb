"""
Where the daemon is: its socket, its state directory.

The socket is the first of: the one asked for (`--socket`, `$QUEUECTL_SOCKET`), the user's own if
somebody listens there, the system's if it exists, and again the user's own, where a daemon may
then be started. Programs that run under a service manager have no XDG_RUNTIME_DIR; for them, and
where there is no /run/user, there is a fallback in /tmp. Anyone may have made a directory of that
name there before us: it is used only if it is ours and ours alone.
"""

import os
import stat
from typing import NamedTuple

from queuectl.errors import AccessDenied, UsageError

SYSTEM_SOCKET = "/run/queuectl/queuectl.sock"
SOCKET_NAME = "queuectl.sock"


class Place(NamedTuple):
    """
    A socket's path, and whether a daemon of this user's may be started to listen there.
    """

    socket: str
    may_start: bool


def locate(socket: str | None = None) -> Place:
    """
    Return where to connect. *socket* is what the caller asked for.

    Raises AccessDenied if the only place left is one that another user could control.
    """
    named = socket or os.environ.get("QUEUECTL_SOCKET")
    if named:
        path = os.path.abspath(named)
        # With a state directory of its own, a socket is a daemon of its own: for tests and trials.
        own = not socket and bool(os.environ.get("QUEUECTL_STATE_DIR"))
        return Place(path, own or path == user_socket())
    path = user_socket()
    if os.path.exists(SYSTEM_SOCKET) and not _is_live(path):
        return Place(SYSTEM_SOCKET, may_start=False)
    return Place(path, may_start=True)


def runtime_dir() -> str:
    """
    Return the directory of the user's socket. It need not exist.

    Raises AccessDenied if it is not this user's alone.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/"):  # The XDG specification: anything else is to be ignored.
        return os.path.join(base, "queuectl")
    uid = os.getuid()
    base = f"/run/user/{uid}"
    if _owner(base) == uid:
        return f"{base}/queuectl"
    path = f"/tmp/queuectl-{uid}"  # noqa: S108  Checked on the next line.
    check_private(path)
    return path


def user_socket() -> str:
    """
    Return the path of the user's own socket. Raises as runtime_dir() does.
    """
    return os.path.join(runtime_dir(), SOCKET_NAME)


def state_dir() -> str:
    """
    Return the directory in which the user's daemon keeps its state. It need not exist.
    """
    named = os.environ.get("QUEUECTL_STATE_DIR")
    if named:
        return os.path.abspath(named)
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        # Without HOME the password file says; an empty HOME would make it the root directory.
        home = os.environ["HOME"] if "HOME" in os.environ else os.path.expanduser("~")
        if not home.startswith("/"):
            raise UsageError("there is no home directory: set QUEUECTL_STATE_DIR")
        base = os.path.join(home, ".local/state")
    return os.path.join(base, "queuectl")


def check_private(path: str) -> None:
    """
    Raise AccessDenied if *path* exists and is not a directory that is this user's alone.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        fault = "not a directory"
    elif found.st_uid != os.geteuid():
        fault = f"owned by user {found.st_uid}"
    elif found.st_mode & 0o077:
        fault = f"open to others (mode {found.st_mode & 0o777:o}, needs 700)"
    else:
        return
    raise AccessDenied(f"{path} is {fault}: refusing to use it")


def make_private(path: str) -> None:
    """
    Make the directory *path* (mode 0700) and those above it, or check that it is ours alone.

    Raises AccessDenied, OSError.
    """
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        make_private(parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        check_private(path)


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _is_live(path: str) -> bool:
    # Only asked where a system daemon exists too, so that nobody else pays for it.
    from queuectl.client import connect
    from queuectl.errors import DaemonUnreachable

    try:
        connect(path).close()
    except DaemonUnreachable:
        return False
    return True
