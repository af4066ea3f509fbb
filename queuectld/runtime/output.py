"""
The output of attempts: one file each, written by the job itself, in the order written.

`output/<number // 1000>/<number>.<attempt>.log` under the state directory. The job holds the file
open for appending and nothing stands between: its output is complete whatever happens to the
daemon. So the output limit cannot be kept at the pipe; instead the daemon looks at the size of the
running attempts' files once a second, and once more at their end, and punches the middle out of
one that is over its limit. The beginning and the end stay, at their offsets; a reader finds the
hole with SEEK_DATA and SEEK_HOLE.
"""

import ctypes
import errno
import fcntl
import os
import struct
from typing import NamedTuple

READ_BYTES_MAX = 64 << 10
#: Attempts of this many jobs, by their numbers, share a folder.
BUCKET_JOBS = 1000
_TAIL_BLOCK_BYTES = 64 << 10
# How far back the last lines are looked for: output without newlines must not stall the daemon.
TAIL_BYTES_MAX = 64 << 20
# Holes begin and end at multiples of this, so that whole blocks of any file system are freed.
_HOLE_ALIGN_BYTES = 64 << 10
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  # linux/fs.h
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, fallocate(2)


class Chunk(NamedTuple):
    """
    Output bytes from `offset` on; `dropped_bytes` before them are gone.
    """

    offset: int
    data: bytes
    dropped_bytes: int


class OutputStore:
    """
    The files below one directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _spread_folders(directory)
        self._bucket_made = -1

    def path(self, number: int, attempt: int) -> str:
        """
        Return where an attempt's output is.
        """
        return f"{self._directory}/{number // BUCKET_JOBS}/{number}.{attempt}.log"

    def create(self, number: int, attempt: int) -> int:
        """
        Return a descriptor for a job to write to. Raises OSError.

        The file may be there: an attempt that was decided but not started before a crash.
        """
        if self._bucket_made != number // BUCKET_JOBS:
            os.makedirs(f"{self._directory}/{number // BUCKET_JOBS}", mode=0o700, exist_ok=True)
            self._bucket_made = number // BUCKET_JOBS
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path(number, attempt), flags, 0o600)

    def open(self, number: int, attempt: int) -> int | None:
        """
        Return a descriptor to read an attempt's output from, None if there is no such file.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.path(number, attempt), flags)
        except FileNotFoundError:
            return None

    def delete(self, number: int, attempts: list[int]) -> None:
        """
        Delete the output of a job's attempts, and its folder when it was the last one in it.
        """
        for attempt in attempts:
            try:
                os.unlink(self.path(number, attempt))
            except FileNotFoundError:
                pass
        try:
            os.rmdir(f"{self._directory}/{number // BUCKET_JOBS}")
            self._bucket_made = -1
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def used_bytes(self, number: int, attempt: int) -> int:
        """
        Return how much disk an attempt's output takes; 0 if there is none.
        """
        try:
            found = os.stat(self.path(number, attempt))
        except FileNotFoundError:
            return 0
        return found.st_blocks * 512

    def limit(self, number: int, attempt: int, bytes_max: int) -> int:
        """
        Drop the middle of an attempt's output so that about half of *bytes_max* is left.

        Returns how many bytes were dropped now. Raises OSError where the file system cannot do it.
        """
        fd = os.open(self.path(number, attempt), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            keep = max(bytes_max // 4, _HOLE_ALIGN_BYTES)
            start = -(-keep // _HOLE_ALIGN_BYTES) * _HOLE_ALIGN_BYTES
            end = (size - keep) // _HOLE_ALIGN_BYTES * _HOLE_ALIGN_BYTES
            if end <= start:
                return 0
            used_blocks = os.fstat(fd).st_blocks
            punch_hole(fd, start, end - start)
            return max(used_blocks - os.fstat(fd).st_blocks, 0) * 512
        finally:
            os.close(fd)

    def files(self, bucket: str) -> list[tuple[str, int]]:
        """
        Return (path, job number) of every output file in one folder.
        """
        folder = f"{self._directory}/{bucket}"
        found = []
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []  # Its last file was deleted meanwhile.
        for name in names:
            number = name.partition(".")[0]
            if number.isdigit() and name.endswith(".log"):
                found.append((f"{folder}/{name}", int(number)))
        return found

    def buckets(self) -> list[str]:
        """
        Return the names of all folders.
        """
        return [name for name in os.listdir(self._directory) if name.isdigit()]


def punch_hole(fd: int, offset: int, length: int) -> None:
    """
    Free a part of a file without changing its size. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    offset_t = ctypes.c_int64
    if libc.fallocate(fd, _PUNCH_HOLE_KEEP_SIZE, offset_t(offset), offset_t(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def read_chunk(fd: int, offset: int) -> Chunk:
    """
    Return output from *offset* on, past a hole if there is one. No data: the end, for now.
    """
    size = os.fstat(fd).st_size
    if offset >= size:
        return Chunk(offset, b"", 0)
    data_at = _seek(fd, offset, os.SEEK_DATA, size)
    if data_at == size:
        return Chunk(size, b"", size - offset)
    # What lies behind the next hole is the next chunk: the hole itself reads as zeros.
    hole_at = _seek(fd, data_at, os.SEEK_HOLE, size)
    data = os.pread(fd, min(hole_at - data_at, READ_BYTES_MAX), data_at)
    return Chunk(data_at, data, data_at - offset)


def tail_offset(fd: int, line_count: int) -> int:
    """
    Return where the last *line_count* lines begin. A last line need not end in a newline.

    Lines are not looked for before a hole, nor further back than TAIL_BYTES_MAX.
    """
    end = os.fstat(fd).st_size
    if line_count <= 0:
        return end
    floor = _last_data(fd, max(end - TAIL_BYTES_MAX, 0), end)
    found = 0
    position = end
    while position > floor:
        start = max(floor, position - _TAIL_BLOCK_BYTES)
        block = os.pread(fd, position - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if start + at == end - 1:
                continue  # The newline that ends the last line begins none.
            found += 1
            if found == line_count:
                return start + at + 1
        position = start
    return floor


def _last_data(fd: int, start: int, end: int) -> int:
    """
    Return where the last stretch of data between *start* and *end* begins.
    """
    hole_at = start
    while hole_at < end:
        data_at = _seek(fd, hole_at, os.SEEK_DATA, end)
        if data_at < end:
            start = data_at
        hole_at = _seek(fd, data_at, os.SEEK_HOLE, end)
    return start


def _seek(fd: int, offset: int, whence: int, end: int) -> int:
    """
    Return where data, or a hole, is from *offset* on: *end* if there is none before it.
    """
    try:
        return min(os.lseek(fd, offset, whence), end)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        if error.errno == errno.EINVAL:  # A file system that does not tell: all of it is data.
            return offset if whence == os.SEEK_DATA else end
        raise


def _spread_folders(directory: str) -> None:
    """
    Tell ext4 that the folders below belong apart (chattr +T), where it takes that.

    It would put all of them, and so the files of all jobs, into one group of inodes, and look for a
    free one from its beginning, past those that were freed: where there are many that takes longer
    than all else that a start needs (bench/README.md, "What to know when reading it").
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))
        if not flags & _FS_TOPDIR_FL:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("i", flags | _FS_TOPDIR_FL))
    except OSError:
        pass  # Another file system, or not allowed: it is a hint and no more.
    finally:
        os.close(fd)
