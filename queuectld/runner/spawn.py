"""
One START becomes one process. This is the room where a job's surroundings are made, and the
only place that makes them:

    session      its own (setsid), so group and session carry the leader's pid
    signals      all at their defaults, none blocked
    stdin        /dev/null; stdout and stderr are the output file, one description
    descriptors  no other, but 3 when there is a script: the script itself
    cwd, umask   as asked
    limits       as the runner was started with; its own are raised meanwhile
    environment  as asked, and nothing else

posix_spawn(3) shares the runner's memory until the program is executed, so it costs the same
whatever the size of the runner, and reports a failed execve(2) as its errno. What it does not
offer (cwd, umask, limits) the runner sets on itself around the call: it has one thread.
"""

import errno
import os
import resource
import signal

from queuectld.runner.messages import CWD, EXEC, SCRIPT, SPAWN, Body
from queuectld.runner.process import is_shortage

SHELL = b"/bin/sh"
PATH_DEFAULT = b"/bin:/usr/bin"

_SCRIPT_FD = 3
_SCRIPT_PATH = b"/proc/self/fd/3"
_MFD_EXEC = 0x10  # Linux 6.3; os has no name for it yet

#: What execvp(3) passes over when it looks for a program.
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


class SpawnError(Exception):
    """
    No process was made: `stage` says where it ended (a constant of messages.py), `errno` why.
    """

    def __init__(self, stage: int, number: int) -> None:
        super().__init__(stage, number)
        self.stage = stage
        self.errno = number


class Spawner:
    """
    Makes the processes. Raises this process's limit of descriptors to the most it may have: each
    live run takes one, its pidfd.
    """

    def __init__(self) -> None:
        self._home_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._signals = [int(signo) for signo in signal.valid_signals()]
        self._nofile, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def spawn(self, body: Body, umask: int, output_fd: int) -> int:
        """
        Start the process of `body`, both its outputs going to `output_fd`; its pid. Raises
        `SpawnError`.
        """
        if not body.cwd.startswith(b"/"):
            raise SpawnError(CWD, errno.EINVAL)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        runner_umask = os.umask(umask)
        try:
            os.chdir(body.cwd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(self._nofile, hard), hard))
            if body.script:
                return self._spawn_script(body, output_fd)
            return self._spawn_program(body, output_fd)
        except OSError as error:
            # Everything below names its own stage: only chdir lets an OSError through.
            raise SpawnError(CWD, error.errno or errno.EIO) from None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            os.fchdir(self._home_fd)
            os.umask(runner_umask)

    def _spawn_program(self, body: Body, output_fd: int) -> int:
        name = body.argv[0]
        if b"/" in name:
            # Not asked first whether it can be executed: it fails by its own reason.
            return self._execute_program(name, body, output_fd)
        path = body.env.get(b"PATH", PATH_DEFAULT)
        # An empty name is in no directory, and an empty directory is the current one.
        files = [(d or b".") + b"/" + name for d in path.split(b":")] if name else []
        reason = None
        for file in files:
            # Trying a file costs a process, so ask before.
            if os.access(file, os.X_OK):
                try:
                    return self._execute_program(file, body, output_fd)
                except SpawnError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    reason = error.errno
        if reason is None:
            # As with execvp(3): a file that may not be executed is a better reason than none.
            is_here = any(os.path.lexists(file) for file in files)
            reason = errno.EACCES if is_here else errno.ENOENT
        raise SpawnError(EXEC, reason)

    def _execute_program(self, file: bytes, body: Body, output_fd: int) -> int:
        try:
            try:
                return self._execute(file, body.argv, body.env, output_fd)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                # An executable text without "#!" is the shell's, as with execvp(3).
                argv = [SHELL, file, *body.argv[1:]]
                return self._execute(SHELL, argv, body.env, output_fd)
        except OSError as error:
            stage = SPAWN if is_shortage(error) else EXEC
            raise SpawnError(stage, error.errno or errno.EIO) from None

    def _spawn_script(self, body: Body, output_fd: int) -> int:
        argv = [_SCRIPT_PATH, *body.argv]
        program = _SCRIPT_PATH
        if not body.script.startswith(b"#!"):
            argv = [SHELL, *argv]
            program = SHELL
        script_fd = -1
        try:
            script_fd = _script_memfd(body.script)
            return self._execute(program, argv, body.env, output_fd, script_fd)
        except OSError as error:
            stage = SPAWN if is_shortage(error) else SCRIPT
            raise SpawnError(stage, error.errno or errno.EIO) from None
        finally:
            if script_fd >= 0:
                os.close(script_fd)

    def _execute(
        self,
        path: bytes,
        argv: list[bytes],
        env: dict[bytes, bytes],
        output_fd: int,
        script_fd: int = -1,
    ) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null_fd, 0),
            (os.POSIX_SPAWN_DUP2, output_fd, 1),
            (os.POSIX_SPAWN_DUP2, output_fd, 2),
        ]
        if script_fd >= 0:
            # Last, because it may take the place of one of the others in the child. It stays open
            # there: the interpreter reads the script through it.
            actions.append((os.POSIX_SPAWN_DUP2, script_fd, _SCRIPT_FD))
        return os.posix_spawn(
            path,
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=self._signals,
        )


def _script_memfd(script: bytes) -> int:
    try:
        fd = os.memfd_create("script", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before Linux 6.3 every memfd may be executed, and the flag is unknown.
        fd = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        written_bytes = 0
        while written_bytes < len(script):
            written_bytes += os.pwrite(fd, script[written_bytes:], written_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd
