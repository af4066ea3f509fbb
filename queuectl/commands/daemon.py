"""
`daemon`: start, stop and look at the user's own daemon.
"""

import os
import select

from queuectl.autostart import start_daemon
from queuectl.client import Client
from queuectl.discovery import state_dir
from queuectl.durations import describe_duration
from queuectl.errors import EXIT_DONE, CallTimedOut, DaemonUnreachable, UsageError
from queuectl.options import Arguments, Command
from queuectl.protocol import Done, Shutdown, Status, StatusReport
from queuectl.session import Session
from queuectl.tables import print_pairs

#: The daemon answers what is pending and syncs, within a second, however long its jobs run.
_STOP_MS_MAX = 10_000


def start(session: Session, _arguments: Arguments) -> int:
    """
    Start the daemon if it does not run.
    """
    session.refuse_host("daemon start", "starts a daemon of this machine")
    place = session.place
    word = "is running already"
    try:
        client = session.connect_running()
    except DaemonUnreachable:
        if not place.may_start:
            raise UsageError(
                f"daemon start: {place.socket} is not your own daemon's socket; to start one there "
                f"yourself: queuectld --state-dir DIR --socket {place.socket}"
            ) from None
        start_daemon(place.socket, state_dir())
        word = "started"
        client = session.connect_running()
    with client:
        report = client.call(Status(), StatusReport)
    if session.structured:
        session.print_json(_document(report, place.socket))
    else:
        pid = str(report.daemon.pid)
        session.print(pid if session.quiet else f"queuectld {word}, pid {pid}")
    return EXIT_DONE


def stop(session: Session, _arguments: Arguments) -> int:
    """
    Stop the daemon and return when its process has ended. Running jobs go on.
    """
    with session.connect_running() as client:
        pid = client.call(Status(), StatusReport).daemon.pid
        process = _open_process(pid) if session.host is None else None
        try:
            client.call(Shutdown(), Done)
            _await_end(client, process)
        finally:
            if process is not None:
                os.close(process)
    if session.structured:
        session.print_json({"stopped": True, "pid": pid})
    else:
        session.print(str(pid) if session.quiet else f"queuectld stopped, was pid {pid}")
    return EXIT_DONE


def status(session: Session, _arguments: Arguments) -> int:
    """
    Print the daemon's process and places. Raises DaemonUnreachable if it does not run.
    """
    with session.connect_running() as client:
        report = client.call(Status(), StatusReport)
    if session.structured:
        session.print_json(_document(report, client.path))
    elif session.quiet:
        session.print(str(report.daemon.pid))
    else:
        runner = "not connected" if report.runner is None else f"pid {report.runner.pid}"
        pairs = [
            ("queuectld", f"{report.daemon.version}, pid {report.daemon.pid}, {report.mode} mode"),
            ("uptime", describe_duration(report.daemon.uptime_ms)),
            ("runner", runner),
            ("socket", client.path),
            ("state", report.state_dir),
        ]
        print_pairs(session, pairs)
    return EXIT_DONE


def _document(report: StatusReport, socket: str) -> dict[str, object]:
    return {
        "pid": report.daemon.pid,
        "version": report.daemon.version,
        "uptime": report.daemon.uptime_ms / 1000,
        "mode": report.mode,
        "socket": socket,
        "state_dir": report.state_dir,
    }


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # A kernel before 5.3, or a daemon in another pid namespace.
        return None


def _await_end(client: Client, process: int | None) -> None:
    # Not only until it hangs up: whoever starts a daemon next finds the state directory unlocked.
    client.wait_for_hangup(_STOP_MS_MAX)
    if process is not None:
        watch = select.poll()
        watch.register(process, select.POLLIN)
        if not watch.poll(_STOP_MS_MAX):
            raise CallTimedOut("the daemon was told to stop but has not ended yet")


COMMANDS = (
    Command(
        ("daemon", "start"),
        "start your own daemon; other commands do it when they need one",
        start,
    ),
    Command(("daemon", "stop"), "stop the daemon; running jobs go on", stop),
    Command(("daemon", "status"), "show the daemon's process, socket and state directory", status),
)
