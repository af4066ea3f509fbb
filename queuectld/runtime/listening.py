"""
The listening socket: how it is made, and what becomes of clients for whom nothing is left.

A connection that cannot be accepted for lack of a descriptor waits in the kernel's queue, and its
client with it, for nobody knows how long. So one descriptor is held in reserve: it is given up to
accept the connection, say `try_later` and close it, and taken back.

Descriptors: CLIENTS_MAX connections, STREAMS_MAX files that are read for `logs`, and fewer than
OWN_DESCRIPTORS_MAX for the journal, the runner and the loop come to less than the 1,024 that a
process usually has. The rest is for output files on their way to the runner, one for each run that
starts while the runner is busy, and those of running jobs that are forwarded; the machine's daemon
has 65,536 (LimitNOFILE in its unit).
"""

import errno
import os
import socket
import stat

from queuectl.framing import pack_frame
from queuectl.protocol import Refused, encode

BACKLOG = 128
OWN_DESCRIPTORS_MAX = 64
#: No descriptor is left, to the process or to the machine.
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
#: A connection cannot be accepted now, and perhaps later.
EXHAUSTED = NO_DESCRIPTOR | {errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """
    Listens at *path*, of *mode*, or on *passed*, the socket that a service manager made.
    """

    def __init__(self, path: str, passed: socket.socket | None, mode: int) -> None:
        self.path = path
        #: The inode of the socket's file, if we made it: one that was passed is not ours to remove.
        self._inode: int | None = None
        if passed is None:
            passed = listen(path, mode)
            self._inode = os.stat(path).st_ino
        self._socket = passed
        self._reserve = _spare_descriptor()

    def fileno(self) -> int:
        """
        Return the descriptor, -1 once it is closed.
        """
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """
        Return the next connection, non-blocking, or None if there is none. Raises OSError.
        """
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        sock.setblocking(False)
        return sock

    def turn_one_away(self, refused: Refused) -> bool:
        """
        Accept a connection with the descriptor held in reserve, and say why it is not served.

        Returns whether that was possible: the reserve may be gone too.
        """
        if self._reserve is None:
            self._reserve = _spare_descriptor()
        if self._reserve is None:
            return False
        os.close(self._reserve)
        self._reserve = None
        try:
            sock = self.accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            return False
        if sock is not None:
            turn_away(sock, refused)
        self._reserve = _spare_descriptor()
        return True

    def close(self) -> None:
        """
        Listen no more, and take the socket's file away if it is still ours.
        """
        try:
            if self._inode is not None and os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        self._socket.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None


def _spare_descriptor() -> int | None:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in EXHAUSTED:
            raise
        return None


def turn_away(sock: socket.socket, refused: Refused) -> None:
    """
    Say why a connection is not served, and close it.
    """
    try:
        sock.send(pack_frame(encode(refused)))
    except OSError:
        pass  # It is gone again.
    sock.close()


def listen(path: str, mode: int = 0o600) -> socket.socket:
    """
    Return a listening socket at *path*, of *mode* from the first moment, non-blocking.

    A socket file that is there is a dead daemon's: the caller holds the state's lock. But another
    daemon's may be there when two were given one path. Raises OSError, FileExistsError then.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(f"{path} is there and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            # EAGAIN: somebody listens, and too many others wait already.
            if probe.connect_ex(path) in (0, errno.EAGAIN):
                raise FileExistsError(f"another daemon listens at {path}")
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock
