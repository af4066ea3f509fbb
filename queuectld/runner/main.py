"""
queuectl-runner --dir DIR [--stay] [--program-version TEXT]

Start, signal and reap processes for the queuectld that connects to DIR/runner.sock.

DIR is made with mode 0700 where it is missing, must belong to the user that runs this, and is
closed to everyone else. It holds runner.sock and the ledger; its lock (flock on the directory)
makes sure of one runner, and a second one waits 5 s for it.

  --stay                  stay without a daemon and without runs; else the runner leaves when it
                          has neither: 10 s after it was started, 1 s after a daemon left
  --program-version TEXT  what WELCOME says about the program

Signals: SIGTERM and SIGINT end every run (SIGTERM, after 10 s SIGKILL), write the exits down and
leave. SIGHUP is ignored: the runner outlives the terminal it was started from.

Exit codes: 0 left as told, or of no more use; 64 the command line is wrong; 65 the ledger was
written by a newer version; 71 the system refused something; 75 another runner has the directory;
77 the directory is not ours alone.
"""

import fcntl
import os
import signal
import stat
import sys
import time

from queuectld.runner.clock import now_ms
from queuectld.runner.endpoint import SOCKET_NAME, listen
from queuectld.runner.ledger import Ledger, LedgerError, read_boot_id
from queuectld.runner.runner import Runner

EX_OK, EX_USAGE, EX_DATAERR, EX_OSERR, EX_TEMPFAIL, EX_NOPERM = 0, 64, 65, 71, 75, 77

LOCK_WAIT_S = 5.0
_LOCK_RETRY_S = 0.05


class ExitError(Exception):
    """
    Ends the program with an exit code and a line that says why.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def main() -> int:
    """
    The program; its exit code.
    """
    try:
        return _main(sys.argv[1:])
    except ExitError as error:
        complain(str(error))
        return error.code
    except LedgerError as error:
        complain(str(error))
        return EX_DATAERR
    except OSError as error:
        complain(str(error))
        return EX_OSERR


def complain(line: str) -> None:
    """
    Say one line to people.
    """
    try:
        os.write(2, f"queuectl-runner: {line}\n".encode(errors="replace"))
    except OSError:
        pass  # Nobody reads it any more, and the jobs are worth more than the line.


def _main(arguments: list[str]) -> int:
    if not __debug__:
        raise ExitError(EX_USAGE, "assertions are off (-O): refusing to run without them")
    directory, stay, program_version = _parse(arguments)
    if not directory:
        os.write(1, __doc__.encode())
        return EX_OK
    _open_standard_fds()
    os.umask(0o077)
    directory_fd = _open_directory(directory)
    _lock(directory_fd, directory)
    os.chdir("/")
    wakeup_fd = _take_signals()
    ledger = Ledger(directory_fd, read_boot_id(), now_ms())
    if ledger.damaged:
        complain("the ledger was damaged: what it lost is reported as not known")
    listener = listen(directory_fd)
    Runner(listener, wakeup_fd, ledger, complain, stay, program_version).run()
    os.unlink(SOCKET_NAME, dir_fd=directory_fd)
    return EX_OK


def _parse(arguments: list[str]) -> tuple[str, bool, str]:
    directory, stay, program_version = "", False, ""
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if option == "--stay":
            stay = True
        elif option == "--help" and len(arguments) == 1:
            return "", False, ""
        elif option == "--dir" and rest and rest[0]:
            directory = rest.pop(0)
        elif option == "--program-version" and rest:
            program_version = rest.pop(0)
        else:
            raise ExitError(EX_USAGE, f"{option}: unknown, or without its value; see --help")
    if not directory:
        raise ExitError(EX_USAGE, "--dir DIR is missing; see --help")
    return directory, stay, program_version


def _open_standard_fds() -> None:
    # A descriptor of ours must never be 0, 1 or 2: the next one opened would be.
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _open_directory(directory: str) -> int:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        raise ExitError(EX_NOPERM, f"{directory}: belongs to uid {found.st_uid}, not to us")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ExitError(EX_NOPERM, f"{directory}: has mode {mode:04o}; chmod it to 0700")
    return fd


def _lock(directory_fd: int, directory: str) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ExitError(EX_TEMPFAIL, f"{directory}: another runner has it") from None
            time.sleep(_LOCK_RETRY_S)
        else:
            return


def _take_signals() -> int:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for signo in (signal.SIGTERM, signal.SIGINT):
        # The number reaches the loop through the pipe; the handler only has to exist.
        signal.signal(signo, lambda _signo, _frame: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return read_fd


if __name__ == "__main__":
    sys.exit(main())
