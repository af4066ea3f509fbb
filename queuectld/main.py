"""
queuectld: take the state directory, recover, listen, serve.

Exit codes: 0 stopped as told; 2 usage; 65 the journal is damaged or from a newer release; 71 the
system refused something; 74 the disk failed, nothing unconfirmed was acknowledged; 75 another
daemon has the state directory or the socket; 77 the state directory is not its owner's alone; 78
assertions are switched off.
"""

import argparse
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
from typing import Any

import structlog

from queuectl import __version__
from queuectl.discovery import make_private, runtime_dir, state_dir, user_socket
from queuectl.errors import QueuectlError
from queuectl.protocol import PROTOCOL_VERSION, Welcome
from queuectld.core.events import DaemonBegan
from queuectld.core.queue import Queue
from queuectld.core.records import load
from queuectld.journal.errors import (
    JournalCorrupt,
    JournalError,
    JournalFailed,
    JournalLocked,
    JournalTooNew,
    JournalUnsafe,
)
from queuectld.journal.journal import Journal
from queuectld.runtime.clock import Clock, wall_ms
from queuectld.runtime.daemon import Daemon
from queuectld.runtime.log import configure
from queuectld.runtime.runner_link import RunnerLink
from queuectld.runtime.server import Server

EXIT_CORRUPT = 65
EXIT_SYSTEM = 71
EXIT_STORAGE = 74
EXIT_LOCKED = 75
EXIT_DENIED = 77
EXIT_OPTIMIZED = 78

# Objects made before the collector looks for cycles among them. There are next to none: requests,
# records and jobs refer one way. At Python's 700 it looks at each request's objects for nothing,
# twice, and that is half of the daemon's time.
COLLECT_OBJECTS = 50_000
# How long a thread may be kept from the interpreter. The writer needs it for some microseconds
# before and after each system call; at Python's 5 ms a busy loop would keep the disk waiting.
SWITCH_S = 0.0005

_JOURNAL_EXITS: dict[type[JournalError], int] = {
    JournalLocked: EXIT_LOCKED,
    JournalUnsafe: EXIT_DENIED,
    JournalCorrupt: EXIT_CORRUPT,
    JournalTooNew: EXIT_CORRUPT,
}


def parser() -> argparse.ArgumentParser:
    """
    Return the command line of the daemon.
    """
    each = argparse.ArgumentParser(
        prog="queuectld",
        description="The queue's daemon. Runs in the foreground until SIGTERM; jobs go on then.",
        allow_abbrev=False,
    )
    each.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where jobs, output and journal are kept "
        "(default: $QUEUECTL_STATE_DIR, else $XDG_STATE_HOME/queuectl)",
    )
    each.add_argument(
        "--socket",
        metavar="PATH",
        help="where to listen (default: $QUEUECTL_SOCKET, else $XDG_RUNTIME_DIR/queuectl/…)",
    )
    each.add_argument(
        "--ephemeral",
        action="store_true",
        help="keep the state in a folder that goes with the daemon, and its jobs too",
    )
    each.add_argument(
        "--durability",
        choices=("always", "interval", "off"),
        default="always",
        help="always: on disk before it is confirmed; interval: within 50 ms; off: when the "
        "kernel likes (default: always)",
    )
    each.add_argument("--ready-fd", type=int, metavar="FD", help="say `ready` here when listening")
    each.add_argument("--version", action="version", version=f"queuectld {__version__}")
    return each


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
    if options.ephemeral and options.state_dir:
        parser().error("--ephemeral makes a state directory of its own: leave out --state-dir")
    os.umask(0o077)
    gc.set_threshold(COLLECT_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
    configure()
    log = structlog.get_logger()
    ready = Ready(options.ready_fd)
    ephemeral_dir = None
    try:
        if options.ephemeral:
            make_private(runtime_dir())
            ephemeral_dir = tempfile.mkdtemp(prefix="ephemeral-", dir=runtime_dir())
        directory = ephemeral_dir or os.path.abspath(options.state_dir or state_dir())
        socket_path = options.socket or os.environ.get("QUEUECTL_SOCKET") or user_socket()
        return serve(directory, os.path.abspath(socket_path), options, ready, log)
    except JournalError as error:
        locked = "locked: " if isinstance(error, JournalLocked) else ""
        code = _JOURNAL_EXITS.get(type(error), EXIT_STORAGE)
        return ready.give_up(f"{locked}{error}", code, log)
    except FileExistsError as error:
        return ready.give_up(f"locked: {error}", EXIT_LOCKED, log)
    except QueuectlError as error:
        return ready.give_up(str(error), EXIT_DENIED, log)
    except OSError as error:
        return ready.give_up(str(error), EXIT_SYSTEM, log)
    finally:
        if ephemeral_dir is not None:
            shutil.rmtree(ephemeral_dir, ignore_errors=True)


def serve(
    directory: str, socket_path: str, options: argparse.Namespace, ready: "Ready", log: Any
) -> int:
    """
    Recover the state in *directory*, listen at *socket_path*, serve until told to stop.
    """
    make_private(directory)
    queue = Queue(random=random.SystemRandom().random, durable=options.durability == "always")
    journal = Journal(
        f"{directory}/journal", now=wall_ms, version=__version__, durability=options.durability
    )
    recovered = journal.open(lambda record: queue.apply(load(record.kind, record.body)))
    log.info(
        "recovered",
        records=recovered.record_count,
        jobs=len(queue.state.jobs),
        epoch=recovered.epoch,
        torn_bytes=recovered.torn_bytes,
        clean=recovered.clean,
        notes=list(recovered.notes),
    )
    clock = Clock()
    clock.start_no_earlier_than(queue.state.latest_at)
    daemon = Daemon(
        queue=queue,
        journal=journal,
        clock=clock,
        state_dir=directory,
        mode="user",
        version=__version__,
        log=log,
        throw_away=options.ephemeral,
    )
    watch_signals(daemon)
    daemon.event(DaemonBegan(journal.epoch, __version__, len(os.sched_getaffinity(0))))
    daemon.runner = RunnerLink(
        f"{directory}/runner",
        epoch=journal.epoch,
        version=__version__,
        epoll=daemon.epoll,
        handlers=daemon.handlers,
        event=daemon.event,
        output=daemon.output,
        log=log,
    )
    welcome = Welcome(
        protocol=PROTOCOL_VERSION, version=__version__, pid=os.getpid(), epoch=journal.epoch
    )
    parent = os.path.dirname(socket_path)
    if not os.path.isdir(parent):
        make_private(parent)
    server = Server(socket_path, daemon.epoll, daemon.handlers, lambda: welcome)
    daemon.listen(server)
    log.info("listening", socket=socket_path, pid=os.getpid(), state_dir=directory)
    daemon.when_ready(ready.tell)
    try:
        daemon.run()
    except JournalFailed as error:
        log.critical("storage_failed", error=str(error))
        return EXIT_STORAGE
    return 0


def watch_signals(daemon: Daemon) -> None:
    """
    Have SIGTERM and SIGINT stop the loop.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def told(_events: int) -> None:
        for signo in os.read(reader, 64):
            if signo in (signal.SIGTERM, signal.SIGINT):
                daemon.log.info("stopping", signal=signal.Signals(signo).name)
                daemon.stop()

    daemon.watch(reader, told)
    for signo in (signal.SIGTERM, signal.SIGINT):
        # The number reaches the loop through the pipe; the handler only has to exist.
        signal.signal(signo, lambda _signo, _frame: None)
    # The terminal it was started from may go; a service manager reloads by other means.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


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
