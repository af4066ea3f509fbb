"""
The output of jobs that asked for it (`--output journal`), sent to the system's journal as well.

A job writes into its file and nothing stands between (output.py). So its output cannot be passed on
as it comes: the daemon reads the file behind the job and sends each whole line as an entry, with
the job's fields. The file is what counts, `logs` shows it; the journal gets a copy, within limits.

1. It never holds up the queue. The journal's socket does not wait; in POLL_MS go LINES_MAX lines
   of all jobs together, and in a turn one chunk of each file; who was served goes to the end of
   the line. When these lines are spent, or the journal takes no more, no file is looked at. What is
   left when an attempt ends is sent at once, as far as that goes, so that it stands before the
   entry about its end.
2. A job that writes more than that falls behind. Beyond BEHIND_BYTES_MAX, or DRAIN_MS_MAX after its
   end, or when ENDED_MAX others ended since and are not done either, the older part is passed over,
   and a warning says how much: one at once, then sums. Warnings about many jobs are summed up too.
3. Where it has got to is an extended attribute of the file, written after each turn: the next
   daemon goes on there. A daemon that is killed in between sends the lines of one turn twice, and
   none of an attempt that had ended by then. On a file system without such attributes the next
   daemon begins at the end of what it finds.

A line ends in a newline, in the end of the output, before a gap that the output limit left, or
after LINE_BYTES_MAX, not within a character of UTF-8.
"""

import errno
import os
from contextlib import suppress
from typing import Any

from queuectld.core.records import RunEnded, RunStarted
from queuectld.core.state import State
from queuectld.runtime.job_log import job_fields
from queuectld.runtime.output import READ_BYTES_MAX, OutputStore, read_chunk
from queuectld.runtime.system_journal import JournalSocket, own_user, pack_entry

IDENTIFIER = b"queuectl-job"
PRIORITY = b"6"  # info
ATTRIBUTE = "user.queuectl.forwarded"
_OFFSET_DIGITS_MAX = len(str(1 << 63))
# How often the files are looked at, and one turn sends.
POLL_MS = 250
# Of all jobs in one turn: what the loop has time for, and 1,000 a second is what our unit allows
# the journal to take from us (LogRateLimitBurst).
LINES_MAX = 250
# What a job's output may be ahead of what was sent, before the older part is passed over.
BEHIND_BYTES_MAX = 1 << 20
# What comes after this much of a line is a line of its own. journald does it at 48 KiB.
LINE_BYTES_MAX = 16 << 10
# How long after its end a job's output is still sent.
DRAIN_MS_MAX = 30_000
# Ended attempts that wait for that: as many jobs of one line as end in a second of a flood.
ENDED_MAX = 1_000
# Time between two warnings about one job.
WARN_MS = 30_000
# Warnings in one turn; what else there is to tell is told as one sum in the next.
WARNINGS_MAX = 4


class Followed:
    """
    One attempt whose output is sent. `offset` is where in its file the next line begins.
    """

    def __init__(self, number: int, attempt: int, fields: dict[str, Any]) -> None:
        self.number = number
        self.attempt = attempt
        self.fields = fields
        self.fd: int | None = None
        self.offset = 0
        #: Whether the offset is known: it is what an earlier daemon noted until then.
        self._begun = False
        #: Whether the file was not there when it was last looked for.
        self.is_gone = False
        #: When sending ends, finished or not; None while the attempt runs.
        self.ends_at: int | None = None
        #: Passed over and not told of.
        self.skipped_bytes = 0
        self.tell_at = 0
        user = fields["user"] if "user" in fields else own_user()
        #: The fields that all its entries have.
        self.entry = pack_entry(
            {
                "SYSLOG_IDENTIFIER": IDENTIFIER,
                "PRIORITY": PRIORITY,
                "QUEUECTL_JOB": str(fields["id"]).encode(),
                "QUEUECTL_NUMBER": str(number).encode(),
                "QUEUECTL_ATTEMPT": str(attempt).encode(),
                "QUEUECTL_QUEUE": str(fields["queue"]).encode(),
                "QUEUECTL_USER": str(user).encode(),
            }
        )

    def open(self, output: OutputStore) -> bool:
        """
        Open the file if it is there, where an earlier daemon left off. Raises OSError.
        """
        if self.fd is None:
            self.fd = output.open(self.number, self.attempt)
            self.is_gone = self.fd is None
            if self.fd is not None and not self._begun:
                self.offset = _left_off(self.fd)
                self._begun = True
        return self.fd is not None

    def close(self) -> None:
        """
        Let the file go.
        """
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Forwarding:
    """
    The attempts that are followed. Told of starts and ends when they are on disk.
    """

    def __init__(
        self, state: State, output: OutputStore, log: Any, journal: JournalSocket | None = None
    ) -> None:
        self._state = state
        self._output = output
        self._log = log
        self._journal = journal or JournalSocket()
        #: By (number, attempt); the one to be served first is first.
        self._followed: dict[tuple[int, int], Followed] = {}
        self._poll_at = 0
        #: Lines that may go before that, and whether the journal took the last one.
        self._line_count = LINES_MAX
        self._taken = True
        #: Warnings so far since then, and what was passed over of attempts beyond them.
        self._warned_count = 0
        self._unwarned_count = 0
        self._unwarned_bytes = 0
        #: Those that have ended and are not done, in that order.
        self._ended: dict[tuple[int, int], Followed] = {}
        self._adopted = False
        self._stopped = False

    def next_deadline(self) -> int | None:
        """
        When to call attend(); None while nothing is followed and all is told.
        """
        return self._poll_at if self._followed or self._unwarned_count else None

    def attend(self, now: int) -> None:
        """
        Send what has come, if it is time.
        """
        if not self._adopted:
            self._adopted = True
            for number in self._state.members["processing"]:
                self._follow(number, self._state.jobs[number].attempt)
        if self.next_deadline() is not None and now >= self._poll_at:
            self._poll_at = now + POLL_MS
            self._warned_count = 0
            self._tell_sum()
            self._line_count = LINES_MAX
            self._taken = True
            for each in list(self._followed.values()):
                over = each.ends_at is not None and now >= each.ends_at
                if over or (self._line_count > 0 and self._taken):
                    self._serve(each, now)

    def started(self, record: RunStarted) -> None:
        """
        An attempt may run.
        """
        if not self._stopped and record.number in self._state.jobs:
            self._follow(record.number, record.attempt)

    def ended(self, record: RunEnded, now: int) -> None:
        """
        An attempt has ended: its file grows no more.
        """
        key = (record.number, record.attempt)
        followed = self._followed.get(key)
        if followed is not None:
            followed.ends_at = now + DRAIN_MS_MAX
            self._ended[key] = followed
            self._serve(followed, now)
            if len(self._ended) > ENDED_MAX:
                first = next(iter(self._ended.values()))
                first.ends_at = now
                self._serve(first, now)

    def stop(self, now: int) -> None:
        """
        Send once more, and leave the rest to the next daemon.
        """
        self._stopped = True
        for each in list(self._followed.values()):
            self._serve(each, now)
            each.close()
        self._tell_sum()
        self._followed.clear()
        self._ended.clear()
        self._journal.close()

    def _follow(self, number: int, attempt: int) -> None:
        if self._state.spec(self._state.jobs[number]).output == "journal":
            fields = job_fields(self._state, number)
            self._followed[number, attempt] = Followed(number, attempt, fields)

    def _serve(self, each: Followed, now: int) -> None:
        """
        Send what may be sent of a job now, and let go of one that has no more.
        """
        sent_count = self._send_lines(each, now)
        self._line_count -= sent_count
        done = self._is_done(each, now)
        self._tell_skipped(each, now, at_once=done)
        key = (each.number, each.attempt)
        if each.ends_at is not None:
            each.close()  # Many may wait for their turn, and there are only so many descriptors.
        if done:
            self._ended.pop(key, None)
        if done or sent_count:
            del self._followed[key]
        if sent_count and not done:
            self._followed[key] = each  # Behind the others.

    def _send_lines(self, each: Followed, now: int) -> int:
        """
        Send lines of a job; return how many.
        """
        before = each.offset
        try:
            if not each.open(self._output):
                return 0
            assert each.fd is not None
            size = os.fstat(each.fd).st_size
            if each.ends_at is not None and now >= each.ends_at:
                self._skip(each, size)
            elif size - each.offset > BEHIND_BYTES_MAX:
                self._skip(each, _line_after(each.fd, size - BEHIND_BYTES_MAX // 2))
            chunk = read_chunk(each.fd, each.offset)
        except OSError:
            return 0  # It cannot be read, or there is no descriptor for it now: in another turn.
        self._skip(each, chunk.offset)
        # What is behind the data: nothing more, ever; a gap; or what is still to be written.
        end = each.offset + len(chunk.data)
        over = end >= size and each.ends_at is not None
        gap = end < size and len(chunk.data) < READ_BYTES_MAX
        count = self._send(each, split_lines(chunk.data, self._line_count, ends=over or gap))
        if each.offset != before:
            with suppress(OSError):  # What it means to do without is said above.
                os.setxattr(each.fd, ATTRIBUTE, b"%d" % each.offset)
        return count

    def _send(self, each: Followed, lines: list[bytes]) -> int:
        for count, line in enumerate(lines):
            entry = each.entry + pack_entry({"MESSAGE": line.removesuffix(b"\n")})
            self._taken = self._journal.send(entry)
            if not self._taken:
                return count
            each.offset += len(line)
        return len(lines)

    def _skip(self, each: Followed, offset: int) -> None:
        each.skipped_bytes += max(offset - each.offset, 0)
        each.offset = max(offset, each.offset)

    def _tell_skipped(self, each: Followed, now: int, *, at_once: bool) -> None:
        if not each.skipped_bytes or not (at_once or now >= each.tell_at):
            return
        skipped_bytes, each.skipped_bytes = each.skipped_bytes, 0
        each.tell_at = now + WARN_MS
        self._warned_count += 1
        if self._warned_count > WARNINGS_MAX:
            self._unwarned_count += 1
            self._unwarned_bytes += skipped_bytes
            return
        self._log.warning(
            "output_not_forwarded",
            **each.fields,
            attempt=each.attempt,
            skipped_bytes=skipped_bytes,
        )

    def _tell_sum(self) -> None:
        if self._unwarned_count:
            self._log.warning(
                "outputs_not_forwarded",
                count=self._unwarned_count,
                skipped_bytes=self._unwarned_bytes,
            )
            self._unwarned_count = self._unwarned_bytes = 0

    def _is_done(self, each: Followed, now: int) -> bool:
        """
        Whether an attempt has ended and nothing of it is left to send.
        """
        if each.ends_at is None:
            return False
        if each.is_gone or now >= each.ends_at:
            return True
        return each.fd is not None and each.offset >= os.fstat(each.fd).st_size


def split_lines(data: bytes, count_max: int, *, ends: bool) -> list[bytes]:
    """
    Return the first lines of *data*, each with the newline that ended it; with *ends* the last one
    need not have any, else it is left out.
    """
    lines: list[bytes] = []
    start = 0
    while start < len(data) and len(lines) < count_max:
        end = data.find(b"\n", start, start + LINE_BYTES_MAX) + 1
        if not end:
            end = start + LINE_BYTES_MAX
            if end < len(data):
                end = _character_start(data, end)
            elif ends:
                end = len(data)
            else:
                break
        lines.append(data[start:end])
        start = end
    return lines


def _character_start(data: bytes, offset: int) -> int:
    """
    Return where the character of UTF-8 begins that is at *offset*, or *offset* if there is none.
    """
    for start in range(offset, offset - 4, -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return offset


def _line_after(fd: int, offset: int) -> int:
    """
    Return where the next line after *offset* begins, if that is not far.
    """
    return offset + os.pread(fd, LINE_BYTES_MAX, offset).find(b"\n") + 1


def _left_off(fd: int) -> int:
    """
    Return where in the file an earlier daemon left off: 0 if none began.
    """
    size = os.fstat(fd).st_size
    try:
        text = os.getxattr(fd, ATTRIBUTE)
    except OSError as error:
        return 0 if error.errno == errno.ENODATA else size
    # In user mode a job may write the attribute too.
    return min(int(text), size) if text.isdigit() and len(text) <= _OFFSET_DIGITS_MAX else 0
