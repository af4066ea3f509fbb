"""
What the runner must remember if it is killed: which attempts it was asked to start, which process
each became, which exits queuectld has not acknowledged, and the highest epoch it has seen.

An append-only file of 64-byte records, each with its own CRC:

    record    kind u8, flags u8, 2 padding, attempt u32, job u64, 44 bytes by kind, crc32 u32
    1 HEADER  magic, version, boot id, ledger epoch, highest epoch          (the first record)
    2 INTENT  at                        before the process is made
              flag 1: made from, uid, device and inode of its output, crc32 of the job's id
    3 STARTED at, pid, made from, to, uid  after
              flag 1: under that uid, else our own; flag 2: found by what its INTENT says
    4 EXIT    all of messages.Exited
    5 ACK                               the attempt is forgotten
    6 EPOCH   highest epoch             (in the place of the job)

Invariants
1. No process without its INTENT in the file: an INTENT that cannot be written refuses the START.
2. Nothing else fails for want of room: later records wait in memory, in order, and go out before
   the next one does. What they say is known to the daemon too, or is said again after HELLO. So
   only the last INTENT can be without what came of it: adoption.py finds out.
3. A record only ever replaces the one of the same attempt, so one record per attempt is the state.
4. Each record is written at an offset of our own: one cut short is overwritten by the next try.

The file is not synced. It has to survive the runner, not the host: when the host goes, the jobs
go with it, and the next reader sees another boot id.

The ledger epoch is the promise that WELCOME makes: the epoch of the first daemon greeted since
nothing was missing. It falls back to 0, "none yet", when a record turns out damaged.
"""

import errno
import os
import struct
import zlib
from typing import NamedTuple

from queuectld.runner.messages import UID_OWN, Exited

LEDGER_NAME = "ledger"
NEW_NAME = "ledger.new"
DAMAGED_NAME = "ledger.damaged"
VERSION = 1
#: From here on a file that holds mostly acknowledged attempts is written anew.
REWRITE_BYTES_MIN = 1024 * 1024

_MAGIC = b"queuectl"
_HEADER, _INTENT, _STARTED, _EXIT, _ACK, _EPOCH = range(1, 7)
_STATUS_KNOWN = 1
_USAGE_KNOWN = 2
_TRACEABLE = 1  # of an INTENT
_UID_KNOWN = 1  # of a STARTED
_FOUND = 2

# Each kind of record, all but its CRC.
_COMMON = "<BB2xIQ"
_HEADER_BODY = struct.Struct(_COMMON + "8sI16sQQ")
_INTENT_BODY = struct.Struct(_COMMON + "QQIQQI4x")
_STARTED_BODY = struct.Struct(_COMMON + "QIQQI12x")
_EXIT_BODY = struct.Struct(_COMMON + "iQQQQQ")
_BARE_BODY = struct.Struct(_COMMON + "44x")
_CRC = struct.Struct("<I")

RECORD_BYTES = _BARE_BODY.size + _CRC.size

Key = tuple[int, int]  # job, attempt


class LedgerError(Exception):
    """
    The ledger was written by a newer version of this program.
    """


class Intent(NamedTuple):
    job: int
    attempt: int
    at: int
    made_from_ns: int  # it is made after this, of the clock since boot
    uid: int
    output_device: int
    output_inode: int
    job_id_crc: int


class Started(NamedTuple):
    job: int
    attempt: int
    started_at: int
    pid: int
    made_from_ns: int  # it was made between these, of the clock since boot
    made_to_ns: int
    uid: int = UID_OWN
    is_found: bool = False  # by its traces, see adoption.py


class Files:
    """
    The few calls the ledger makes, in one place so that tests can fail each. All raise `OSError`.
    """

    def open(self, name: str, flags: int, directory_fd: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory_fd)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        return os.pread(fd, size_bytes, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def rename(self, old: str, new: str, directory_fd: int) -> None:
        os.rename(old, new, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)

    def close(self, fd: int) -> None:
        os.close(fd)


class Ledger:
    """
    The ledger of one directory, whose lock the caller holds. `now` is in ms since the epoch and
    ends the runs of which nothing more can be learned. Raises `OSError` when there is no ledger
    and none can be made, `LedgerError`.

    After opening, `exits()` are the exits without ACK, and `started()` the runs that may be alive:
    each of them is either adopted by the caller or given to `exit`. `intents()` are those whose
    process the runner before may have made without a word: the caller gives each to `start` or
    to `exit`.
    """

    def __init__(
        self, directory_fd: int, boot_id: bytes, now: int, files: Files | None = None
    ) -> None:
        assert len(boot_id) == 16
        self.epoch_max = 0
        self.ledger_epoch = 0
        #: Whether records were found damaged, and the ledger epoch begins anew for it.
        self.damaged = False
        self._files = files or Files()
        self._directory_fd = directory_fd
        self._boot_id = boot_id
        self._fd = -1
        self._size_bytes = 0
        self._rewrite_at_bytes = REWRITE_BYTES_MIN
        #: The last record of each attempt that is not forgotten.
        self._live: dict[Key, bytes] = {}
        #: Records that found no room yet, oldest first.
        self._waiting: list[bytes] = []
        same_boot = self._read()
        self._end_unseen(same_boot, now)
        try:
            self._rewrite()
        except OSError:
            # A file of this boot serves as it is: what was found goes behind it.
            if not same_boot:
                raise
            self._waiting += self._live.values()
            self.try_flush()

    def close(self) -> None:
        """
        Give the descriptor back.
        """
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    @property
    def is_waiting(self) -> bool:
        """
        Whether records wait for room: call `try_flush` again later.
        """
        return bool(self._waiting)

    def is_whole(self) -> bool:
        """
        Whether who opens the ledger of this directory now finds all that is in this one. Raises
        `OSError` when that cannot be told.
        """
        if self._waiting:
            return False
        try:
            found = os.stat(LEDGER_NAME, dir_fd=self._directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._fd))

    def exits(self) -> list[Exited]:
        """
        The exits without ACK, in the order of their attempts' last records.
        """
        return [_unpack_exit(r) for r in self._live.values() if r[0] == _EXIT]

    def intents(self) -> list[Intent]:
        """
        The attempts that may have become a process.
        """
        return [_unpack_intent(r) for r in self._live.values() if r[0] == _INTENT]

    def started(self) -> list[Started]:
        """
        The attempts that became a process and have no exit.
        """
        return [_unpack_started(r) for r in self._live.values() if r[0] == _STARTED]

    def intend(self, job: int, attempt: int, *fields: int) -> None:
        """
        Remember that a process is about to be made; `fields` are the others of `Intent`. Raises
        `OSError`: then it must not be.
        """
        record = _pack(_INTENT_BODY, _INTENT, _TRACEABLE, attempt, job, *fields)
        self._flush()
        self._write(record)
        self._live[job, attempt] = record
        self._rewrite_if_due()

    def start(self, started: Started) -> None:
        """
        Remember which process it became.
        """
        job, attempt, *fields, is_found = started
        flags = _FOUND * is_found | _UID_KNOWN * (started.uid != UID_OWN)
        self._keep(job, attempt, _pack(_STARTED_BODY, _STARTED, flags, attempt, job, *fields))

    def exit(self, exited: Exited) -> None:
        """
        Remember how it ended.
        """
        self._keep(exited.job, exited.attempt, _pack_exit(exited))

    def forget(self, job: int, attempt: int) -> None:
        """
        Forget an attempt: it is acknowledged, or did not become a process.
        """
        del self._live[job, attempt]
        self._append(_pack(_BARE_BODY, _ACK, 0, attempt, job))

    def greet(self, epoch: int) -> None:
        """
        Remember the epoch of a daemon, at least `epoch_max`.
        """
        assert epoch >= self.epoch_max
        self._see_epoch(epoch)
        self._append(_pack(_BARE_BODY, _EPOCH, 0, 0, epoch))

    def try_flush(self) -> None:
        """
        Write what waits, as far as there is room.
        """
        try:
            self._flush()
        except OSError:
            pass  # Invariant 2: it waits on, and `is_waiting` tells.

    def _flush(self) -> None:
        while self._waiting:
            self._write(self._waiting[0])
            del self._waiting[0]

    def _keep(self, job: int, attempt: int, record: bytes) -> None:
        assert (job, attempt) in self._live, "an attempt without its INTENT"
        self._live[job, attempt] = record
        self._append(record)

    def _append(self, record: bytes) -> None:
        self._waiting.append(record)
        self.try_flush()

    def _write(self, record: bytes) -> None:
        if self._files.pwrite(self._fd, record, self._size_bytes) != RECORD_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size_bytes += RECORD_BYTES

    def _see_epoch(self, epoch: int) -> None:
        self.epoch_max = max(self.epoch_max, epoch)
        self.ledger_epoch = self.ledger_epoch or epoch

    def _read(self) -> bool:
        try:
            self._fd = self._files.open(LEDGER_NAME, os.O_RDWR, self._directory_fd)
        except FileNotFoundError:
            return False
        data = b""
        while part := self._files.pread(self._fd, 1024 * 1024, len(data)):
            data += part
        records = [data[i : i + RECORD_BYTES] for i in range(0, len(data), RECORD_BYTES)]
        # The end may be torn: a record cut short, or one whose bytes did not all arrive. Nothing
        # was acted upon before its record was whole, so it can be left out.
        if records and not _is_whole(records[-1]):
            records.pop()
        self._size_bytes = len(records) * RECORD_BYTES
        header = _read_header(records[0] if records else b"")
        if header is None:
            self._put_aside(is_empty=not data)
            return False
        boot_id, self.ledger_epoch, self.epoch_max = header
        same_boot = boot_id == self._boot_id
        for record in records[1:]:
            if _is_whole(record):
                self._replay(record)
            else:
                self.damaged = True
        if self.damaged or not same_boot:
            self.ledger_epoch = 0
        return same_boot

    def _put_aside(self, is_empty: bool) -> None:
        self.close()
        self._size_bytes = 0
        if not is_empty:
            self.damaged = True
            self._files.rename(LEDGER_NAME, DAMAGED_NAME, self._directory_fd)

    def _replay(self, record: bytes) -> None:
        kind, _, attempt, job = _BARE_BODY.unpack_from(record)
        if kind in (_INTENT, _STARTED, _EXIT):
            self._live[job, attempt] = record
        elif kind == _ACK:
            self._live.pop((job, attempt), None)
        elif kind == _EPOCH:
            self._see_epoch(job)
        else:
            self.damaged = True

    def _end_unseen(self, same_boot: bool, now: int) -> None:
        for key, record in self._live.items():
            kind, flags = record[:2]
            if kind == _STARTED and not same_boot:
                self._live[key] = _pack_exit(unseen(*key, _unpack_started(record).started_at, now))
            elif kind == _INTENT and not (same_boot and flags & _TRACEABLE):
                # The host went, or a version that left no traces in it was killed just then.
                self._live[key] = _pack_exit(unseen(*key, _unpack_intent(record).at, now))

    def _rewrite_if_due(self) -> None:
        if self._size_bytes < self._rewrite_at_bytes:
            return
        live_bytes = (1 + len(self._live)) * RECORD_BYTES
        if live_bytes * 2 <= self._size_bytes:
            try:
                self._rewrite()
            except OSError:
                # The old file still serves; do not try again at every START.
                self._rewrite_at_bytes = self._size_bytes + REWRITE_BYTES_MIN

    def _rewrite(self) -> None:
        epochs = self.ledger_epoch, self.epoch_max
        header = _pack(_HEADER_BODY, _HEADER, 0, 0, 0, _MAGIC, VERSION, self._boot_id, *epochs)
        data = header + b"".join(self._live.values())
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        fd = self._files.open(NEW_NAME, flags, self._directory_fd)
        try:
            written_bytes = 0
            while written_bytes < len(data):
                written_bytes += self._files.pwrite(fd, data[written_bytes:], written_bytes)
            self._files.rename(NEW_NAME, LEDGER_NAME, self._directory_fd)
        except OSError:
            self._files.close(fd)
            raise
        self.close()
        self._fd = fd
        self._size_bytes = len(data)
        self._rewrite_at_bytes = REWRITE_BYTES_MIN
        self._waiting.clear()


def unseen(job: int, attempt: int, started_at: int, now: int) -> Exited:
    """
    The end of an attempt that nobody saw: it may have run.
    """
    return Exited(job, attempt, 0, False, started_at, now, False, 0, 0, 0)


def check_version(directory_fd: int) -> None:
    """
    Raise `LedgerError` when the ledger of a directory was written by a newer version; `OSError`.
    """
    files = Files()
    try:
        fd = files.open(LEDGER_NAME, os.O_RDONLY, directory_fd)
    except FileNotFoundError:
        return
    try:
        _read_header(files.pread(fd, RECORD_BYTES, 0))
    finally:
        files.close(fd)


def read_boot_id() -> bytes:
    """
    The 16 bytes that name this boot of the host. Raises `OSError`.
    """
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return bytes.fromhex(file.read().decode().replace("-", ""))


def _read_header(record: bytes) -> tuple[bytes, int, int] | None:
    """
    The boot id, the ledger epoch and the highest epoch; None when this is no header.
    """
    if not _is_whole(record) or record[0] != _HEADER:
        return None
    _, _, _, _, magic, version, boot_id, *epochs = _HEADER_BODY.unpack_from(record)
    if magic != _MAGIC:
        return None
    if version > VERSION:
        raise LedgerError(f"the ledger has version {version}, known are up to {VERSION}")
    ledger_epoch, epoch_max = epochs
    return boot_id, ledger_epoch, epoch_max


def _pack(body: struct.Struct, *fields: int | bytes) -> bytes:
    """
    A record: kind, flags, attempt and job, and what its kind has, as `body` lays them out.
    """
    data = body.pack(*fields)
    return data + _CRC.pack(zlib.crc32(data))


def _pack_exit(exited: Exited) -> bytes:
    job, attempt, status, known, started_at, ended_at, usage_known, *usage = exited
    flags = _STATUS_KNOWN * known | _USAGE_KNOWN * usage_known
    return _pack(_EXIT_BODY, _EXIT, flags, attempt, job, status, started_at, ended_at, *usage)


def _unpack_exit(record: bytes) -> Exited:
    _, flags, attempt, job, status, started_at, ended_at, *usage = _EXIT_BODY.unpack_from(record)
    known, usage_known = bool(flags & _STATUS_KNOWN), bool(flags & _USAGE_KNOWN)
    return Exited(job, attempt, status, known, started_at, ended_at, usage_known, *usage)


def _unpack_intent(record: bytes) -> Intent:
    _, _, attempt, job, *fields = _INTENT_BODY.unpack_from(record)
    return Intent(job, attempt, *fields)


def _unpack_started(record: bytes) -> Started:
    _, flags, attempt, job, *fields = _STARTED_BODY.unpack_from(record)
    started_at, pid, made_from_ns, made_to_ns, uid = fields
    if not flags & _UID_KNOWN:
        uid = UID_OWN
    is_found = bool(flags & _FOUND)
    return Started(job, attempt, started_at, pid, made_from_ns, made_to_ns, uid, is_found)


def _is_whole(record: bytes) -> bool:
    return len(record) == RECORD_BYTES and _CRC.pack(zlib.crc32(record[:-4])) == record[-4:]
