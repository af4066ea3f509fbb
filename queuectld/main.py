"""
queuectld: take the state directory, recover, listen, serve.

Exit codes: 0 stopped as told; 2 usage; 65 the journal is damaged or from a newer release; 71 the
system refused something; 74 the disk failed, nothing unconfirmed was acknowledged; 75 another
daemon has the state directory or the socket; 77 the state directory is not its owner's alone; 78
the configuration is wrong, or assertions are switched off.
"""

import argparse
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from typing import Any, NamedTuple, cast

from queuectl import __version__
from queuectl.discovery import SYSTEM_SOCKET, make_private, runtime_dir, state_dir, user_socket
from queuectl.errors import QueuectlError
from queuectld.configuration import Configuration, ConfigurationError
from queuectld.core.events import Configured, DaemonBegan
from queuectld.core.queue import Queue
from queuectld.core.records import SKIPPABLE, load
from queuectld.journal.errors import (
    JournalCorrupt,
    JournalError,
    JournalFailed,
    JournalLocked,
    JournalTooNew,
    JournalUnsafe,
)
from queuectld.journal.journal import Durability, Journal
from queuectld.options import SYSTEM_RUNNER_DIR, SYSTEM_STATE_DIR, configuration, parser
from queuectld.reload import Reloader
from queuectld.runner.scheduling import ask_for_short_slices
from queuectld.runtime.clock import Clock, boot_ms, wall_ms
from queuectld.runtime.daemon import Daemon
from queuectld.runtime.greeting import Greeter
from queuectld.runtime.job_log import JobLog, job_fields
from queuectld.runtime.log import Log
from queuectld.runtime.peers import identify
from queuectld.runtime.runner_link import RunnerLink
from queuectld.runtime.server import Server
from queuectld.runtime.systemd import ServiceManager, SystemdUnusable, from_environment

EXIT_CORRUPT = 65
EXIT_SYSTEM = 71
EXIT_STORAGE = 74
EXIT_LOCKED = 75
EXIT_DENIED = 77
EXIT_CONFIGURATION = 78
EXIT_OPTIMIZED = 78

# Objects made before the collector looks for cycles among them. There are next to none: requests,
# records and jobs refer one way. At Python's 700 it would look at each request's objects,
# twice, for nothing.
COLLECT_OBJECTS = 50_000
# How long a thread may be kept from the interpreter. The writer needs it for some microseconds
# before and after each system call; at Python's 5 ms a busy loop would keep the disk waiting.
SWITCH_S = 0.0005
# Records between two looks at the clock during recovery.
RECORDS_PER_LOOK = 4_096

_JOURNAL_EXITS: dict[type[JournalError], int] = {
    JournalLocked: EXIT_LOCKED,
    JournalUnsafe: EXIT_DENIED,
    JournalCorrupt: EXIT_CORRUPT,
    JournalTooNew: EXIT_CORRUPT,
}


class Setup(NamedTuple):
    """
    What the daemon is started with.
    """

    options: argparse.Namespace
    configuration: Configuration
    manager: ServiceManager
    log_config: Log
    log: Any
    ephemeral_dir: str | None = None

    @property
    def state_dir(self) -> str:
        """
        Where the state is.
        """
        if self.ephemeral_dir is not None:
            return self.ephemeral_dir
        own = SYSTEM_STATE_DIR if self.options.system else None
        return self.configuration.path("state_dir") or own or os.path.abspath(state_dir())

    @property
    def runner_dir(self) -> str | None:
        """
        Where a runner is that somebody else starts; None: the daemon starts its own.
        """
        own = SYSTEM_RUNNER_DIR if self.options.system else None
        return self.configuration.path("runner_dir") or own

    @property
    def socket_path(self) -> str:
        """
        Where to listen, or where systemd listens for us.
        """
        passed = self.manager.listening
        if passed is not None:
            return str(passed.getsockname())
        own = SYSTEM_SOCKET if self.options.system else None
        return self.configuration.path("socket") or own or os.path.abspath(user_socket())


def main(argv: list[str] | None = None) -> int:
    """
    Run the daemon; return its exit code.
    """
    if not __debug__:
        sys.stderr.write(
            "queuectld: refusing to run without assertions: they guard the queue's state; "
            "start it without python -O and PYTHONOPTIMIZE\n"
        )
        return EXIT_OPTIMIZED
    options = parser().parse_args(argv)
    if options.ephemeral and (options.state_dir or options.system):
        parser().error(
            "--ephemeral makes a state directory of its own: leave out --state-dir and --system"
        )
    if options.check_config:
        return check_configuration(options)
    os.umask(0o077)
    gc.set_threshold(COLLECT_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
    ask_for_short_slices()
    log_config = Log()
    log = log_config.configure()
    ready = Ready(options.ready_fd)
    try:
        # Started by a program that waits on a pipe, it is no service, whatever that program is.
        manager = ServiceManager() if options.ready_fd else from_environment(os.environ)
        setup = Setup(options, configuration(options, os.environ), manager, log_config, log)
    except SystemdUnusable as error:
        return ready.give_up(str(error), EXIT_SYSTEM, log)
    except ConfigurationError as error:
        return ready.give_up(str(error), EXIT_CONFIGURATION, log)
    log_config.set_level(setup.configuration.choice("log_level"))
    try:
        if options.ephemeral:
            make_private(runtime_dir())
            directory = tempfile.mkdtemp(prefix="ephemeral-", dir=runtime_dir())
            setup = setup._replace(ephemeral_dir=directory)
        return serve(setup, ready)
    except JournalError as error:
        locked = "locked: " if isinstance(error, JournalLocked) else ""
        code = _JOURNAL_EXITS.get(type(error), EXIT_STORAGE)
        return ready.give_up(f"{locked}{error}", code, log)
    except FileExistsError as error:
        return ready.give_up(f"locked: {error}", EXIT_LOCKED, log)
    except QueuectlError as error:
        return ready.give_up(str(error), EXIT_DENIED, log)
    except OSError as error:
        has_place = error.filename and not error.filename2
        reason = f"{error.filename}: {error.strerror}" if has_place else str(error)
        return ready.give_up(reason, EXIT_SYSTEM, log)
    finally:
        if setup.ephemeral_dir is not None:
            shutil.rmtree(setup.ephemeral_dir, ignore_errors=True)


def check_configuration(options: argparse.Namespace) -> int:
    """
    Say what the configuration is, or each of its faults.
    """
    try:
        found = configuration(options, os.environ)
    except ConfigurationError as error:
        for fault in error.faults:
            sys.stderr.write(f"queuectld: {fault}\n")
        return EXIT_CONFIGURATION
    for line in found.lines():
        sys.stdout.write(f"{line}\n")
    return 0


def serve(setup: Setup, ready: "Ready") -> int:
    """
    Recover the state, listen, serve until told to stop.
    """
    options, manager, log = setup.options, setup.manager, setup.log
    directory, socket_path = setup.state_dir, setup.socket_path
    durability = cast("Durability", setup.configuration.choice("durability"))
    make_private(directory)
    queue = Queue(random=random.SystemRandom().random, durable=durability == "always")
    journal = Journal(
        f"{directory}/journal", now=wall_ms, version=__version__, durability=durability
    )
    recover(queue, journal, manager, log)
    clock = Clock()
    clock.start_no_earlier_than(queue.state.latest_at)
    daemon = Daemon(
        queue=queue,
        journal=journal,
        clock=clock,
        state_dir=directory,
        mode="system" if options.system else "user",
        version=__version__,
        log=log,
        manager=manager,
        job_log=JobLog(log),
        throw_away=options.ephemeral,
    )
    watch_signals(daemon, Reloader(daemon, options, setup.configuration, setup.log_config))
    daemon.event(Configured(*setup.configuration.settings()))
    daemon.event(DaemonBegan(journal.epoch, __version__, len(os.sched_getaffinity(0))))
    daemon.runner = RunnerLink(
        setup.runner_dir or f"{directory}/runner",
        epoch=journal.epoch,
        epoll=daemon.epoll,
        handlers=daemon.handlers,
        event=daemon.event,
        output=daemon.output,
        log=log,
        describe=partial(job_fields, queue.state),
        starts=setup.runner_dir is None,
    )
    listen(setup, daemon, journal.epoch)
    log.info("listening", socket=socket_path, pid=os.getpid(), state_dir=directory)
    daemon.when_ready(lambda: tell_ready(ready, manager))
    try:
        daemon.run()
    except JournalFailed as error:
        log.critical("storage_failed", error=str(error))
        return EXIT_STORAGE
    return 0


def listen(setup: Setup, daemon: Daemon, epoch: int) -> None:
    """
    Serve clients from now on.
    """
    socket_path, system = setup.socket_path, setup.options.system
    listening = setup.manager.listening
    parent = os.path.dirname(socket_path)
    if not system and listening is None and not os.path.isdir(parent):
        make_private(parent)
    state = daemon.queue.state
    greeter = Greeter(
        __version__,
        epoch,
        tokens=state.tokens,
        now=daemon.clock.now,
        log=setup.log,
        socket_path=socket_path,
        system=system,
    )
    server = Server(
        socket_path,
        daemon.epoll,
        daemon.handlers,
        greeter,
        listening,
        # The machine's is for the group of the account that the daemon runs under.
        0o660 if system else 0o600,
        partial(identify, system=system),
        lambda: int(state.setting("user_connections_max")),
    )
    daemon.listen(server)


def tell_ready(ready: "Ready", manager: ServiceManager) -> None:
    """
    Say to whoever started the daemon that clients are served.
    """
    ready.tell()
    manager.ready()


def recover(queue: Queue, journal: Journal, manager: ServiceManager, log: Any) -> None:
    """
    Bring the queue to where the journal ends.
    """
    count = 0

    def apply(record: Any) -> None:
        nonlocal count
        try:
            known = load(record.kind, record.body)
        except KeyError as error:
            if record.flags & SKIPPABLE:
                return
            raise JournalTooNew(
                f"the journal has records of kind {record.kind}, which this queuectld does not "
                "know; run the newer one that wrote them"
            ) from error
        queue.apply(known, record.body)
        count += 1
        if count % RECORDS_PER_LOOK == 0:
            manager.recovering(count, boot_ms())

    recovered = journal.open(apply)
    log.info(
        "recovered",
        records=recovered.record_count,
        jobs=len(queue.state.jobs),
        epoch=recovered.epoch,
        torn_bytes=recovered.torn_bytes,
        clean=recovered.clean,
        notes=list(recovered.notes),
    )


def watch_signals(daemon: Daemon, reloader: Reloader) -> None:
    """
    Have SIGTERM and SIGINT stop the loop, SIGHUP reload the configuration.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def told(_events: int) -> None:
        for signo in os.read(reader, 64):
            if signo in (signal.SIGTERM, signal.SIGINT):
                daemon.log.info("stopping", signal=signal.Signals(signo).name)
                daemon.stop()
            elif signo == signal.SIGHUP:
                reloader.reload()

    daemon.watch(reader, told)
    for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # The number reaches the loop through the pipe; the handler only has to exist.
        signal.signal(signo, lambda _signo, _frame: None)


class Ready:
    """
    Tells whoever started the daemon that it listens, or why it does not.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self) -> None:
        """
        Say that clients are served.
        """
        self._say("ready\n")

    def give_up(self, reason: str, code: int, log: Any) -> int:
        """
        Say in one line why the daemon cannot run; return the exit code.
        """
        line = " ".join(reason.split())
        self._say(f"error: {line}\n")
        log.critical("refused_to_run", reason=line, exit_code=code)
        return code

    def _say(self, text: str) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, text.encode(errors="replace"))
        except BrokenPipeError:
            pass  # Whoever asked has gone.
        os.close(self._fd)
        self._fd = None
