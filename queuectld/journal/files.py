"""
The operating system calls of the journal, one method each.

Everything the journal does to a disk goes through one object of this class, so that a twin
can fail each call, keep the files in memory, or cut the power between any two of them. No
method decides anything. All raise OSError; names are relative to a directory descriptor.
"""

import fcntl
import os

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Files:
    """
    The real calls. EINTR is retried by the interpreter, short writes are the caller's.
    """

    def mkdir(self, path: str) -> None:
        """
        Make a directory for its owner alone.
        """
        os.mkdir(path, 0o700)

    def open_directory(self, path: str) -> int:
        """
        A descriptor of the directory at *path*; a symbolic link in its last part is followed.
        """
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def lock(self, fd: int) -> None:
        """
        Take the exclusive lock of an open directory, or raise BlockingIOError at once.
        """
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def owner(self) -> int:
        """
        The user that new files will belong to.
        """
        return os.geteuid()

    def fstat(self, fd: int) -> os.stat_result:
        """
        Owner, mode and size of an open file or directory.
        """
        return os.fstat(fd)

    def filesystem_type(self, fd: int) -> str:
        """
        The kernel's name of the file system an open file is on, "" if it does not say.
        """
        # A device number does not find its mount (btrfs makes numbers up); the mount id does.
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as fdinfo:
            mount_id = next((line.split()[1] for line in fdinfo if line.startswith("mnt_id")), "")
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                if line.split(" ", 1)[0] == mount_id:
                    return line.partition(" - ")[2].split(" ", 1)[0]
        return ""

    def listdir(self, fd: int) -> list[str]:
        """
        The names in an open directory, in no order.
        """
        return os.listdir(fd)

    def create(self, directory_fd: int, name: str) -> int:
        """
        Make a new file for its owner alone and open it for reading and writing.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS
        return os.open(name, flags, 0o600, dir_fd=directory_fd)

    def open(self, directory_fd: int, name: str, *, writable: bool = False) -> int:
        """
        Open an existing file for reading, or for reading and writing.
        """
        # O_NONBLOCK: a FIFO under this name must not hang the daemon.
        access = os.O_RDWR if writable else os.O_RDONLY
        return os.open(name, access | os.O_NONBLOCK | _FLAGS, dir_fd=directory_fd)

    def close(self, fd: int) -> None:
        """
        Give up a descriptor, and the lock if it is the directory's.
        """
        os.close(fd)

    def pread(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """
        Up to *size_bytes* bytes from *offset*; fewer at the end of the file.
        """
        return os.pread(fd, size_bytes, offset)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """
        Write at *offset*; return how many bytes were taken, which may be fewer.
        """
        return os.pwrite(fd, data, offset)

    def ftruncate(self, fd: int, size_bytes: int) -> None:
        """
        Cut a file off at *size_bytes*.
        """
        os.ftruncate(fd, size_bytes)

    def fdatasync(self, fd: int) -> None:
        """
        Wait until the bytes of a file are durable, and its size if that changed.
        """
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """
        Wait until a file, or the names in a directory, are durable.
        """
        os.fsync(fd)

    def rename(self, directory_fd: int, old: str, new: str) -> None:
        """
        Give a file another name in the same directory, replacing what had it.
        """
        os.rename(old, new, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)

    def unlink(self, directory_fd: int, name: str) -> None:
        """
        Remove a name.
        """
        os.unlink(name, dir_fd=directory_fd)


def write_all(files: Files, fd: int, data: bytes, offset: int) -> None:
    """
    Write *data* at *offset*, however many calls that takes.
    """
    written = files.pwrite(fd, data, offset)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        count = files.pwrite(fd, view[written:], offset + written)
        if count <= 0:
            raise OSError("the kernel took none of the bytes of a write")
        written += count


def read_all(files: Files, fd: int, size_bytes: int, offset: int) -> bytes:
    """
    Read *size_bytes* bytes from *offset*, fewer only if the file ends before.
    """
    data = files.pread(fd, size_bytes, offset)
    if len(data) == size_bytes or not data:
        return data
    parts = [data]
    missing = size_bytes - len(data)
    while missing and (data := files.pread(fd, missing, offset + size_bytes - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)
