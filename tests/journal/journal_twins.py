"""
Twins of the journal's Files, and the small histories that its tests write.

FailingFiles fails the n-th call. ShortFiles takes writes in pieces. LimitedFiles has a
disk of so many bytes. MemoryFiles is a disk in memory that knows what is durable, and can
lose power between any two calls.
"""

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable, Iterable
from typing import Any

from queuectld.journal.files import Files
from queuectld.journal.frames import RECORD_FORGET, Record, pack_record
from queuectld.journal.journal import Journal

CALLS = [name for name in vars(Files) if not name.startswith("_") and name != "owner"]


def record(key: int, body: bytes = b"", *, part: int = 0, kind: int = 1, flags: int = 0) -> Record:
    return Record(kind, flags, part, key, body)


def pack(records: Iterable[Record]) -> list[bytes]:
    return [pack_record(*r) for r in records]


def reduce(records: Iterable[Record]) -> list[Record]:
    """The naive model of a snapshot: last record of each name, in the order of the journal."""
    live: dict[tuple[int, int], Record] = {}
    for r in records:
        for name in [n for n in live if n == (r.key, r.part) or r.flags & RECORD_FORGET]:
            if name[0] == r.key:
                del live[name]
        if not r.flags & RECORD_FORGET:
            live[r.key, r.part] = r
    return list(live.values())


def make_journal(path: str, files: Files | None = None, **options: Any) -> Journal:
    counter = random.Random(1)
    options.setdefault("segment_bytes", 4096)
    options.setdefault("runway_bytes", 1024)
    options.setdefault("random_bytes", counter.randbytes)
    return Journal(str(path), files=files, now=lambda: 1_000, version="1.0", **options)


def read_back(path: str, files: Files | None = None) -> list[Record]:
    """The records that a new process finds."""
    found: list[Record] = []
    journal = make_journal(path, files)
    journal.open(found.append)
    journal.close()
    return found


class UnsyncedFiles(Files):
    """
    Syncs nothing: for tests in which no power is lost.
    """

    def fsync(self, fd: int) -> None:
        os.fstat(fd)

    def fdatasync(self, fd: int) -> None:
        os.fstat(fd)


class FailingFiles(UnsyncedFiles):
    """
    Fails call number *nth* (from 1), after doing it if *late*; then is whole again.
    """

    def __init__(self, nth: int, error: int = errno.EIO, *, late: bool = False) -> None:
        self.nth = nth
        self.error = error
        self.late = late
        self.call_count = 0
        self.fired: str | None = None
        self.open_fds: set[int] = set()

    def attempt(self, name: str, call: Callable[..., Any], args: Any, options: Any) -> Any:
        self.call_count += 1
        if self.call_count == self.nth:
            self.fired = name
            # A close that fails has closed; nothing else is left half open.
            if name == "close" or (self.late and name not in ("open", "create", "open_directory")):
                self.count(name, call(self, *args, **options), args)
            raise OSError(self.error, os.strerror(self.error), name)
        return self.count(name, call(self, *args, **options), args)

    def count(self, name: str, result: Any, args: Any) -> Any:
        if name in ("open", "create", "open_directory"):
            self.open_fds.add(result)
        elif name == "close":
            self.open_fds.discard(args[0])
        return result


def _failing(name: str) -> Any:
    call = getattr(UnsyncedFiles, name)

    def method(self: FailingFiles, *args: Any, **options: Any) -> Any:
        return self.attempt(name, call, args, options)

    return method


for _name in CALLS:
    setattr(FailingFiles, _name, _failing(_name))


class ShortFiles(UnsyncedFiles):
    """
    Takes and gives only some of the bytes of each call.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return super().pwrite(fd, data[: self.rng.randint(1, len(data))], offset)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        return super().pread(fd, self.rng.randint(1, size_bytes) if size_bytes else 0, offset)


class LimitedFiles(UnsyncedFiles):
    """
    A disk with room for *room_bytes* more; overwriting needs no room.
    """

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self.refusal_count = 0

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        size_bytes = os.fstat(fd).st_size
        growth = max(0, offset + len(data) - size_bytes)
        if growth > self.room_bytes:
            data = data[: len(data) - (growth - self.room_bytes)]
            growth = self.room_bytes
            if not len(data):
                self.refusal_count += 1
                raise OSError(errno.ENOSPC, "No space left on device")
        self.room_bytes -= growth
        return super().pwrite(fd, data, offset)

    def ftruncate(self, fd: int, size_bytes: int) -> None:
        self.room_bytes += os.fstat(fd).st_size - size_bytes
        super().ftruncate(fd, size_bytes)

    def unlink(self, directory_fd: int, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.room_bytes += os.stat(name, dir_fd=directory_fd).st_size
        super().unlink(directory_fd, name)


class PowerCutError(BaseException):
    """
    The process is gone: nothing may catch this and go on.
    """


class MemoryFile:
    def __init__(self) -> None:
        self.durable = bytearray()
        self.cache = bytearray()
        #: What happened to the cache since the last sync: (offset, bytes), or (size, None).
        self.pending: list[tuple[int, bytes | None]] = []


def _change(content: bytearray, offset: int, data: bytes | None) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


class MemoryFiles(Files):
    """
    One directory in memory. Power may go at the *cut_at*-th change; a sync may fail.

    After a cut every call raises, until restart() brings up what the disk has kept.
    """

    SECTOR_BYTES = 512

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.cut_at = 0
        self.change_count = 0
        self.failing_syncs = 0.0
        self.dead = False
        self.exists = False
        self.names: dict[str, MemoryFile] = {}
        self.durable_names: dict[str, MemoryFile] = {}
        self.pending_names: list[tuple[str | None, str | None, MemoryFile]] = []
        self.fds: dict[int, MemoryFile | None] = {}
        self.lock_fd: int | None = None

    @classmethod
    def holding(cls, contents: dict[str, bytes]) -> "MemoryFiles":
        """A disk with these files on it, durable."""
        disk = cls(random.Random(2))
        disk.exists = True
        for name, content in contents.items():
            file = MemoryFile()
            file.durable, file.cache = bytearray(content), bytearray(content)
            disk.names[name] = disk.durable_names[name] = file
        return disk

    def contents(self) -> dict[str, bytes]:
        return {name: bytes(file.cache) for name, file in self.names.items()}

    def _step(self) -> None:
        if self.dead:
            raise PowerCutError
        self.change_count += 1
        if self.change_count == self.cut_at:
            self.dead = True
            raise PowerCutError

    def _add(self, file: MemoryFile | None) -> int:
        if self.dead:
            raise PowerCutError
        fd = 1000 + self.change_count * 10 + len(self.fds)
        while fd in self.fds:
            fd += 1
        self.fds[fd] = file
        return fd

    def _file(self, fd: int) -> MemoryFile:
        if self.dead:
            raise PowerCutError
        file = self.fds[fd]
        assert file is not None
        return file

    def mkdir(self, path: str) -> None:
        if self.exists:
            raise FileExistsError(path)
        self._step()
        self.exists = True

    def open_directory(self, path: str) -> int:
        return self._add(None)

    def lock(self, fd: int) -> None:
        if self.lock_fd is not None:
            raise BlockingIOError
        self.lock_fd = fd

    def owner(self) -> int:
        return 7

    def fstat(self, fd: int) -> os.stat_result:
        file = self.fds[fd]
        mode = stat.S_IFDIR | 0o700 if file is None else stat.S_IFREG | 0o600
        size_bytes = 0 if file is None else len(file.cache)
        return os.stat_result((mode, 1, 1, 1, 7, 7, size_bytes, 0, 0, 0))

    def filesystem_type(self, fd: int) -> str:
        return "memory"

    def listdir(self, fd: int) -> list[str]:
        names = list(self.names)
        self.rng.shuffle(names)
        return names

    def create(self, directory_fd: int, name: str) -> int:
        self._step()
        assert name not in self.names, name
        file = MemoryFile()
        self.names[name] = file
        self.pending_names.append((None, name, file))
        return self._add(file)

    def open(self, directory_fd: int, name: str, *, writable: bool = False) -> int:
        if name not in self.names:
            raise FileNotFoundError(name)
        return self._add(self.names[name])

    def close(self, fd: int) -> None:
        if not self.dead:
            del self.fds[fd]
            if fd == self.lock_fd:
                self.lock_fd = None

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        return bytes(self._file(fd).cache[offset : offset + size_bytes])

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        file = self._file(fd)
        data = bytes(data)
        if self.rng.random() < 0.1:
            data = data[: self.rng.randint(1, len(data))]
        try:
            self._step()
        except PowerCutError:
            data = data[: self.rng.randint(0, len(data))]
            raise
        finally:
            # A process killed inside the call may have written a part.
            _change(file.cache, offset, data)
            file.pending.append((offset, data))
        return len(data)

    def ftruncate(self, fd: int, size_bytes: int) -> None:
        self._step()
        file = self._file(fd)
        _change(file.cache, size_bytes, None)
        file.pending.append((size_bytes, None))

    def fdatasync(self, fd: int) -> None:
        self._step()
        file = self._file(fd)
        if self.rng.random() < self.failing_syncs:
            # The kernel gives up on the pages and calls them clean.
            file.durable = self._torn(file)
            file.pending.clear()
            raise OSError(errno.EIO, "Input/output error")
        for offset, data in file.pending:
            _change(file.durable, offset, data)
        file.pending.clear()

    def fsync(self, fd: int) -> None:
        if self.fds[fd] is not None:
            self.fdatasync(fd)
            return
        self._step()
        self.durable_names = dict(self.names)
        self.pending_names.clear()

    def rename(self, directory_fd: int, old: str, new: str) -> None:
        self._step()
        file = self.names.pop(old)
        self.names[new] = file
        self.pending_names.append((old, new, file))

    def unlink(self, directory_fd: int, name: str) -> None:
        if self.dead:
            raise PowerCutError
        if name not in self.names:
            raise FileNotFoundError(name)
        self._step()
        self.pending_names.append((name, None, self.names.pop(name)))

    def _torn(self, file: MemoryFile) -> bytearray:
        """What the disk may have of a file: any of the sectors written since the last sync."""
        content = bytearray(file.durable)
        mode = self.rng.choice(["none", "all", "some", "prefix"])
        limit = self.rng.randint(0, len(file.pending))
        for index, (offset, data) in enumerate(file.pending):
            if mode == "none" or (mode == "prefix" and index >= limit):
                continue
            if data is None:
                if mode != "some" or self.rng.random() < 0.5:
                    _change(content, offset, None)
                continue
            position = 0
            while position < len(data):
                rest = self.SECTOR_BYTES - (offset + position) % self.SECTOR_BYTES
                if mode != "some" or self.rng.random() < 0.5:
                    piece = data[position : position + rest]
                    if len(content) < offset + position and self.rng.random() < 0.3:
                        # The size arrived, the bytes did not: whatever was there before.
                        missing = offset + position - len(content)
                        content.extend(self.rng.randbytes(missing))
                    _change(content, offset + position, piece)
                position += rest
        return content

    def restart(self, *, power_lost: bool, names: str | None = None) -> None:
        """
        Come up again: after a kill with the page cache as it was, else with the disk's.

        *names* says which changes of names the disk has kept: "none", "some" or "last".
        """
        self.dead = False
        self.cut_at = self.change_count = 0
        self.fds.clear()
        self.lock_fd = None
        if not power_lost:
            for file in self.names.values():
                if self.rng.random() < 0.3:
                    # Clean pages may be dropped; dirty ones stay.
                    file.cache = bytearray(file.durable)
                    for offset, data in file.pending:
                        _change(file.cache, offset, data)
            return
        # Renames of different files may reach the disk in any order, the last one alone too.
        mode = names or self.rng.choice(["none", "some", "last"])
        for index, (old, new, file) in enumerate(self.pending_names, 1):
            last = index == len(self.pending_names)
            if (mode == "some" and self.rng.random() < 0.5) or (mode == "last" and last):
                if old is not None and self.durable_names.get(old) is file:
                    del self.durable_names[old]
                if new is not None:
                    self.durable_names[new] = file
        self.pending_names.clear()
        self.names = dict(self.durable_names)
        for file in self.names.values():
            file.durable = self._torn(file)
            file.cache = bytearray(file.durable)
            file.pending.clear()
