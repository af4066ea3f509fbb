"""
How a runner takes its new version, at SIGHUP: it executes its own command line again. The process
stays the same, so it stays the parent of its children, and their exit statuses stay its own.

    SIGHUP           a child of the new program is asked, with --check, whether it would start with
                     these options, this policy, this ledger, and what we hand over
    it exits with 0  the daemon's connection is read to its end and closed; execve(2)
    anything else    a line says so, and everything stays as it was

Invariants
1. The directory's lock and the listening socket are never given up: no second runner comes in, and
   the daemon connects again to the same socket.
2. What the ledger holds is not handed over but read again. Handed over is what only memory knows:
   which runs were told to stop, the reports and refusals of those that are no program yet, pidfds
   of processes that are not our children, what systemd has in store.
3. From the last look before execve(2) to the first after it, signals wait: their handlers are gone.
4. After an execve(2) that failed all is as it was before, but for the daemon's connection.

A policy that is spoiled, or a program that is removed, in the moment between the check and the end
of execve(2) is found too late, and the runner ends; its jobs are then those of the next one.
"""

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple, NoReturn

from queuectld.runner.clock import monotonic_ms
from queuectld.runner.fd_store import take_listen_fds

#: How long the new program may take to say whether it would start.
CHECK_MS_MAX = 30_000
#: Of what is handed over. To be raised when an older program must not take it.
VERSION = 1
VARIABLE = "QUEUECTL_RUNNER_INHERITS"  # VERSION:FD, FD -1 for one who is only asked

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Inheritance(NamedTuple):
    """
    What a runner hands over to itself. Runs go by their names, see `fd_store.name_of`.
    """

    directory_fd: int = -1
    listener_fd: int = -1
    started_at: int = 0  # ms since the epoch; 0: nothing was handed over
    told: Sequence[str] = ()  # to stop
    killed: Sequence[str] = ()
    refusals: Mapping[str, Sequence[int]] = {}  # stage, errno, reason
    reports: Mapping[str, int] = {}  # descriptors, as are these:
    pidfds: Mapping[str, int] = {}
    stored: Sequence[str] = ()

    def fds(self) -> list[int]:
        """
        All descriptors in it.
        """
        return [self.directory_fd, self.listener_fd, *self.reports.values(), *self.pidfds.values()]


class InheritanceError(Exception):
    """
    What is handed over is of a newer version than this program.
    """


class Renewal:
    """
    Renews the runner of the directory `directory_fd`. To be made before the working directory is
    left.
    """

    def __init__(self, directory_fd: int, complain: Callable[[str], None]) -> None:
        self._directory_fd = directory_fd
        self._complain = complain
        self._program = sys.orig_argv
        try:
            self._working_directory = os.getcwd()
        except FileNotFoundError:
            self._working_directory = "/"
        #: Becomes readable at the end of a check; -1 while there is none.
        self.check_fd = -1
        self._check_pid = 0
        self._check_until = 0
        self._is_asked_again = False

    def ask(self, epoll: select.epoll) -> None:
        """
        Begin a check, or have another one follow that which goes on. Raises `OSError`.
        """
        if self.check_fd >= 0:
            self._is_asked_again = True
            return
        self._is_asked_again = False
        self._enter()
        try:
            self._check_pid = os.posix_spawnp(
                self._program[0],
                [*self._program, "--check"],
                {**os.environ, VARIABLE: f"{VERSION}:-1"},
                setsigmask=(),
                setsigdef=SIGNALS,
            )
        finally:
            os.chdir("/")
        self._check_until = monotonic_ms() + CHECK_MS_MAX
        try:
            self.check_fd = os.pidfd_open(self._check_pid)
            epoll.register(self.check_fd, select.EPOLLIN)
        except OSError:
            if self.check_fd >= 0:
                self._close()
            os.kill(self._check_pid, signal.SIGKILL)
            os.waitpid(self._check_pid, 0)
            raise

    def next_at(self) -> int | None:
        """
        When to call `attend`, in monotonic ms; None: there is no check.
        """
        return self._check_until if self.check_fd >= 0 else None

    def attend(self, now: int) -> None:
        """
        End a check that takes too long.
        """
        if self.check_fd >= 0 and now >= self._check_until:
            self._check_until = now + CHECK_MS_MAX
            os.kill(self._check_pid, signal.SIGKILL)

    def end_check(self, epoll: select.epoll) -> bool:
        """
        Reap the check, which has ended; whether to renew now. Raises `OSError`.
        """
        status = os.waitpid(self._check_pid, 0)[1]
        self._close()
        if self._is_asked_again:
            self.ask(epoll)
            return False
        if status != 0:
            how = os.waitstatus_to_exitcode(status)
            self._complain(f"not renewed: the check ended with {how}; everything stays as it was")
        return status == 0

    def execute(self, inheritance: Inheritance, nofile: int) -> NoReturn:
        """
        Become the new program. `nofile` is the soft limit of descriptors that jobs get, which the
        new program takes to be its own. Raises `OSError` when nothing came of it.
        """
        inheritance = inheritance._replace(directory_fd=self._directory_fd)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        fds = inheritance.fds()
        text = json.dumps(inheritance._asdict()).encode()
        memory_fd = os.memfd_create("inheritance", os.MFD_CLOEXEC)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with open(memory_fd, "wb", closefd=False) as file:
                file.write(text)
            for fd in (memory_fd, *fds):
                os.set_inheritable(fd, True)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(nofile, limits[1]), limits[1]))
            self._enter()
            variables = {**os.environ, VARIABLE: f"{VERSION}:{memory_fd}"}
            os.execvpe(self._program[0], self._program, variables)
        finally:
            os.chdir("/")
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in fds:
                os.set_inheritable(fd, False)
            os.close(memory_fd)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _close(self) -> None:
        os.close(self.check_fd)
        self.check_fd = -1

    def _enter(self) -> None:
        """
        Go where the command line means what it did at first. If that place is gone, so is what the
        command line named there, and the check says so.
        """
        try:
            os.chdir(self._working_directory)
        except OSError:
            pass


def inherit(environ: MutableMapping[str, str]) -> Inheritance:
    """
    Take what was handed over to this process, no longer to be inherited by others. Raises
    `InheritanceError`.
    """
    version, _, number = environ.pop(VARIABLE, "0:-1").partition(":")
    if int(version) > VERSION:
        raise InheritanceError(f"handed over in version {version}, known are up to {VERSION}")
    memory_fd = int(number)
    if memory_fd < 0:
        return Inheritance()
    with open(memory_fd, "rb") as file:
        file.seek(0)
        inheritance = Inheritance(**json.load(file))
    for fd in inheritance.fds():
        os.set_inheritable(fd, False)
    return inheritance


def inherit_stored(environ: MutableMapping[str, str], pid: int) -> Inheritance:
    """
    Take what systemd had in store from a runner that was killed.
    """
    pidfds = take_listen_fds(environ, pid)
    return Inheritance(pidfds=pidfds, stored=list(pidfds))


def receive_signals() -> None:
    """
    Let in the signals that waited since before execve(2). Their handlers must be there.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
