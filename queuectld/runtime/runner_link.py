"""
The daemon's end of the connection to the runner.

The link is down, greeting (HELLO sent, the list not yet complete) or ready. When it goes down the
queue hears RunnerGone and starts nothing; the link is tried again, soon at first and every second
if that fails. If there is no runner one is started, unless a service manager does that. After a
greeting the runner lists the attempts it runs and the ends nobody acknowledged; RunnerReady then
lets the queue compare.
"""

import errno
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from queuectld.core.admission import excerpt
from queuectld.core.effects import StartRun
from queuectld.core.events import (
    Event,
    RunExited,
    RunnerGone,
    RunnerReady,
    RunSpawned,
    StartRefused,
)
from queuectld.runner import messages
from queuectld.runner.endpoint import connect
from queuectld.runtime.output import OutputStore

RETRY_MS_MAX = 1_000
# How soon to look for the socket of a runner that was just started, or try again one that hung up.
RETRY_MS_MIN = 10
# How often to look for a runner that somebody else starts.
AWAIT_RUNNER_MS = 100
# Until then a started runner is given time to listen; after that another one is started.
STARTING_MS_MAX = 10_000
# Time for a runner to leave after it killed its last run.
STOP_S_MAX = 5.0
MESSAGES_PER_TURN_MAX = 256
# Refusals that are not the job's fault: they pass.
PASSING_ERRNOS = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}
)
# What a shell answers for a command that is not there, and for one that cannot be executed.
EXIT_NOT_FOUND, EXIT_NOT_EXECUTABLE = 127, 126


class RunnerLink:
    """
    Speaks to the runner of one directory. Hands what it hears to *event*.
    """

    def __init__(
        self,
        directory: str,
        *,
        epoch: int,
        epoll: select.epoll,
        handlers: dict[int, Callable[[int], None]],
        event: Callable[[Event], None],
        output: OutputStore,
        log: Any,
        describe: Callable[[int], dict[str, Any]],
        starts: bool = True,
    ) -> None:
        self.welcome: messages.Welcome | None = None
        self.ready = False
        self._directory = directory
        self._epoch = epoch
        self._epoll = epoll
        self._handlers = handlers
        self._event = event
        self._output = output
        self._log = log
        #: What the log says of a job, by its number.
        self._describe = describe
        #: Whether a runner that is missing is ours to start.
        self._starts = starts
        self._unreachable = ""
        self._socket: socket.socket | None = None
        self._retry_at = 0
        self._tried_at = 0
        #: The runner whose list was heard last in this daemon's life: its pid, and its start.
        self._listed: tuple[int, int] | None = None
        #: Greetings in a row that did not lead to a list.
        self._failures = 0
        #: Runners that this process started and has not reaped.
        self._children: set[int] = set()
        #: When the one was started that has not answered yet.
        self._started_at: int | None = None
        self._known: set[tuple[int, int]] = set()
        #: Attempts whose START never left, since the last greeting.
        self._unsent: set[tuple[int, int]] = set()
        #: What could not be sent at once: (packet, descriptors to send with it and close).
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()
        #: What each attempt that was not yet heard of would run, for its error message.
        self._starting: dict[tuple[int, int], StartRun] = {}
        #: The epoll events that are watched for while connected.
        self._events = 0

    # --- connecting -------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """
        When to call attend() again; None while connected.
        """
        return None if self._socket is not None else self._retry_at

    def attend(self, now: int) -> None:
        """
        Connect if the link is down and it is time to try.
        """
        if self._socket is not None or now < self._retry_at:
            return
        self._tried_at = now
        try:
            self._socket = connect(self._directory)
        except (FileNotFoundError, ConnectionRefusedError):
            self._retry_at = now + RETRY_MS_MAX
            if not self._starts:
                self._retry_at = now + AWAIT_RUNNER_MS
            elif self._reap_runners() and self._started_at is not None:
                self._started_at = None  # It ended at once; another would do the same.
            elif self._started_at is None or now > self._started_at + STARTING_MS_MAX:
                self._start_runner(now)
            else:
                self._retry_at = now + RETRY_MS_MIN
            return
        except OSError as error:
            if self._unreachable != str(error):  # Once, not every second.
                self._unreachable = str(error)
                self._log.error("runner_unreachable", error=str(error))
            self._retry_at = now + RETRY_MS_MAX
            return
        self._unreachable = ""
        self._socket.setblocking(False)
        self._handlers[self._socket.fileno()] = self._readable
        self._events = select.EPOLLIN
        self._epoll.register(self._socket.fileno(), self._events)
        self._send(messages.pack_hello(self._epoch))

    def _reap_runners(self) -> bool:
        """
        Take note of runners that were our children and have ended. Returns whether one has.
        """
        ended = False
        for child in list(self._children):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                ended = True
                self._children.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self._log.warning("runner_ended", pid=pid, exit_code=code)
        return ended

    def _start_runner(self, now: int) -> None:
        command = [sys.executable, "-P", "-m", "queuectld.runner.main", "--dir", self._directory]
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            pid = os.posix_spawn(
                sys.executable,
                command,
                # It has nothing to read from the environment, and its jobs bring their own.
                {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    # Not our stderr: the runner outlives us and must not hold a pipe of ours.
                    (
                        os.POSIX_SPAWN_OPEN,
                        1,
                        f"{self._directory}/log",
                        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                        0o600,
                    ),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP],
            )
        except OSError as error:
            self._log.error("runner_not_started", error=str(error))
            return
        self._children.add(pid)
        self._started_at = now
        self._retry_at = now + RETRY_MS_MIN
        self._log.info("runner_started", pid=pid)

    def _lost(self) -> None:
        assert self._socket is not None
        fd = self._socket.fileno()
        self._epoll.unregister(fd)
        del self._handlers[fd]
        self._socket.close()
        self._socket = None
        while self._outgoing:
            packet, fds = self._outgoing.popleft()
            request = messages.unpack_request(packet)
            if isinstance(request, messages.Start):
                self._unsent.add((request.job, request.attempt))
            _close_all(fds)
        self._starting.clear()
        self._known.clear()
        if self.ready:
            self._log.warning("runner_gone", pid=self.welcome.pid if self.welcome else None)
            self._failures = 0
        elif self.welcome is not None:
            self._log.error("runner_hung_up", speaks=self.welcome.version, ours=messages.VERSION)
        # One that is about to exit may accept and hang up; one that refuses us does so each time.
        self._retry_at = self._tried_at + min(RETRY_MS_MIN << self._failures, RETRY_MS_MAX)
        self._failures = min(self._failures + 1, 10)
        self.ready = False
        self.welcome = None
        self._event(RunnerGone())

    def close(self) -> None:
        """
        Hang up. The runner and its runs go on.
        """
        if self._socket is not None:
            self._flush()
            self._epoll.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # --- speaking ---------------------------------------------------------------------------

    def start(self, effect: StartRun) -> None:
        """
        Have an attempt started. A refusal comes back as an event.
        """
        key = (effect.number, effect.attempt)
        if self._socket is None:
            self._unsent.add(key)  # After the next greeting the queue starts it again.
            return
        fds: list[int] = []
        try:
            body = messages.pack_body(
                effect.cwd, effect.argv, effect.env, effect.script or "", effect.user
            )
            fds.append(self._output.create(*key))
            if len(body) > messages.BODY_INLINE_BYTES_MAX:
                fds.append(messages.memfd("body", body))
        except messages.BodyError as error:
            self._event(StartRefused(*key, error=f"could not start: {error}"))
        except OSError as error:
            _close_all(fds)
            passing = error.errno in PASSING_ERRNOS
            message = f"could not open its output file: {error.strerror}"
            self._event(StartRefused(*key, error=message, passing=passing))
        else:
            self._starting[key] = effect
            uid = messages.UID_OWN if effect.uid is None else effect.uid
            self._send(messages.pack_start(*key, effect.umask, body, uid), fds)

    def signal(self, number: int, attempt: int, signo: int) -> None:
        """
        Signal an attempt's whole process group.
        """
        self._send(messages.pack_signal(number, attempt, signo))

    def ack(self, number: int, attempt: int) -> None:
        """
        Tell that an attempt's end is on disk.
        """
        self._send(messages.pack_ack(number, attempt))

    def stop(self, grace_ms: int) -> None:
        """
        Have the runner end every run, then itself, and wait until it did.
        """
        if self._socket is None:
            return
        self._send(messages.pack_stop(grace_ms))
        self._socket.settimeout(grace_ms / 1000 + STOP_S_MAX)
        try:
            self._flush()
            while self._socket.recv(messages.MESSAGE_BYTES_MAX):
                pass  # How the runs end matters to nobody any more.
        except OSError as error:
            self._log.error("runner_not_stopped", error=str(error))
            return
        for child in self._children:
            os.waitpid(child, 0)

    def _send(self, packet: bytes, fds: list[int] | None = None) -> None:
        if self._socket is None:
            _close_all(fds or [])
            return
        self._outgoing.append((packet, fds or []))
        self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        while self._outgoing:
            packet, fds = self._outgoing[0]
            try:
                if fds:
                    socket.send_fds(self._socket, [packet], fds)
                else:
                    self._socket.send(packet)
            except BlockingIOError:
                self._watch(select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:
                return  # Its end of file follows, and with it _lost().
            _close_all(fds)
            self._outgoing.popleft()

    def _watch(self, events: int) -> None:
        assert self._socket is not None
        if events != self._events:
            self._events = events
            self._epoll.modify(self._socket.fileno(), events)

    # --- hearing ----------------------------------------------------------------------------

    def _readable(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._watch(select.EPOLLIN)  # Unless the rest does not fit either.
            self._flush()
        for _ in range(MESSAGES_PER_TURN_MAX):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(messages.MESSAGE_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            try:
                message = messages.unpack_event(data)
                if self.welcome is None and not isinstance(message, messages.Welcome):
                    raise messages.MessageError("the first message was no WELCOME")
            except messages.MessageError as error:
                self._log.error("runner_not_understood", error=str(error))
                self._lost()
                return
            self._hear(message)

    def _hear(self, message: messages.Event) -> None:
        if isinstance(message, messages.Exited):
            # The first that is heard of a short run.
            self._note(message.job, message.attempt)
            self._event(run_exited(message))
        elif isinstance(message, messages.Running):
            self._note(message.job, message.attempt)
            self._event(RunSpawned(message.job, message.attempt, message.pid))
        elif isinstance(message, messages.Refused):
            self._refused(message)
        elif isinstance(message, messages.Welcome):
            self.welcome = message
            self._started_at = None
        else:
            assert self.welcome is not None
            self.ready = True
            ledger_epoch = self.welcome.ledger_epoch
            process = self.welcome.pid, self.welcome.started_at
            if self._listed not in (None, process) and ledger_epoch == self._epoch:
                # A ledger that began in this daemon's own life may be the one that the runner
                # before kept, or one made after that was lost: then it cannot vouch for our starts.
                # That of a runner which is still the same process, renewed or not, is the same.
                ledger_epoch = 0
            self._listed = process
            self._event(RunnerReady(frozenset(self._known), ledger_epoch, frozenset(self._unsent)))
            self._unsent.clear()
            self._known.clear()

    def _note(self, number: int, attempt: int) -> None:
        """
        Take note of an attempt that the runner has made a process of.
        """
        if not self.ready:
            self._known.add((number, attempt))
        self._starting.pop((number, attempt), None)

    def _refused(self, message: messages.Refused) -> None:
        key = (message.job, message.attempt)
        effect = self._starting.pop(key, None)
        if message.stage == messages.DUPLICATE:
            fields = self._describe(message.job)
            self._log.error("start_refused_twice", **fields, attempt=message.attempt)
            return
        reason = os.strerror(message.errno) if message.errno else messages.STAGES[message.stage]
        passing = message.errno in PASSING_ERRNOS or message.stage == messages.STOPPING
        # Asked again, the account would be the same and the policy say the same.
        final = message.stage in (messages.ACCOUNT, messages.POLICY)
        exit_code = None
        if final:
            reason = message.explain(effect.user if effect is not None else "")
        elif message.stage == messages.SWITCH:
            reason = f"cannot become its account: {reason}"
        elif effect is not None and message.stage == messages.CWD:
            reason = f"cannot enter {excerpt(effect.cwd)}: {reason}"
        elif effect is not None and message.stage == messages.EXEC:
            program = "the script" if effect.script else excerpt(effect.argv[0])
            reason = f"{program}: {reason}"
            not_found = message.errno in (errno.ENOENT, errno.ENOTDIR)
            exit_code = EXIT_NOT_FOUND if not_found else EXIT_NOT_EXECUTABLE
        error = f"could not start: {reason}"
        self._event(StartRefused(*key, error, exit_code, passing, final))


def run_exited(message: messages.Exited) -> RunExited:
    """
    Return the event that an EXITED message is.
    """
    exit_code = signo = None
    if message.known and os.WIFSIGNALED(message.status):
        signo = os.WTERMSIG(message.status)
    elif message.known:
        exit_code = os.WEXITSTATUS(message.status)
    usage = message.usage_known
    return RunExited(
        message.job,
        message.attempt,
        exit_code=exit_code,
        signal=signo,
        user_ms=message.utime_us // 1000 if usage else None,
        system_ms=message.stime_us // 1000 if usage else None,
        memory_max_bytes=message.maxrss_kib * 1024 if usage else None,
    )


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
