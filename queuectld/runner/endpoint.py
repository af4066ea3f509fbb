"""
Where the daemon and the runner meet: a SOCK_SEQPACKET socket in a directory of its own.

The address is always written as /proc/self/fd/N/runner.sock: an address holds 108 bytes, a path
may be longer, and the directory that was opened and checked is the one that is used.
"""

import os
import socket
import struct

SOCKET_NAME = "runner.sock"

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def listen(directory_fd: int, uid: int = -1) -> socket.socket:
    """
    Bind the socket, mode 0600, replacing one left behind; the caller holds the directory's lock.
    It is `uid`'s to connect to, or (-1) our own. Raises `OSError`.
    """
    try:
        os.unlink(SOCKET_NAME, dir_fd=directory_fd)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    # The mode comes from the umask at bind: with a chmod afterwards it would be open for a moment.
    umask = os.umask(0o177)
    try:
        listener.bind(_address(directory_fd))
        if uid >= 0:
            os.chown(SOCKET_NAME, uid, -1, dir_fd=directory_fd, follow_symlinks=False)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def connect(directory: str) -> socket.socket:
    """
    Connect to the runner of a directory; the socket blocks. Raises `FileNotFoundError` or
    `ConnectionRefusedError` when no runner is there, and other `OSError`.

    A connection may also be taken by a runner that is about to exit, or in place of one that was
    killed by a process it had just made (exec lets the parent go on before it closes descriptors):
    an end of file or a reset before WELCOME means the same as a refusal.
    """
    # Only to go through: the daemon of a runner that is root may not list its directory.
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(_address(directory_fd))
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory_fd)
    return connection


def peer_uid(connection: socket.socket) -> int:
    """
    The uid of the process that connected, as the kernel recorded it then. Raises `OSError`.
    """
    ucred = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(ucred)[1]
    return uid


def _address(directory_fd: int) -> str:
    return f"/proc/self/fd/{directory_fd}/{SOCKET_NAME}"
