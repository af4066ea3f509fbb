"""
One START becomes one process. This room makes it for the runner's own account; switch.py makes
it for another. What a job finds around it is the same:

    session      its own (setsid), so group and session carry the leader's pid
    signals      all at their defaults, none blocked
    stdin        /dev/null; stdout and stderr are the output file, one description
    descriptors  no other, but 3 when there is a script: the script itself
    cwd, umask   as asked; ~ is the account's home
    limits       as the runner was started with; its own are raised meanwhile
    environment  as asked, and what it does not say of PATH, HOME, USER, LOGNAME and SHELL

posix_spawn(3) shares the runner's memory until the program is executed, so it costs the same
whatever the size of the runner, and reports a failed execve(2) as its errno. What it does not
offer (cwd, umask, limits) the runner sets on itself around the call: it has one thread.
"""

import errno
import os
import resource
import signal

from queuectld.runner.messages import CWD, SPAWN, Body
from queuectld.runner.own_account import OwnAccount
from queuectld.runner.program import SCRIPT_FD, SpawnError, launch


class Spawner:
    """
    Makes the processes. Raises this process's limit of descriptors to the most it may have: each
    live run takes one, its pidfd.
    """

    def __init__(self) -> None:
        self._home_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        #: What a job reads from.
        self.null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        #: The soft limit of descriptors that jobs get.
        self.nofile, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        #: The signals to be put at their default for a job: what this process ignores, its jobs
        #: would too. What it handles is at its default once a program is executed.
        self.signals = [
            int(signo)
            for signo in signal.valid_signals()
            if signal.getsignal(signo) is signal.SIG_IGN
        ]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._account = OwnAccount()

    def spawn(self, body: Body, umask: int, output_fd: int) -> int:
        """
        Start the process of `body`, both its outputs going to `output_fd`; its pid. Raises
        `SpawnError`.
        """
        try:
            body = self._account.complete(body)
        except OSError as error:
            raise SpawnError(SPAWN, error.errno or errno.EIO) from None
        if not body.cwd.startswith(b"/"):
            raise SpawnError(CWD, errno.EINVAL)

        def execute(path: bytes, argv: list[bytes], script_fd: int) -> int:
            return self._execute(path, argv, body.env, output_fd, script_fd)

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        runner_umask = os.umask(umask)
        try:
            os.chdir(body.cwd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(self.nofile, hard), hard))
            return launch(body, execute)
        except OSError as error:
            # What is launched names its own stage: only chdir lets an OSError through.
            raise SpawnError(CWD, error.errno or errno.EIO) from None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            os.fchdir(self._home_fd)
            os.umask(runner_umask)

    def _execute(
        self,
        path: bytes,
        argv: list[bytes],
        env: dict[bytes, bytes],
        output_fd: int,
        script_fd: int,
    ) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, self.null_fd, 0),
            (os.POSIX_SPAWN_DUP2, output_fd, 1),
            (os.POSIX_SPAWN_DUP2, output_fd, 2),
        ]
        if script_fd >= 0:
            # Last, because it may take the place of one of the others in the child. It stays open
            # there: the interpreter reads the script through it.
            actions.append((os.POSIX_SPAWN_DUP2, script_fd, SCRIPT_FD))
        return os.posix_spawn(
            path,
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=self.signals,
        )
