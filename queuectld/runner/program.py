"""
Which file a START executes, and how: found in the job's own PATH and directory, a script by its
"#!" line, a text without one by the shell. What execvp(3) does, told by stage and errno.

`execute(path, argv, script_fd)` makes the attempt; it raises `OSError` when the kernel takes no
program there. It is posix_spawn(3) in the runner, and execve(2) in a child that is about to
become the job: so the same rules hold for both, and files are looked at with the caller's ids.
"""

import errno
import os
from collections.abc import Callable

from queuectld.runner.messages import EXEC, SCRIPT, SPAWN, Body, memfd
from queuectld.runner.process import is_shortage

SHELL = b"/bin/sh"
PATH_DEFAULT = b"/bin:/usr/bin"
#: Where a job finds its script: the interpreter reads it through this descriptor.
SCRIPT_FD = 3

_SCRIPT_PATH = b"/proc/self/fd/3"
_MFD_EXEC = 0x10  # Linux 6.3; os has no name for it yet

#: What execvp(3) passes over when it looks for a program.
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)

Execute = Callable[[bytes, list[bytes], int], int]  # path, argv, script_fd or -1; a pid


class SpawnError(Exception):
    """
    No process was made: `stage` says where it ended (a constant of messages.py), `errno` why, or
    `reason` (another of its constants) where an account or the policy is the cause.
    """

    def __init__(self, stage: int, number: int, reason: int = 0) -> None:
        super().__init__(stage, number, reason)
        self.stage = stage
        self.errno = number
        self.reason = reason


def launch(body: Body, execute: Execute) -> int:
    """
    Execute what `body` says; what `execute` returned. Raises `SpawnError`.
    """
    if body.script:
        return _launch_script(body, execute)
    files = candidates(body)
    if b"/" in body.argv[0]:
        # Not asked first whether it can be executed: it fails by its own reason.
        return _launch_file(files[0], body.argv, execute)
    reason = None
    for file in files:
        # Trying a file costs a process, so ask before.
        if os.access(file, os.X_OK):
            try:
                return _launch_file(file, body.argv, execute)
            except SpawnError as error:
                if error.errno not in _NOT_HERE:
                    raise
                reason = error.errno
    if reason is None:
        # As with execvp(3): a file that may not be executed is a better reason than none.
        is_here = any(os.path.lexists(file) for file in files)
        reason = errno.EACCES if is_here else errno.ENOENT
    raise SpawnError(EXEC, reason)


def candidates(body: Body) -> list[bytes]:
    """
    The files that may be the program, first to last; none when there is a script.
    """
    if body.script:
        return []
    name = body.argv[0]
    if b"/" in name:
        return [name]
    path = body.env.get(b"PATH", PATH_DEFAULT)
    # An empty name is in no directory, and an empty directory is the current one.
    return [(d or b".") + b"/" + name for d in path.split(b":")] if name else []


def _launch_file(file: bytes, argv: list[bytes], execute: Execute) -> int:
    try:
        try:
            return execute(file, argv, -1)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # An executable text without "#!" is the shell's, as with execvp(3).
            return execute(SHELL, [SHELL, file, *argv[1:]], -1)
    except OSError as error:
        stage = SPAWN if is_shortage(error) else EXEC
        raise SpawnError(stage, error.errno or errno.EIO) from None


def _launch_script(body: Body, execute: Execute) -> int:
    argv = [_SCRIPT_PATH, *body.argv]
    program = _SCRIPT_PATH
    if not body.script.startswith(b"#!"):
        argv = [SHELL, *argv]
        program = SHELL
    script_fd = -1
    try:
        script_fd = memfd("script", body.script, _MFD_EXEC)
        return execute(program, argv, script_fd)
    except OSError as error:
        stage = SPAWN if is_shortage(error) else SCRIPT
        raise SpawnError(stage, error.errno or errno.EIO) from None
    finally:
        if script_fd >= 0:
            os.close(script_fd)
