"""
A process under another account through executor.c, a small program that posix_spawn(3) starts as
root, with an empty environment, and that becomes the account and then the job.

Why a program: a fork(2) of an interpreter costs what both sides touch of its memory before the
child is executed, one copied page at a time, and came to four times the cost of the job's own
process. The memory of this program is a few pages, and posix_spawn copies none of ours.

The program takes its order from a memfd, laid out as it says, and reports as switch.py's child
does: invariants 1 to 3 there hold here too.
"""

import errno
import fcntl
import os
import resource
import struct

from queuectld.runner.accounts import Account
from queuectld.runner.messages import CWD, SPAWN, Body, memfd
from queuectld.runner.program import SpawnError, candidates
from queuectld.runner.spawn import Spawner

_ORDER = struct.Struct("=QQIIIIIIII")
_ORDER_FD, _REPORT_FD = 3, 4  # in the child
#: Descriptors for the child come from above those that they are to have there.
_FD_MIN = 10


class Executor:
    """
    Makes processes under other accounts with the program that is open as `program_fd`, and that
    only root can have written; `spawner` has what all jobs share. An upgrade puts another program
    in its place; this one goes on to be the one that understands our orders.
    """

    def __init__(self, spawner: Spawner, program_fd: int) -> None:
        self._spawner = spawner
        # Looked up in the child, which by then has others of ours at the low numbers.
        self._path = f"/proc/self/fd/{fcntl.fcntl(program_fd, fcntl.F_DUPFD_CLOEXEC, _FD_MIN)}"

    def start(self, account: Account, body: Body, umask: int, output_fd: int) -> tuple[int, int]:
        """
        Start the process of `body` as `account`, both its outputs going to `output_fd`. Returns
        its pid and the pipe that its report comes from, for `read_report`. Raises `SpawnError`.
        """
        body = account.complete(body)
        if not body.cwd.startswith(b"/"):
            raise SpawnError(CWD, errno.EINVAL)
        order = _pack_order(account, body, umask, self._spawner.nofile)
        fds: list[int] = []  # to be closed here, the report's end for reading first
        try:
            fds += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            fds.append(fcntl.fcntl(fds[1], fcntl.F_DUPFD_CLOEXEC, _FD_MIN))
            fds.append(memfd("order", order))
            fds.append(fcntl.fcntl(fds[3], fcntl.F_DUPFD_CLOEXEC, _FD_MIN))
            pid = self._spawn(output_fd, order_fd=fds[4], report_fd=fds[2])
            return pid, fds.pop(0)
        except OSError as error:
            raise SpawnError(SPAWN, error.errno or errno.EIO) from None
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, output_fd: int, order_fd: int, report_fd: int) -> int:
        return os.posix_spawn(
            self._path,
            ["queuectl-executor"],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, self._spawner.null_fd, 0),
                (os.POSIX_SPAWN_DUP2, output_fd, 1),
                (os.POSIX_SPAWN_DUP2, output_fd, 2),
                (os.POSIX_SPAWN_DUP2, order_fd, _ORDER_FD),
                (os.POSIX_SPAWN_DUP2, report_fd, _REPORT_FD),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=self._spawner.signals,
        )


def _pack_order(account: Account, body: Body, umask: int, nofile: int) -> bytes:
    files = candidates(body)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    head = _ORDER.pack(
        min(nofile, hard),
        hard,
        account.uid,
        account.gid,
        umask,
        len(body.script),
        len(account.groups),
        len(files),
        len(body.argv),
        len(body.env),
    )
    groups = struct.pack(f"={len(account.groups)}I", *account.groups)
    settings = [name + b"=" + value for name, value in body.env.items()]
    texts = b"".join(text + b"\0" for text in (body.cwd, *files, *body.argv, *settings))
    return head + groups + texts + body.script
