"""
The service manager: what it handed to this process, and what it wants to hear.

systemd starts a service with variables: NOTIFY_SOCKET to talk to it, LISTEN_FDS for sockets it
listens on already, WATCHDOG_USEC for the time in which it wants a sign of life. They are read once,
and what is not read again is taken out of the environment: other processes are not meant. Without
them, as in a terminal or a container, the same code runs and says nothing.

What is said: READY when clients are served, and again after a reload; STATUS, a line for people;
STOPPING; WATCHDOG while the loop turns and the journal takes what it is given; and during a long
recovery, EXTEND_TIMEOUT, so that a large journal is not taken for a start that hangs. It is said
through systemd-python, and where that is not to be had, as that would say it (systemd_protocols).
"""

import importlib
import os
import socket
import stat
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from queuectld.core.timers import earliest
from queuectld.runtime import systemd_protocols

# The line for people changes at most this often.
STATUS_MS_MIN = 1_000
# In a long recovery: how often more time is asked for, and how much.
EXTEND_EVERY_MS = 5_000
EXTEND_BY_MS = 60_000

_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)


class SystemdUnusable(Exception):
    """
    systemd started this process in a way that it cannot follow. The message says what to change.
    """


class ServiceManager:
    """
    What this process was told and tells. `notify` sends lines; None: nobody listens.
    """

    def __init__(
        self,
        notify: Callable[[str], object] | None = None,
        *,
        listening: socket.socket | None = None,
        watchdog_ms: int | None = None,
    ) -> None:
        #: A socket on which systemd listens for us: it made it, and it will remove it.
        self.listening = listening
        self._notify = notify
        self._watchdog_ms = watchdog_ms if notify is not None else None
        self._beat_at = 0
        self._status = ""
        self._status_after = 0
        self._status_at: int | None = None
        self._extend_at = 0

    # --- beginning --------------------------------------------------------------------------

    def recovering(self, record_count: int, now: int) -> None:
        """
        Say that recovery gets on. Called often, heard every few seconds.
        """
        if now >= self._extend_at:
            self._extend_at = now + EXTEND_EVERY_MS
            self._say(
                f"EXTEND_TIMEOUT_USEC={EXTEND_BY_MS * 1000}",
                f"STATUS=Recovering: {record_count} records so far",
            )

    def ready(self) -> None:
        """
        Say that clients are served, or that a reload is over.
        """
        self._say("READY=1")

    def reloading(self) -> None:
        """
        Say that configuration is read again. ready() must follow.
        """
        monotonic_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        """
        Say that the process ends because it was told to.
        """
        self._say("STOPPING=1", "STATUS=Stopping; running jobs go on")

    # --- the loop's side --------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """
        When to call attend(); None: nobody listens, or there is nothing to say.
        """
        return earliest(self._status_at, None if self._watchdog_ms is None else self._beat_at)

    def attend(self, now: int, *, healthy: bool, status: Callable[[], str]) -> None:
        """
        Give the sign of life if it is due and all is *healthy*, and *status* if it changed.
        """
        if self._notify is None:
            return
        if self._watchdog_ms is not None and now >= self._beat_at:
            self._beat_at = now + self._watchdog_ms // 2
            if healthy:
                self._say("WATCHDOG=1")
        if now < self._status_after:
            # Not asked for what may not be told: that would be a line for each turn.
            self._status_at = self._status_after
            return
        self._status_at = None
        text = status()
        if text != self._status:
            self._status = text
            self._status_after = now + STATUS_MS_MIN
            self._say(f"STATUS={text}")

    def _say(self, *lines: str) -> None:
        if self._notify is None:
            return
        while True:
            try:
                self._notify("\n".join(lines))
            except InterruptedError:
                continue  # A signal came while it was too busy to listen.
            except OSError:
                pass  # It is not there to listen. What it misses it acts upon by itself.
            return


def from_environment(environment: MutableMapping[str, str]) -> ServiceManager:
    """
    Return the service manager that *environment* tells of, and take its variables out.

    Raises SystemdUnusable.
    """
    found = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    notifies = "NOTIFY_SOCKET" in found
    listens = found.get("LISTEN_PID") == str(os.getpid())
    if not notifies and not listens:
        _take_out(environment)
        return ServiceManager()
    library: Any = systemd_protocols
    try:
        library = importlib.import_module("systemd.daemon")
    except ImportError:
        pass  # There is none for this interpreter.
    listening = _take_socket(library.listen_fds(False)) if listens else None
    watchdog_ms = None
    if found.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
        usec = found.get("WATCHDOG_USEC", "")
        watchdog_ms = int(usec) // 1000 if usec.isdigit() and int(usec) else None
    _take_out(environment, but="NOTIFY_SOCKET")  # The library reads that one each time.
    notify = library.notify if notifies else None
    return ServiceManager(notify, listening=listening, watchdog_ms=watchdog_ms)


def _take_out(environment: MutableMapping[str, str], but: str = "") -> None:
    for name in _VARIABLES:
        if name != but:
            environment.pop(name, None)


def _take_socket(fds: list[int]) -> socket.socket:
    """
    Return the one socket that was passed. Raises SystemdUnusable if it is not what can be served.
    """
    if len(fds) != 1:
        raise SystemdUnusable(
            f"systemd passed {len(fds)} descriptors, not one: see queuectld.socket"
        )
    if not stat.S_ISSOCK(os.fstat(fds[0]).st_mode):
        raise SystemdUnusable("systemd passed a descriptor that is no socket: see queuectld.socket")
    passed = socket.socket(fileno=fds[0])
    listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (passed.family, passed.type, listens) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
        raise SystemdUnusable(
            "systemd passed something other than a Unix stream socket that listens "
            "(ListenStream=/path, Accept=no)"
        )
    passed.setblocking(False)
    return passed
