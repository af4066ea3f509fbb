"""
queuectl-runner --dir DIR [--stay] [--policy FILE [--daemon-user NAME] [--executor FILE]] [--check]

Start, signal and reap processes for the queuectld that connects to DIR/runner.sock: those of the
account that runs this, or, as root and with a policy, those of others.

DIR is made with mode 0700 where it is missing, must belong to the user that runs this, and is
closed to everyone else. It holds runner.sock and the ledger; its lock (flock on the directory)
makes sure of one runner, and a second one waits 5 s for it.

  --stay                  stay without a daemon and without runs; else the runner leaves when it
                          has neither: 10 s after it was started, 1 s after a daemon left
  --policy FILE           whose jobs may be started, see policy.py: TOML, in a file that, as every
                          directory above it, only root can write
  --daemon-user NAME      the account of queuectld, the only one but root that may connect; DIR
                          gets its group and mode 0710, runner.sock belongs to it
  --executor FILE         the program that executor.c becomes, in a place like that of the policy:
                          it starts the jobs of others at the cost of our own
  --check                 say whether it would start like this, and start nothing

Signals: SIGTERM and SIGINT end every run (SIGTERM, after 10 s SIGKILL), write the exits down and
leave. SIGHUP has it execute its program anew, in this process: the policy is read again, a version
that was installed meanwhile takes over, and runs go on. If --check finds a fault, the line says so,
and all stays as it was.

Exit codes: 0 left as told, of no more use, or checked; 64 the command line is wrong; 65 the ledger,
or what was handed over, is of a newer version; 67 there is no account NAME; 71 the system refused
something; 75 another runner has the directory; 77 the directory is not ours alone, the policy is
not root's alone or says what no policy does, or we may not start jobs under other accounts.
"""

import fcntl
import os
import pwd
import signal
import socket
import stat
import sys
import time
from typing import NamedTuple

from queuectl import __version__
from queuectld.runner.accounts import Accounts
from queuectld.runner.capabilities import give_up_inheritable
from queuectld.runner.clock import now_ms
from queuectld.runner.endpoint import SOCKET_NAME, listen
from queuectld.runner.fd_store import FdStore, notify
from queuectld.runner.ledger import Ledger, LedgerError, check_version, read_boot_id
from queuectld.runner.policy import PolicyError, open_trusted
from queuectld.runner.renewal import (
    SIGNALS,
    InheritanceError,
    Renewal,
    inherit,
    inherit_stored,
    receive_signals,
)
from queuectld.runner.runner import Runner
from queuectld.runner.scheduling import ask_for_short_slices

EX_OK, EX_USAGE, EX_DATAERR, EX_NOUSER, EX_OSERR, EX_TEMPFAIL, EX_NOPERM = 0, 64, 65, 67, 71, 75, 77

LOCK_WAIT_S = 5.0
_LOCK_RETRY_S = 0.05


class Options(NamedTuple):
    directory: str = ""  # empty: --help
    stay: bool = False
    policy: str = ""
    daemon_user: str = ""
    executor: str = ""
    check: bool = False


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
    except (LedgerError, InheritanceError) as error:
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
    options = _parse(arguments)
    if not options.directory:
        os.write(1, __doc__.encode())
        return EX_OK
    _open_standard_fds()
    os.umask(0o077)
    inheritance = inherit(os.environ)
    # Kept open: this is the program that understands our orders, whatever an upgrade puts there.
    executor_fd = None
    accounts = None
    if options.policy:
        accounts, executor_fd = _read_accounts(options)
    daemon = _find_daemon(options.daemon_user) if options.daemon_user else None
    if options.check:
        _check_ledger(options.directory)
        return EX_OK
    directory_fd = inheritance.directory_fd
    if directory_fd < 0:
        directory_fd = _open_directory(options.directory, daemon)
        _lock(directory_fd, options.directory)
        inheritance = inherit_stored(os.environ, os.getpid())
    ask_for_short_slices()
    renewal = Renewal(directory_fd, complain)
    os.chdir("/")
    wakeup_fd = _take_signals()
    receive_signals()
    ledger = Ledger(directory_fd, read_boot_id(), now_ms())
    if ledger.damaged:
        complain("the ledger was damaged: what it lost is reported as not known")
    daemon_uid = None if daemon is None else daemon.pw_uid
    if inheritance.listener_fd < 0:
        listener = listen(directory_fd, -1 if daemon_uid is None else daemon_uid)
    else:
        listener = socket.socket(fileno=inheritance.listener_fd)
    manager = os.environ.get("NOTIFY_SOCKET", "")
    runner = Runner(
        listener,
        wakeup_fd,
        ledger,
        renewal,
        complain,
        options.stay,
        daemon_uid,
        accounts,
        executor_fd,
        FdStore(manager),
        inheritance,
    )
    if inheritance.listener_fd >= 0:
        complain(f"goes on as version {__version__}")
    try:
        notify(manager, "READY=1", wait=True)
    except OSError as error:
        complain(f"{manager}: {error}")  # Its jobs are worth more than what systemd thinks of it.
    runner.run()
    os.unlink(SOCKET_NAME, dir_fd=directory_fd)
    return EX_OK


def _parse(arguments: list[str]) -> Options:
    options = Options()
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if option == "--stay":
            options = options._replace(stay=True)
        elif option == "--help" and len(arguments) == 1:
            return options
        elif option == "--dir" and rest and rest[0]:
            options = options._replace(directory=rest.pop(0))
        elif option == "--check":
            options = options._replace(check=True)
        elif option == "--policy" and rest and rest[0]:
            options = options._replace(policy=rest.pop(0))
        elif option == "--daemon-user" and rest and rest[0]:
            options = options._replace(daemon_user=rest.pop(0))
        elif option == "--executor" and rest and rest[0]:
            options = options._replace(executor=rest.pop(0))
        else:
            raise ExitError(EX_USAGE, f"{option}: unknown, or without its value; see --help")
    if not options.directory:
        raise ExitError(EX_USAGE, "--dir DIR is missing; see --help")
    if options.daemon_user and not options.policy:
        # It would have every job run as root.
        raise ExitError(EX_USAGE, "--daemon-user NAME needs --policy FILE; see --help")
    if options.executor and not options.policy:
        raise ExitError(EX_USAGE, "--executor FILE needs --policy FILE; see --help")
    return options


def _read_accounts(options: Options) -> tuple[Accounts, int | None]:
    if os.geteuid() != 0:
        raise ExitError(EX_NOPERM, "--policy: only root can start jobs under other accounts")
    give_up_inheritable()
    try:
        executor_fd = open_trusted(options.executor) if options.executor else None
        return Accounts(options.policy), executor_fd
    except (PolicyError, OSError) as error:
        raise ExitError(EX_NOPERM, str(error)) from None


def _check_ledger(directory: str) -> None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # It would be made.
    check_version(fd)


def _find_daemon(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ExitError(EX_NOUSER, f"--daemon-user: there is no account {name}") from None


def _open_standard_fds() -> None:
    # A descriptor of ours must never be 0, 1 or 2: the next one opened would be.
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _open_directory(directory: str, daemon: pwd.struct_passwd | None) -> int:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        raise ExitError(EX_NOPERM, f"{directory}: belongs to uid {found.st_uid}, not to us")
    mode = stat.S_IMODE(found.st_mode)
    if daemon is None:
        if mode & 0o077:
            raise ExitError(EX_NOPERM, f"{directory}: has mode {mode:04o}; chmod it to 0700")
        return fd
    # The daemon goes through it to the socket, and that is all: the group may have more members,
    # so the socket is the daemon's alone, and the directory cannot be listed.
    if mode & 0o022:
        raise ExitError(EX_NOPERM, f"{directory}: has mode {mode:04o}; chmod it to 0710")
    os.fchown(fd, -1, daemon.pw_gid)
    os.fchmod(fd, 0o710)
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
    for signo in SIGNALS:
        # The number reaches the loop through the pipe; the handler only has to exist.
        signal.signal(signo, lambda _signo, _frame: None)
    return read_fd


if __name__ == "__main__":
    sys.exit(main())
