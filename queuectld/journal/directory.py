"""
The names in a journal's directory, and the one safe way to add a file.

A file is written under NAME.tmp, synced, renamed, and its directory synced; so a name
without .tmp always stands for a file that was once whole.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from queuectld.journal.errors import JournalCorrupt, JournalTooNew
from queuectld.journal.files import Files, read_all, write_all
from queuectld.journal.header import (
    HEADER_BYTES,
    SEGMENT_MAGIC,
    FileHeader,
    HeaderDamaged,
    HeaderUnknown,
    unpack_header,
)

#: What the kernel says when there is no room: a state, not a failing disk.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

FORMAT = "FORMAT"
FORMAT_VERSION = 1
_FORMAT_LINE = re.compile(rb"queuectl-state (\d{1,9}) ([0-9a-f]{32})\n")
_SEGMENT = re.compile(r"seg-(\d{16})\.qj")
_SNAPSHOT = re.compile(r"snap-(\d{16})\.qs")
_UNFINISHED = re.compile(r"(FORMAT|seg-\d{16}\.qj|snap-\d{16}\.qs)\.tmp")


def segment_name(number: int) -> str:
    """
    The file name of segment *number*.
    """
    return f"seg-{number:016}.qj"


def snapshot_name(number: int) -> str:
    """
    The file name of the snapshot of everything before segment *number*.
    """
    return f"snap-{number:016}.qs"


class Listing(NamedTuple):
    """
    The journal's own files, by number in rising order; foreign names are left out.
    """

    segments: list[int]
    snapshots: list[int]
    unfinished: list[str]
    has_format: bool


class OpenFile:
    """
    A file open for reading, with its name for messages and its size when it was opened.
    """

    def __init__(self, files: Files, fd: int, path: str) -> None:
        self._files = files
        self._fd = fd
        self.path = path
        self.size_bytes = files.fstat(fd).st_size

    def read(self, size_bytes: int, offset: int) -> bytes:
        """
        The bytes from *offset*, fewer than *size_bytes* only at the end of the file.
        """
        return read_all(self._files, self._fd, size_bytes, offset)

    def header(self, magic: bytes, batch_seq: int = 0) -> FileHeader:
        """
        The file's header; *batch_seq* is the last good batch, for the refusal.

        Raises JournalCorrupt or JournalTooNew.
        """
        try:
            return unpack_header(self.read(HEADER_BYTES, 0), magic)
        except HeaderDamaged as error:
            raise JournalCorrupt(self.path, 0, str(error), batch_seq) from None
        except HeaderUnknown as error:
            raise JournalTooNew(
                f"{self.path} was written by a newer queuectl ({error}). "
                "Install that version of queuectl, or a newer one, and start it again."
            ) from None


class Directory:
    """
    An open directory. Borrows *fd*; whoever opened it closes it.
    """

    def __init__(self, files: Files, path: str, fd: int) -> None:
        self.files = files
        self.path = path
        self.fd = fd

    def path_of(self, name: str) -> str:
        """
        The whole path of *name*, for messages.
        """
        return os.path.join(self.path, name)

    def listing(self) -> Listing:
        """
        What is here now.
        """
        names = self.files.listdir(self.fd)
        return Listing(
            sorted(int(match[1]) for name in names if (match := _SEGMENT.fullmatch(name))),
            sorted(int(match[1]) for name in names if (match := _SNAPSHOT.fullmatch(name))),
            sorted(name for name in names if _UNFINISHED.fullmatch(name)),
            FORMAT in names,
        )

    @contextmanager
    def open(self, name: str) -> Iterator[OpenFile]:
        """
        Open a file for reading for the length of a with block.
        """
        fd = self.files.open(self.fd, name)
        try:
            yield OpenFile(self.files, fd, self.path_of(name))
        finally:
            self.files.close(fd)

    def segment_header(self, number: int, batch_seq: int = 0) -> FileHeader:
        """
        The checked header of segment *number*.

        Raises JournalCorrupt (offset 0) if it is missing, damaged or another file's.
        """
        name = segment_name(number)
        try:
            with self.open(name) as file:
                header = file.header(SEGMENT_MAGIC, batch_seq)
        except FileNotFoundError:
            raise JournalCorrupt(self.path_of(name), 0, "the file is missing", batch_seq) from None
        if header.number != number:
            reason = f"it is segment {header.number} under another name"
            raise JournalCorrupt(self.path_of(name), 0, reason, batch_seq)
        return header

    def write(self, name: str, data: bytes) -> None:
        """
        Write a whole small file, synced, under its unfinished name.

        Raises OSError as it comes, and leaves nothing behind then.
        """
        fd = self.files.create(self.fd, f"{name}.tmp")
        try:
            try:
                write_all(self.files, fd, data, 0)
                self.files.fsync(fd)
            finally:
                self.files.close(fd)
        except BaseException:
            with suppress(OSError):
                self.discard(f"{name}.tmp")
            raise

    def rename(self, name: str) -> None:
        """
        Give NAME.tmp, whose bytes must be synced, its name. Durable after sync().
        """
        self.files.rename(self.fd, f"{name}.tmp", name)

    def sync(self) -> None:
        """
        Wait until the names in the directory are durable.
        """
        self.files.fsync(self.fd)

    def install(self, name: str) -> None:
        """
        Rename and sync: NAME stands for the new bytes, durably.
        """
        self.rename(name)
        self.sync()

    def discard(self, name: str) -> None:
        """
        Remove an unfinished file, if it is there.
        """
        with suppress(FileNotFoundError):
            self.files.unlink(self.fd, name)

    def read_format(self) -> bytes:
        """
        The uuid of the directory, from FORMAT.

        Raises JournalTooNew, or JournalCorrupt if the file is not what this program writes.
        """
        path = self.path_of(FORMAT)
        try:
            with self.open(FORMAT) as file:
                match = _FORMAT_LINE.fullmatch(file.read(128, 0))
        except FileNotFoundError:
            raise JournalCorrupt(path, 0, "the file is missing", 0) from None
        if match is None:
            raise JournalCorrupt(path, 0, "it does not name a format", 0)
        if int(match[1]) > FORMAT_VERSION:
            raise JournalTooNew(
                f"{path} says format {int(match[1])}; this queuectl knows {FORMAT_VERSION}. "
                "Install the version that wrote it, or a newer one, and start it again."
            )
        return bytes.fromhex(match[2].decode())


def format_line(uuid: bytes) -> bytes:
    """
    What FORMAT says in a directory with this uuid.
    """
    return f"queuectl-state {FORMAT_VERSION} {uuid.hex()}\n".encode()
