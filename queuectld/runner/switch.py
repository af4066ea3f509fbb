"""
A process under another account: a child that does, as root, everything that needs root or undoes
what the runner has; then changes its ids; then does, as the account, everything that the submitter
chose. Here it is forked and goes on in Python; where executor.c was compiled, see executor.py, it
is that program, to the same end.

    parent   signals at their defaults and blocked around the fork: one that comes early ends the
             child as it would end the job, and never reaches the runner's handlers through it
    root     session, limits, priority and OOM score of an ordinary process, umask, descriptors
    switch   groups, gid, uid; looked at, and root tried: it must be out of reach
    account  the directory, the program in the job's PATH, the script, the environment

Invariants
1. Nothing is executed, searched or opened for a job as root.
2. The runner never waits for the child. From the switch on the account may stop it, and its
   directory may hang. The child says how it went through a pipe: closed without a word by a
   successful execve(2) (or by the death of the child), or one report of stage and errno.
3. The child ends by a signal if it is not executed. Should the runner be gone, nobody takes the
   end of the child for an exit code of the job.

posix_spawn(3) cannot change ids. Changing those of the runner around it instead would let the
account send signals to the runner meanwhile.

What a fork costs is the memory that either side touches before the child is executed: each page
is copied. Both do as little as they can.
"""

# Its functions, not those of signal, which make enumerations of the numbers they take and return:
# eighty pages more for each child.
import _signal  # type: ignore[import-not-found]
import errno
import gc
import os
import resource
import signal
import struct
from typing import NoReturn

from queuectld.runner.accounts import Account
from queuectld.runner.messages import CWD, SPAWN, SWITCH, Body
from queuectld.runner.program import SCRIPT_FD, Execute, SpawnError, launch
from queuectld.runner.spawn import Spawner

_REPORT = struct.Struct("=II")  # stage, errno
_REPORT_FD = 4  # in the child; 3 is the script's


class Switcher:
    """
    Makes processes under other accounts; `spawner` has what all jobs share. To be made once the
    process has its signal handlers.
    """

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._handlers = {
            signo: int(handler) if isinstance(handler, int) else handler
            for signo in map(int, signal.valid_signals())
            # None: not Python's, and execve(2) takes it away by itself.
            if (handler := signal.getsignal(signo)) not in (signal.SIG_DFL, None)
        }
        with open("/proc/self/oom_score_adj", "rb") as file:
            self._has_oom_score = int(file.read()) != 0
        # What exists now stays: a collection in the child would only copy all of its pages.
        gc.collect()
        gc.freeze()

    def start(self, account: Account, body: Body, umask: int, output_fd: int) -> tuple[int, int]:
        """
        Start the process of `body` as `account`, both its outputs going to `output_fd`. Returns
        its pid and the pipe that its report comes from, for `read_report`. Raises `SpawnError`.
        """
        body = account.complete(body)
        if not body.cwd.startswith(b"/"):
            raise SpawnError(CWD, errno.EINVAL)
        report_fd = write_fd = -1
        try:
            report_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            pid = self._fork()
            if pid == 0:
                self._become(account, body, umask, output_fd, write_fd)
        except OSError as error:
            if report_fd >= 0:
                os.close(report_fd)
            raise SpawnError(SPAWN, error.errno or errno.EIO) from None
        finally:
            if write_fd >= 0:
                os.close(write_fd)
        return pid, report_fd

    def _fork(self) -> int:
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, self._handlers)
        for signo in self._handlers:
            _signal.signal(signo, _signal.SIG_DFL)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                for signo, handler in self._handlers.items():
                    _signal.signal(signo, handler)
                _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        return pid

    def _become(
        self, account: Account, body: Body, umask: int, output_fd: int, write_fd: int
    ) -> NoReturn:
        stage, number = SPAWN, errno.EPROTO  # What a fault of ours would be told as.
        report_fd = write_fd
        try:
            # Before the lock of the runner's directory goes with its descriptor: from then on the
            # next runner may look for us by our session and our output.
            os.setsid()
            self._take_descriptors(output_fd, write_fd)
            report_fd = _REPORT_FD
            self._leave_runner(umask)
            stage = SWITCH
            _switch(account)
            stage = CWD
            os.chdir(body.cwd)
            launch(body, _executor(body.env))
        except SpawnError as error:
            stage, number = error.stage, error.errno
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            # Whatever it was, the child does not go back into the runner's loop.
            try:
                os.write(report_fd, _REPORT.pack(stage, number))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("survived SIGKILL")

    def _take_descriptors(self, output_fd: int, write_fd: int) -> None:
        os.dup2(self._spawner.null_fd, 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        if write_fd != _REPORT_FD:
            os.dup2(write_fd, _REPORT_FD, inheritable=False)
        os.closerange(SCRIPT_FD, _REPORT_FD)
        os.closerange(_REPORT_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def _leave_runner(self, umask: int) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(self._spawner.nofile, hard), hard))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        if self._has_oom_score:
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)
        os.umask(umask)


def read_report(report_fd: int) -> tuple[int, int] | None:
    """
    Read the report of a child that did not become its program: the stage and the errno; None
    when it became it, or died of a signal on the way. Raises `BlockingIOError` while neither.
    """
    report = os.read(report_fd, _REPORT.size)
    if not report:
        return None
    stage, number = _REPORT.unpack(report)
    return stage, number


def _switch(account: Account) -> None:
    uid, gid = account.uid, account.gid
    os.setgroups(account.groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise SpawnError(SWITCH, errno.EPERM)
    if sorted(os.getgroups()) != account.groups:
        raise SpawnError(SWITCH, errno.EPERM)
    if uid != 0:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise SpawnError(SWITCH, errno.EPERM)


def _executor(env: dict[bytes, bytes]) -> Execute:
    def execute(path: bytes, argv: list[bytes], script_fd: int) -> NoReturn:
        if script_fd >= 0:
            # The first descriptor that is free, since the runner's were closed.
            assert script_fd == SCRIPT_FD
            os.set_inheritable(script_fd, True)
        os.execve(path, argv, env)

    return execute
