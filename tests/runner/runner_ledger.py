"""
What tests of the ledger need: a directory for it, records to put there, and a disk that gets full.
"""

import errno
import os
from pathlib import Path

from queuectld.runner.ledger import LEDGER_NAME, Files, Intent, Ledger, Started
from queuectld.runner.messages import UID_OWN, Exited

BOOT = b"b" * 16
OTHER_BOOT = b"o" * 16
NOW = 1_000_000


def intent(job: int, attempt: int, at: int) -> Intent:
    return Intent(job, attempt, at, 7, UID_OWN, 2**64 - 1, 2**64 - 2, 2**32 - 1)


def started(job: int, attempt: int = 1) -> Started:
    return Started(job, attempt, 500 + job, 100 + job, 7, 9)


def exited(job: int, attempt: int = 1, status: int = 0x300) -> Exited:
    return Exited(job, attempt, status, True, 500 + job, 600 + job, True, 1, 2, 3)


def unseen(job: int, attempt: int = 1, started_at: int | None = None) -> Exited:
    at = 500 + job if started_at is None else started_at
    return Exited(job, attempt, 0, False, at, NOW, False, 0, 0, 0)


class Full(Files):
    """
    A twin of Files whose n-th call fails, and all that follow until `is_full` is cleared. A write
    that fails leaves `torn_bytes` of what it was given behind.
    """

    def __init__(self, fail_at: int = -1, torn_bytes: int = 0) -> None:
        self.is_full = False
        self.fail_at = fail_at
        self.torn_bytes = torn_bytes
        self.call_count = 0

    def _call(self) -> None:
        self.call_count += 1
        if self.is_full or self.call_count == self.fail_at:
            self.is_full = True
            raise OSError(errno.ENOSPC, "no room")

    def open(self, name: str, flags: int, directory_fd: int) -> int:
        self._call()
        return super().open(name, flags, directory_fd)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        self._call()
        return super().pread(fd, size_bytes, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        try:
            self._call()
        except OSError:
            if not self.torn_bytes:
                raise
            return super().pwrite(fd, data[: self.torn_bytes], offset)
        return super().pwrite(fd, data, offset)

    def rename(self, old: str, new: str, directory_fd: int) -> None:
        self._call()
        super().rename(old, new, directory_fd)


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.open_ledgers: list[Ledger] = []

    @property
    def file(self) -> Path:
        return self.path / LEDGER_NAME

    def open(self, boot_id: bytes = BOOT, files: Files | None = None) -> Ledger:
        ledger = Ledger(self.fd, boot_id, NOW, files)
        self.open_ledgers.append(ledger)
        return ledger
