"""
The loop: gather what happened, decide, remember, and only then do.

One turn: epoll says what is ready; reading it appends events; each event is decided by the queue,
and its records and effects join the *gathering*. When no batch is in flight the gathering becomes
the next one. Its effects are performed when it is on disk. So there is exactly one place where
effects begin, perform(), and it is only reached with everything before on disk.

A reply to a query changes nothing, but it shows what was decided before it: it waits for the batch
in flight, or the gathering, as if it had records. Nobody sees what a crash could undo. One
exception: while the disk is full the batch in flight may wait for hours, and people must be able to
look; what looks confirms nothing.
"""

import os
import select
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from queuectl.protocol import Refused
from queuectld.core.admission import BATCH_RECORDS_BYTES_MAX
from queuectld.core.effects import (
    AckExit,
    DeleteOutput,
    Effect,
    EndToken,
    Reply,
    SignalRun,
    StartRun,
    StopDaemon,
)
from queuectld.core.events import ClockStepped, Event, Requested, StorageChanged, TimerFired
from queuectld.core.peer import Peer
from queuectld.core.queue import Queue
from queuectld.core.refusal import Refusal
from queuectld.core.requests import refused
from queuectld.core.scopes import permit
from queuectld.journal.errors import JournalFailed, JournalFull
from queuectld.journal.frames import BATCH_BYTES_MAX
from queuectld.journal.journal import Journal
from queuectld.runtime.clock import Clock
from queuectld.runtime.committer import Committer
from queuectld.runtime.gathering import LOOKS, Gathering, is_look
from queuectld.runtime.housekeeping import Housekeeping
from queuectld.runtime.job_log import JobLog
from queuectld.runtime.lookups import look_up
from queuectld.runtime.meters import Meters
from queuectld.runtime.output import OutputStore
from queuectld.runtime.reports import REPORTS
from queuectld.runtime.runner_link import RunnerLink
from queuectld.runtime.server import Server
from queuectld.runtime.status import status_line
from queuectld.runtime.systemd import ServiceManager
from queuectld.runtime.telling import TELLING, Telling

# How long whoever starts a daemon waits for its runner.
READY_MS_MAX = 2_000
# How long the loop sleeps at most: a clock that was set or a suspended machine is noticed by then.
SLEEP_MS_MAX = 30_000
# The same while jobs wait for a time by wall clock.
SLEEP_SCHEDULED_MS_MAX = 1_000
# A batch of this size goes to disk before more is decided: what gathers must stay a batch. The
# largest request may add BATCH_RECORDS_BYTES_MAX to it and the heads of so many records, and should
# the disk then be full, there must be room left for the ends of all runs.
GATHER_BYTES_MAX = BATCH_BYTES_MAX - BATCH_RECORDS_BYTES_MAX - (1536 << 10)
# A task of the journal that takes longer is a disk that hangs: the sign of life stops.
COMMIT_S_MAX = 30.0
# Time given to the jobs of a throw-away daemon between SIGTERM and SIGKILL.
THROW_AWAY_GRACE_MS = 2_000


class Daemon:
    """
    Owns the queue. Built by main.py, which has recovered the journal already.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        journal: Journal,
        clock: Clock,
        state_dir: str,
        mode: str,
        version: str,
        log: Any,
        manager: ServiceManager,
        job_log: JobLog,
        throw_away: bool = False,
    ) -> None:
        self.queue = queue
        self.journal = journal
        self.clock = clock
        self.state_dir = state_dir
        self.mode = mode
        self.version = version
        self.log = log
        self.manager = manager
        self.throw_away = throw_away
        self.started_at = clock.now()
        self.failed = False
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.meters = Meters()
        self.committer = Committer()
        self.watch(self.committer.wake_fd, self._committed)
        self.output = OutputStore(f"{state_dir}/output")
        self.housekeeping = Housekeeping(self)
        ways = clock.now, self.reply, self._send, self._may_stream
        self.telling = Telling(queue, self.output, self.housekeeping, job_log, *ways)
        self.server: Server | None = None
        self.runner: RunnerLink | None = None
        self._stopping = False
        self._turn_at = self.started_at
        self._events: list[Event] = []
        self._gathering = Gathering()
        #: The one batch that is on its way to the disk.
        self._in_flight: Gathering | None = None
        #: Whether the committer's task is that batch, not one of the housekeeping's.
        self._committing = False
        self._storage_full = False
        self._tell_ready: Callable[[], None] | None = None

    # --- wiring, used by main.py ------------------------------------------------------------

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        """
        Call *handler* with the epoll events when *fd* is readable.
        """
        self.handlers[fd] = handler
        self.epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """
        Stop watching *fd*.
        """
        self.epoll.unregister(fd)
        del self.handlers[fd]

    def listen(self, server: Server) -> None:
        """
        Serve clients from now on.
        """

        def handle(client: int, peer: Peer, request: Any) -> None:
            self._events.append(Requested(client, request, peer, look_up(request, peer)))

        server.handle = handle
        server.gone = self.telling.client_gone
        self.server = server

    def when_ready(self, tell: Callable[[], None]) -> None:
        """
        Call *tell* once jobs can be started, or after READY_MS_MAX: then clients are served all the
        same, and hear what is missing.
        """
        self._tell_ready = tell

    def event(self, event: Event) -> None:
        """
        Have an event decided in this turn.
        """
        self._events.append(event)

    def stop(self) -> None:
        """
        End the loop after this turn.
        """
        self._stopping = True

    @property
    def idle(self) -> bool:
        """
        Whether everything that was decided is on disk and the committer is free.
        """
        return not self.committer.busy and not self._gathering.records

    # --- the loop ---------------------------------------------------------------------------

    def run(self) -> None:
        """
        Serve until stopped. Raises JournalFailed when the disk fails.
        """
        try:
            while not self._stopping:
                for fd, events in self.epoll.poll(self._sleep_s()):
                    handler = self.handlers.get(fd)
                    if handler is not None:
                        handler(events)
                self.turn()
            self._finish()
        finally:
            if self.runner is not None:
                if self.throw_away:
                    self.runner.stop(THROW_AWAY_GRACE_MS)
                self.runner.close()

    def turn(self) -> None:
        """
        Decide everything that happened, and hand it to the disk.
        """
        now = self._turn_at = self.clock.now()
        while self._events:
            events, self._events = self._events, []
            for event in events:
                self._decide(event, now)
                if self._gathering.packed_bytes > GATHER_BYTES_MAX:
                    self._commit_and_wait()
        self._submit()
        if self._tell_ready is not None:
            self._look_whether_ready(now, self._tell_ready)
        self.telling.attend(now)
        if self.server is not None:
            self.server.flush(now)

    def _look_whether_ready(self, now: int, tell: Callable[[], None]) -> None:
        connected = self.runner is not None and self.runner.ready
        if connected or now >= self.started_at + READY_MS_MAX:
            self._tell_ready = None
            tell()

    def _sleep_s(self) -> float:
        """
        Do what is due, and return how long the loop may sleep after that.

        Between the turns, so that what a turn is about does not wait for it.
        """
        now = self.clock.now()
        if now != self._turn_at:
            self.meters.turned(now - self._turn_at)
        due_at = None if self._crowded else self.queue.next_deadline()
        self._look_at_clocks(now, due_at)
        if self._events:
            return 0
        waiting = bool(self.queue.state.members["scheduled"])
        sleep_ms = SLEEP_SCHEDULED_MS_MAX if waiting else SLEEP_MS_MAX
        for deadline in (
            None if self._tell_ready is None else self.started_at + READY_MS_MAX,
            due_at,
            self.runner.next_deadline() if self.runner is not None else None,
            self.server.next_deadline() if self.server is not None else None,
            self.housekeeping.next_deadline(),
            self.telling.next_deadline(now),
            self.manager.next_deadline(),
        ):
            if deadline is not None and deadline - now < sleep_ms:
                sleep_ms = deadline - now
        return max(sleep_ms, 0) / 1000

    def _look_at_clocks(self, now: int, due_at: int | None) -> None:
        offset_ms = self.clock.stepped(now)
        if offset_ms is not None:
            self.log.warning("clock_stepped", offset_ms=offset_ms)
            self.event(ClockStepped(offset_ms))
        if self.runner is not None:
            self.runner.attend(now)
        if self.server is not None:
            self.server.attend(now)
        self.housekeeping.attend(now)
        self.manager.attend(now, healthy=self._healthy(), status=lambda: status_line(self))
        if due_at is not None and due_at <= now:
            self.event(TimerFired())

    def _healthy(self) -> bool:
        """
        Whether the disk takes what it is given, as far as can be told. That it is full is no fault.
        """
        committer = self.committer
        return not committer.busy or time.monotonic() - committer.busy_since_s < COMMIT_S_MAX

    def _decide(self, event: Event, now: int) -> None:
        if type(event) is Requested and not self._for_the_queue(event, now):
            return
        records, effects = self.queue.handle(event, now)
        if records:
            self._gathering.add(records, self.queue.stored)
        self._later(effects)

    def _for_the_queue(self, event: Requested, now: int) -> bool:
        """
        Answer what the queue cannot, or must not now. Returns whether it is the queue's.
        """
        request = event.request
        if event.peer.token is not None:
            try:
                permit(self.queue.state, event.peer, type(request), now)
            except Refusal as refusal:
                self.reply(event.client, refused(request.call, refusal))
                return False
        if type(request) in REPORTS:
            report = REPORTS[type(request)]
            self.reply(event.client, report(self, request.call, now, event.peer))
            return False
        if self.housekeeping.waits_for_room and self._crowded and not isinstance(request, LOOKS):
            message = "the disk of the journal is full; make room, then try again"
            self.reply(event.client, Refused(call=request.call, code="try_later", message=message))
            return False
        return True

    @property
    def _crowded(self) -> bool:
        """
        Whether, on a full disk, more waits than may: what gathers must stay a batch. What is left
        after that is for the ends of runs, of which there are only so many. As long as the queue
        does not know that the disk is full it takes requests of any size.
        """
        return self.housekeeping.waits_for_room and (
            not self.queue.storage_full or self._gathering.packed_bytes > GATHER_BYTES_MAX
        )

    def reply(self, client: int, response: Any) -> None:
        """
        Answer a client once everything decided so far is on disk.
        """
        self._later([Reply(client, response)])

    def _later(self, effects: Sequence[Effect]) -> None:
        if self.housekeeping.waits_for_room:
            for effect in filter(is_look, effects):
                self.perform(effect)
            effects = [effect for effect in effects if not is_look(effect)]
        if self._gathering.records:
            self._gathering.effects += effects
        elif self._in_flight is not None:
            self._in_flight.effects += effects
        else:
            for effect in effects:
                self.perform(effect)

    # --- remembering ------------------------------------------------------------------------

    def _submit(self) -> None:
        if self._gathering.records and self._in_flight is None and not self.committer.busy:
            self._in_flight, self._gathering = self._gathering, Gathering()
            self.commit_in_flight()

    def commit_in_flight(self) -> None:
        """
        Hand the batch in flight to the disk, for the first time or, after JournalFull, again.
        """
        assert self._in_flight is not None
        self._committing = True
        task = partial(self.journal.commit, self._in_flight.packed())
        if self.committer.is_quick and not self._has_more_to_do:
            self._settle(*self.committer.run(task))
        else:
            self.committer.submit(task)

    @property
    def _has_more_to_do(self) -> bool:
        return bool(self._events) or (self.server is not None and self.server.is_backlogged)

    def _committed(self, _events: int) -> None:
        outcome = self.committer.collect()
        if outcome is not None:
            self._settle(*outcome)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        """
        Go on after the committer's task: perform the batch's effects, or see what failed.
        """
        batch = None
        if self._committing:
            self._committing = False
            if isinstance(error, JournalFull):
                # Nothing of it was written: the same batch is tried again when there is room.
                self.housekeeping.found_no_room()
                self._answer_looks()
                self._note_storage()
                return
            batch, self._in_flight = self._in_flight, None
        if isinstance(error, JournalFailed):
            self._storage_failed(batch, error)
        if batch is None:
            self.housekeeping.done(result, error)
        elif error is not None:
            raise error
        else:
            now = self.clock.now()
            self.housekeeping.committed(now)
            self.meters.committed.append((len(batch.records), self.committer.span_s))
            # Starts first: a slot idles until then.
            for effect in batch.effects:
                if type(effect) is StartRun:
                    self.perform(effect)
            for effect in batch.effects:
                if type(effect) is not StartRun:
                    self.perform(effect)
            self.telling.tell(batch.records, now)
        self._note_storage()
        self._submit()

    def _answer_looks(self) -> None:
        """
        Answer who only looks and was to wait for a batch that now waits for room, perhaps for long.
        """
        for gathering in (self._in_flight, self._gathering):
            for effect in gathering.take_looks() if gathering is not None else ():
                self.perform(effect)

    def _note_storage(self) -> None:
        full = self.journal.full or self.housekeeping.waits_for_room
        if full:
            self.housekeeping.storage_is_full()
        if full != self._storage_full:
            self._storage_full = full
            self.log.warning("storage_full" if full else "storage_has_room")
            self.event(StorageChanged(full))

    def _commit_and_wait(self) -> None:
        """
        Bring the gathering to disk before anything else is decided, or find out that it is full.
        """
        self._submit()
        while self.committer.busy:
            outcome = self.committer.collect(wait=True)
            assert outcome is not None
            self._settle(*outcome)

    def _storage_failed(self, batch: Gathering | None, error: JournalFailed) -> None:
        """
        The disk failed: tell everybody who waits for it, then end. Nothing may be confirmed.
        """
        self.failed = True
        message = "not confirmed stored; the daemon ends. Repeat it with the same request id"
        for gathering in (batch, self._gathering):
            for effect in gathering.effects if gathering is not None else ():
                if isinstance(effect, Reply) and self.server is not None:
                    refused = Refused(call=effect.response.call, code="storage", message=message)
                    self.server.reply(effect.client, refused)
        if self.server is not None:
            self.server.close()
        raise error

    # --- doing ------------------------------------------------------------------------------

    def perform(self, effect: Effect) -> None:
        """
        Do what was decided. Everything that was decided before it is on disk.
        """
        if type(effect) is Reply:
            if self.server is not None:
                self.server.reply(effect.client, effect.response)
        elif type(effect) is AckExit:
            if self.runner is not None:
                self.runner.ack(effect.number, effect.attempt)
        elif type(effect) is StartRun:
            if self.runner is not None:
                self.runner.start(effect)
        elif type(effect) is SignalRun:
            if self.runner is not None:
                self.runner.signal(effect.number, effect.attempt, effect.signal)
        elif type(effect) in TELLING:
            self.telling.perform(effect)
        elif type(effect) is EndToken:
            if self.server is not None:
                self.server.end_token(effect.token)
        elif type(effect) is DeleteOutput:
            self.output.delete(effect.number, effect.attempts)
        else:
            assert isinstance(effect, StopDaemon), effect
            self.stop()

    def _send(self, client: int, response: Any) -> None:
        if self.server is not None:
            self.server.reply(client, response)

    def _may_stream(self, client: int) -> bool | None:
        return None if self.server is None else self.server.may_stream(client)

    # --- ending -----------------------------------------------------------------------------

    def _finish(self) -> None:
        """
        Answer what is pending, sync, and let everything go. Running jobs go on.
        """
        self.manager.stopping()
        if self.server is not None:
            self.server.stop_listening()
        self.housekeeping.stop()
        self._commit_and_wait()
        if self.server is not None:
            self.server.close()
        self.committer.close()
        self.journal.close()
        self.log.info("daemon_stopped", pid=os.getpid())
