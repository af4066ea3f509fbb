"""
The runner: one thread, one epoll loop. It serves one daemon at a time, and outlives it.

Invariants
1. One daemon: the connection whose HELLO came last, of the highest epoch. A HELLO of a lower epoch
   is refused, so what a replaced daemon still has in its socket never happens.
2. Nothing waits but epoll: a peer that does not read is cut off, and told everything again when it
   comes back.
3. What wants another look (a run that is unsettled or untold, a ledger without room, a connection
   without a descriptor) gets one every LOOK_MS, and only while there is such a thing.
"""

import os
import select
import signal
import socket
from collections.abc import Callable

from queuectl import __version__
from queuectld.runner import messages
from queuectld.runner.accounts import Accounts
from queuectld.runner.clock import monotonic_ms, now_ms
from queuectld.runner.connection import Connection, PeerGoneError, close_all
from queuectld.runner.endpoint import peer_uid
from queuectld.runner.fd_store import FdStore
from queuectld.runner.ledger import Ledger
from queuectld.runner.renewal import Inheritance, Renewal
from queuectld.runner.runs import Runs
from queuectld.runner.spawn import Spawner

LOOK_MS = 50
#: From SIGTERM to SIGKILL when the runner itself is told to end.
GRACE_MS = 10_000
#: How long a runner that may leave waits for its first daemon, and for the next after one left.
FIRST_HELLO_MS = 10_000
NEXT_HELLO_MS = 1_000
#: Messages that may wait for a daemon beyond the list after WELCOME. Past it the connection is
#: closed: the next HELLO brings everything again.
OUTBOX_COUNT_MAX = 4096
#: Connections that have not said HELLO.
STRANGERS_COUNT_MAX = 8
#: Messages read in a row before the loop looks at anything else.
BURST_COUNT_MAX = 64

_FOREVER_MS = -1000  # epoll's word for it: any negative time


class Runner:
    """
    Serves `listener` until told to stop, or, unless `stay`, until it is of no more use: no daemon
    and no run. The daemon is root, or `daemon_uid`, and has jobs started under `accounts`, or, if
    there are none, under our own; `executor_fd` is executor.c's program, if it is there. The
    numbers of SIGTERM, SIGINT and SIGHUP arrive as bytes on `wakeup_fd`; at SIGHUP `renewal` brings
    in the new version. `store` keeps pidfds for the next runner, `inheritance` is what the one
    before left. `complain` takes a line for people. Raises `OSError` when there is no room to watch
    all that the ledger holds.
    """

    def __init__(
        self,
        listener: socket.socket,
        wakeup_fd: int,
        ledger: Ledger,
        renewal: Renewal,
        complain: Callable[[str], None],
        stay: bool = False,
        daemon_uid: int | None = None,
        accounts: Accounts | None = None,
        executor_fd: int | None = None,
        store: FdStore | None = None,
        inheritance: Inheritance | None = None,
    ) -> None:
        self._listener = listener
        self._wakeup_fd = wakeup_fd
        self._ledger = ledger
        self._renewal = renewal
        self._complain = complain
        self._stay = stay
        self._peers = (0, os.geteuid() if daemon_uid is None else daemon_uid)
        self._store = store or FdStore("")
        inheritance = inheritance or Inheritance()
        self._started_at = inheritance.started_at or now_ms()
        self._daemon: Connection | None = None
        self._strangers: dict[int, Connection] = {}
        self._outbox_count_max = OUTBOX_COUNT_MAX
        #: From here on a runner that is of no use leaves, in monotonic ms as all that follow.
        self._leave_at = monotonic_ms() + FIRST_HELLO_MS
        #: Once the runner is ending: when what still lives is killed; None once it was.
        self._kill_at: int | None = None
        self._look_at = 0
        self._epoll = select.epoll()
        self._epoll.register(wakeup_fd, select.EPOLLIN)
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._is_listening = True
        self._spawner = Spawner()
        self._runs = Runs(
            self._epoll, ledger, self._spawner, self._send, accounts, executor_fd, self._store
        )
        self._runs.adopt(inheritance)

    def run(self) -> None:
        """
        The loop.
        """
        now = monotonic_ms()
        while not self._is_finished(now):
            due_at = self._next_at()
            timeout_ms = _FOREVER_MS if due_at is None else max(0, due_at - now)
            for fd, events in self._epoll.poll(timeout_ms / 1000):
                # A HELLO may close the connection that another event of this round is about, so
                # the rest waits for the next round.
                if self._handle(fd, events):
                    break
            now = monotonic_ms()
            # What has come to be due meanwhile is so at the next round, which does not sleep.
            if due_at is not None and now >= due_at:
                self._look(now)
        # What it sent meanwhile is refused, not left to be taken for lost.
        self._hear_out()

    def _is_finished(self, now: int) -> bool:
        is_stopping = self._runs.is_stopping
        if not is_stopping and (self._stay or self._daemon is not None or self._ledger.is_waiting):
            return False
        return len(self._runs) == 0 and (is_stopping or now >= self._leave_at)

    def _wants_look(self) -> bool:
        return self._runs.wants_look or self._ledger.is_waiting or not self._is_listening

    def _next_at(self) -> int | None:
        """
        When to call `_look` next, or to leave; None: something has to happen first.
        """
        own_at = None
        if self._wants_look():
            own_at = self._look_at
        elif not (self._stay or self._daemon is not None or len(self._runs) > 0):
            own_at = self._leave_at
        due_at = None
        for at in (self._kill_at, self._store.next_at(), self._renewal.next_at(), own_at):
            if at is not None and (due_at is None or at < due_at):
                due_at = at
        return due_at

    def _handle(self, fd: int, events: int) -> bool:
        if self._daemon is not None and fd == self._daemon.fd:
            self._serve(self._daemon, events)
        elif self._runs.take_event(fd):
            pass
        elif fd in self._strangers:
            return self._meet(self._strangers[fd])
        elif fd == self._listener.fileno():
            self._accept()
        elif fd == self._renewal.check_fd:
            self._renew()
            return True
        elif fd == self._wakeup_fd:
            signos = os.read(fd, 4096)
            if signal.SIGTERM in signos or signal.SIGINT in signos:
                self._stop(GRACE_MS)
            if signal.SIGHUP in signos:
                self._ask_renewal()
        return False

    def _look(self, now: int) -> None:
        self._store.attend(now)
        self._renewal.attend(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._runs.kill()
        if now >= self._look_at and self._wants_look():
            self._look_at = now + LOOK_MS
            self._runs.look()
            self._ledger.try_flush()
            if not self._is_listening:
                self._epoll.register(self._listener.fileno(), select.EPOLLIN)
                self._is_listening = True

    def _stop(self, grace_ms: int) -> None:
        kill_at = monotonic_ms() + grace_ms
        if not self._runs.is_stopping:
            self._runs.terminate()
            self._kill_at = kill_at
        elif self._kill_at is not None:
            self._kill_at = min(self._kill_at, kill_at)

    def _ask_renewal(self) -> None:
        if self._runs.is_stopping:
            return  # There is nothing to go on with.
        try:
            self._renewal.ask(self._epoll)
        except OSError as error:
            self._complain(f"not renewed: {error}")

    def _renew(self) -> None:
        try:
            if self._renewal.end_check(self._epoll):
                self._hear_out()
                if not self._runs.is_stopping:
                    self._become_new()
        except OSError as error:
            self._complain(f"not renewed: {error}; everything stays as it was")

    def _hear_out(self) -> None:
        """
        Do all that the daemon has sent, and hang up. It knows what it could not send after that.
        """
        daemon = self._daemon
        if daemon is None:
            return
        daemon.refuse_more()
        while self._daemon is daemon:
            self._serve(daemon, select.EPOLLIN | select.EPOLLOUT)

    def _become_new(self) -> None:
        inheritance = self._runs.hand_over()
        if inheritance is None:
            self._complain("not renewed: descriptors ran out; try again when fewer jobs run")
            return
        if not self._ledger.is_whole():
            self._complain("not renewed: the ledger's disk is full, or somebody removed the ledger")
            return
        inheritance = inheritance._replace(
            listener_fd=self._listener.fileno(), started_at=self._started_at
        )
        self._renewal.execute(inheritance, self._spawner.nofile)

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # No descriptor for it: it waits in the backlog, and we try again at the next look.
            self._epoll.unregister(self._listener.fileno())
            self._is_listening = False
            return
        uid = peer_uid(connected)
        if uid not in self._peers:
            self._complain(f"closed a connection of uid {uid}")
            connected.close()
            return
        if len(self._strangers) == STRANGERS_COUNT_MAX:
            self._close(next(iter(self._strangers.values())), "never said HELLO")
        connection = Connection(connected)
        self._strangers[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _close(self, connection: Connection, reason: str = "") -> None:
        if reason:
            self._complain(f"closed a connection: {reason}")
        self._strangers.pop(connection.fd, None)
        if connection is self._daemon:
            self._daemon = None
            self._leave_at = monotonic_ms() + NEXT_HELLO_MS
        self._epoll.unregister(connection.fd)
        connection.close()

    def _meet(self, stranger: Connection) -> bool:
        try:
            received = stranger.receive()
            if received is None:
                return False
            data, fds, _ = received
            close_all(fds)
            hello = messages.unpack_request(data)
        except PeerGoneError:
            self._close(stranger)
            return False
        except messages.MessageError as error:
            self._close(stranger, str(error))
            return False
        if not isinstance(hello, messages.Hello):
            self._close(stranger, "the first message was no HELLO")
        elif hello.epoch < self._ledger.epoch_max:
            self._close(stranger, f"epoch {hello.epoch} is over, {self._ledger.epoch_max} was seen")
        else:
            self._greet(stranger, hello)
            return True
        return False

    def _greet(self, daemon: Connection, hello: messages.Hello) -> None:
        if hello.version == messages.VERSION:
            if self._daemon is not None:
                self._close(self._daemon)
            del self._strangers[daemon.fd]
            self._daemon = daemon
            self._ledger.greet(hello.epoch)
        welcome = messages.Welcome(
            messages.VERSION,
            os.getpid(),
            self._started_at,
            self._ledger.ledger_epoch,
            __version__,
        )
        if daemon is not self._daemon:
            # WELCOME tells it the version that would have done.
            try:
                daemon.send(messages.pack_welcome(welcome))
            except PeerGoneError:
                pass
            self._close(daemon, f"speaks version {hello.version}, not {messages.VERSION}")
            return
        announcements = self._runs.announce()
        self._outbox_count_max = OUTBOX_COUNT_MAX + len(announcements)
        self._send(messages.pack_welcome(welcome))
        for message in announcements:
            self._send(message)
        self._send(messages.pack_ready())

    def _send(self, message: bytes) -> None:
        daemon = self._daemon
        if daemon is None:
            return
        try:
            daemon.send(message)
        except PeerGoneError:
            self._close(daemon)
            return
        waiting_count = len(daemon.outbox)
        if waiting_count > self._outbox_count_max:
            self._close(daemon, f"it left {waiting_count} messages unread")
        elif waiting_count == 1:
            self._epoll.modify(daemon.fd, select.EPOLLIN | select.EPOLLOUT)

    def _serve(self, daemon: Connection, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                daemon.flush()
                if not daemon.outbox:
                    self._epoll.modify(daemon.fd, select.EPOLLIN)
            for _ in range(BURST_COUNT_MAX):
                received = daemon.receive()
                if received is None:
                    return
                self._obey(*received)
                if self._daemon is not daemon:
                    return
        except PeerGoneError:
            self._close(daemon)
        except messages.MessageError as error:
            self._close(daemon, str(error))

    def _obey(self, data: bytes, fds: list[int], is_cut: bool) -> None:
        try:
            request = messages.unpack_request(data)
            if isinstance(request, messages.Start):
                self._runs.start(request, fds, is_cut)
            elif fds:
                raise messages.MessageError("descriptors with a message that has none")
            elif isinstance(request, messages.Ack):
                self._runs.acknowledge(request.job, request.attempt)
            elif isinstance(request, messages.Signal):
                self._runs.signal(request.job, request.attempt, request.signo)
            elif isinstance(request, messages.Stop):
                self._stop(request.grace_ms)
            else:
                raise messages.MessageError("a second HELLO")
        finally:
            if fds:
                close_all(fds)
