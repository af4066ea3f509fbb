"""
What the daemon does beside its work: all of it rare, none of it in a client's way.

- A sealing frame one second after the last batch, and the timed sync of durability "interval".
- Snapshots: rotate, have a separate process merge the sealed segments, take the result into use.
- A full disk: try every second to grow the journal again, and the batch that found no room.
- Output: the size of running attempts' files against the limit, every second and at their end;
  what goes to the system's journal too (forwarding.py); and once after the start, one folder a
  second, files that belong to no job (their deletion was cut off by a crash).
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from queuectld.core.records import Record, RunEnded, RunStarted
from queuectld.core.timers import earliest
from queuectld.journal.errors import JournalCorrupt, JournalFull
from queuectld.runtime.clock import wall_ms
from queuectld.runtime.forwarding import Forwarding
from queuectld.runtime.job_log import job_fields

if TYPE_CHECKING:
    from queuectld.runtime.daemon import Daemon

SEAL_AFTER_MS = 1_000
SYNC_INTERVAL_MS = 50
FULL_RETRY_MS = 1_000
OUTPUT_CHECK_MS = 1_000
# A snapshot that failed is tried again after this; the journal only grows meanwhile.
SNAPSHOT_RETRY_MS = 60_000


class Housekeeping:
    """
    Timers and small state of the above. Uses the committer while no batch needs it.
    """

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self.snapshot_at: int | None = None
        #: The batch in flight found no room on the disk and is tried again until it does.
        self.waits_for_room = False
        self._retry_at: int | None = None
        self._seal_at: int | None = None
        self._sync_at: int | None = None
        self._output_at: int | None = None
        self._snapshot_after = 0
        self._check_snapshot = True
        self._compactor_fd: int | None = None
        self._compactor_pid = 0
        self._compactor_ended = False
        self._then: Callable[[Any, BaseException | None], None] | None = None
        self._unswept = daemon.output.buckets()
        self._unpunchable = False
        self._forwarding = Forwarding(daemon.queue.state, daemon.output, daemon.log)

    def next_deadline(self) -> int | None:
        """
        When to call attend() next. It is called anyway when the committer becomes free.
        """
        output_at, forwarding_at = self._output_at, self._forwarding.next_deadline()
        if self._daemon.committer.busy:
            return earliest(output_at, forwarding_at)
        return earliest(output_at, forwarding_at, self._retry_at, self._seal_at, self._sync_at)

    def attend(self, now: int) -> None:
        """
        Do what is due.
        """
        daemon = self._daemon
        running = daemon.queue.state.members["processing"]
        self._forwarding.attend(now)
        if self._output_at is not None and now >= self._output_at:
            self._output_at = None
            self._check_running()
            self._sweep_one()
        if self._output_at is None and (running or self._unswept):
            self._output_at = now + OUTPUT_CHECK_MS
        if daemon.committer.busy:
            return
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_full()
        elif self._sync_at is not None and now >= self._sync_at:
            self._sync_at = None
            self._submit(daemon.journal.sync)
        elif self._seal_at is not None and now >= self._seal_at:
            self._seal_at = None
            self._submit(daemon.journal.seal)
        elif self._compactor_ended:
            self._compactor_ended = False
            self._reap_compactor()
        elif self._check_snapshot and self._compactor_fd is None and now >= self._snapshot_after:
            self._check_snapshot = False
            self._snapshot_if_wanted(now)

    def committed(self, now: int) -> None:
        """
        A batch reached the journal.
        """
        self.waits_for_room = False
        self._seal_at = now + SEAL_AFTER_MS
        self._check_snapshot = True
        if self._daemon.journal.durability == "interval" and self._sync_at is None:
            self._sync_at = now + SYNC_INTERVAL_MS

    def told(self, record: Record, now: int) -> None:
        """
        A record is on disk: attempts that start and end have output.
        """
        if type(record) is RunStarted:
            self._forwarding.started(record)
        elif type(record) is RunEnded:
            self._forwarding.ended(record, now)
            self._check_output(record.number, record.attempt)

    def done(self, result: Any, error: BaseException | None) -> None:
        """
        The committer finished a task of ours.
        """
        then, self._then = self._then, None
        if then is not None:
            then(result, error)
        elif error is not None and not isinstance(error, JournalFull):
            raise error

    def stop(self) -> None:
        """
        Begin nothing more. A snapshot under way is left to itself: the next start removes it.
        """
        self._forwarding.stop(self._daemon.clock.now())
        self._seal_at = self._sync_at = self._output_at = None
        if self._compactor_fd is not None and not self._compactor_ended:
            self._daemon.unwatch(self._compactor_fd)
            os.close(self._compactor_fd)
        self._compactor_fd = None
        self._compactor_ended = False

    def _submit(
        self,
        task: Callable[[], Any],
        then: Callable[[Any, BaseException | None], None] | None = None,
    ) -> None:
        self._then = then
        self._daemon.committer.submit(task)

    # --- a full disk ------------------------------------------------------------------------

    def found_no_room(self) -> None:
        """
        Try the batch in flight again later: there was no room for it.
        """
        self.waits_for_room = True

    def storage_is_full(self) -> None:
        """
        Look again later: nothing else might tell that there is room.
        """
        if self._retry_at is None:
            self._retry_at = self._daemon.clock.now() + FULL_RETRY_MS

    def _retry_full(self) -> None:
        daemon = self._daemon
        self._retry_at = None
        if self.waits_for_room:
            daemon.commit_in_flight()
        elif daemon.journal.full:
            self._submit(daemon.journal.try_extend)

    # --- snapshots --------------------------------------------------------------------------

    def _snapshot_if_wanted(self, now: int) -> None:
        journal = self._daemon.journal
        if journal.wants_snapshot() and not journal.full:
            self._snapshot_after = now + SNAPSHOT_RETRY_MS
            self._submit(journal.rotate, self._start_compactor)

    def _start_compactor(self, rotated: Any, error: BaseException | None) -> None:
        if error is not None:
            raise error
        if not rotated:
            return  # No room for another segment: the disk is full.
        command = self._daemon.journal.snapshot_command()
        try:
            pid = os.posix_spawn(command[0], command, dict(os.environ), setsid=True)
            self._compactor_fd = os.pidfd_open(pid)
        except OSError as spawn_error:
            self._daemon.log.error("snapshot_not_started", error=str(spawn_error))
            self._submit(self._daemon.journal.abandon_snapshot)
            return
        self._compactor_pid = pid
        self._daemon.watch(self._compactor_fd, self._compactor_readable)

    def _compactor_readable(self, _events: int) -> None:
        assert self._compactor_fd is not None
        self._daemon.unwatch(self._compactor_fd)
        os.close(self._compactor_fd)
        self._compactor_ended = True

    def _reap_compactor(self) -> None:
        daemon = self._daemon
        self._compactor_fd = None
        _, status = os.waitpid(self._compactor_pid, 0)
        if status == 0:
            self._submit(daemon.journal.finish_snapshot, self._snapshot_taken)
        else:
            daemon.log.error("snapshot_failed", status=status)
            self._submit(daemon.journal.abandon_snapshot)

    def _snapshot_taken(self, name: Any, error: BaseException | None) -> None:
        if error is None:
            self.snapshot_at = wall_ms()
            self._snapshot_after = 0
            self._daemon.log.info("snapshot_taken", file=name)
        elif isinstance(error, JournalCorrupt | OSError):
            self._daemon.log.error("snapshot_failed", error=str(error))
        else:
            raise error

    # --- output -----------------------------------------------------------------------------

    def _check_running(self) -> None:
        queue = self._daemon.queue
        for number in list(queue.state.members["processing"]):
            self._check_output(number, queue.state.jobs[number].attempt)

    def _check_output(self, number: int, attempt: int) -> None:
        """
        Drop the middle of an attempt's output if it takes more than the limit.
        """
        daemon = self._daemon
        bytes_max = daemon.queue.state.setting("output_limit")
        if bytes_max is None or self._unpunchable:
            return
        if daemon.output.used_bytes(number, attempt) <= bytes_max:
            return
        try:
            dropped_bytes = daemon.output.limit(number, attempt, bytes_max)
        except OSError as error:
            fields = job_fields(daemon.queue.state, number)
            daemon.log.error("output_limit_not_kept", error=str(error), **fields)
            self._unpunchable = True
            return
        if dropped_bytes:
            daemon.log.warning(
                "output_dropped",
                **job_fields(daemon.queue.state, number),
                attempt=attempt,
                dropped_bytes=dropped_bytes,
            )

    def _sweep_one(self) -> None:
        """
        Delete the output in one folder that belongs to no job in the history.
        """
        if not self._unswept or not self._daemon.idle:
            return  # A job that was forgotten in memory may come back with a crash.
        jobs = self._daemon.queue.state.jobs
        for path, number in self._daemon.output.files(self._unswept.pop()):
            if number not in jobs:
                self._daemon.log.info("stray_output_deleted", job=number, user=None)
                os.unlink(path)
