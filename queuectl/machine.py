"""
What doctor looks at outside of queuectl: files, groups, processes, the clock, cgroups.

Everything is read, nothing changed, and what cannot be read is None: a doctor that fails on a
machine that is not well is of no use. Paths of the kernel's begin at `root`, so that tests bring
their own.
"""

import ctypes
import grp
import os
import pwd
import time
from typing import NamedTuple

from queuectl.discovery import SYSTEM_SOCKET

#: adjtimex(2): the kernel's clock is not being kept right by anybody.
_TIME_ERROR = 5


class FileSystem(NamedTuple):
    """
    The file system that holds a path. Sizes for those who are not root.
    """

    kind: str  # as in mountinfo: "ext4"
    mount: str
    read_only: bool
    free_bytes: int
    size_bytes: int
    free_inode_count: int | None  # None where there is no fixed number of them


class Owner(NamedTuple):
    """
    Whose a file is, and who may do what with it.
    """

    uid: int
    gid: int
    mode: int


class Machine:
    """
    The host, as the user of this process sees it.
    """

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def uid(self) -> int:
        """
        Return the user's number.
        """
        return os.geteuid()

    def user_name(self, uid: int) -> str:
        """
        Return the account's name, or its number where it has none.
        """
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    def group_name(self, gid: int) -> str:
        """
        Return the group's name, or its number where it has none.
        """
        try:
            return grp.getgrgid(gid).gr_name
        except KeyError:
            return str(gid)

    def active_groups(self) -> set[int]:
        """
        Return the groups of this process.
        """
        return {os.getegid(), *os.getgroups()}

    def listed_groups(self) -> set[int]:
        """
        Return the groups that a new login would have.
        """
        try:
            account = pwd.getpwuid(os.geteuid())
        except KeyError:
            return set()
        return set(os.getgrouplist(account.pw_name, account.pw_gid))

    def owner(self, path: str) -> Owner | None:
        """
        Return whose *path* is; None where there is no such file, or it is out of sight.
        """
        try:
            found = os.stat(path)
        except OSError:
            return None
        return Owner(found.st_uid, found.st_gid, found.st_mode)

    def file_system(self, path: str) -> FileSystem | None:
        """
        Return what holds *path*; its directory will do where it is not there yet.
        """
        while True:
            try:
                stats = os.statvfs(path)
                break
            except (FileNotFoundError, NotADirectoryError):
                if path == "/":
                    return None
                path = os.path.dirname(path)
            except OSError:
                return None
        mount, kind = self._mount_of(os.path.realpath(path))
        return FileSystem(
            kind=kind,
            mount=mount,
            read_only=bool(stats.f_flag & os.ST_RDONLY),
            free_bytes=stats.f_bavail * stats.f_frsize,
            size_bytes=stats.f_blocks * stats.f_frsize,
            free_inode_count=stats.f_favail if stats.f_files else None,
        )

    def runs_systemd(self) -> bool:
        """
        Whether systemd is the machine's service manager.
        """
        return os.path.isdir(self._path("run/systemd/system"))

    def has_idle_system_queue(self) -> bool:
        """
        Whether the machine has units for a queue of its own, and nobody listens for them.
        """
        unit = os.path.exists(self._path("usr/lib/systemd/system/queuectld.socket"))
        return unit and not os.path.exists(self._path(SYSTEM_SOCKET.lstrip("/")))

    def lingers(self, uid: int) -> bool:
        """
        Whether the user's services stay when the user has logged out.
        """
        name = self.user_name(uid)
        return os.path.exists(self._path(f"var/lib/systemd/linger/{name}"))

    def cgroup(self, pid: int) -> str | None:
        """
        Return the process's cgroup, as a path below the root of the one hierarchy.
        """
        text = self._read(f"proc/{pid}/cgroup")
        for line in (text or "").splitlines():
            if line.startswith("0::"):
                return line[3:]
        return None

    def is_delegated(self, cgroup: str) -> bool | None:
        """
        Whether systemd left the cgroup, or one above it, to its processes. None: not known.
        """
        path = self._path(f"sys/fs/cgroup{cgroup}")
        top = self._path("sys/fs/cgroup")
        while len(path) >= len(top):
            try:
                if os.getxattr(path, "user.delegate") == b"1":
                    return True
            except FileNotFoundError:
                return None
            except OSError:
                pass  # It has none, or a kernel or systemd before they were there.
            path = os.path.dirname(path)
        return False

    def started_at(self, pid: int) -> int | None:
        """
        Return when a process was started, by the clock as it is now, milliseconds.
        """
        text = self._read(f"proc/{pid}/stat")
        if text is None:
            return None
        # The name, which is the second field, may hold anything.
        ticks = int(text.rpartition(")")[2].split()[19])
        since_boot_ms = ticks * 1000 // os.sysconf("SC_CLK_TCK")
        booted_at = (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1_000_000
        return booted_at + since_boot_ms

    def is_synchronized(self) -> bool | None:
        """
        Whether the clock is kept right (NTP, or whatever tells the kernel so). None: not known.
        """
        try:
            library = ctypes.CDLL(None, use_errno=True)
            # struct timex: modes = 0 only asks. It has 208 bytes; more do not harm.
            answer = library.adjtimex(ctypes.create_string_buffer(512))
        except (OSError, AttributeError):
            return None
        return None if answer < 0 else answer != _TIME_ERROR

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _read(self, name: str) -> str | None:
        try:
            with open(self._path(name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def _mount_of(self, path: str) -> tuple[str, str]:
        best, kind = "", "unknown"
        for line in (self._read("proc/self/mountinfo") or "").splitlines():
            fields, _, rest = line.partition(" - ")
            mount = fields.split(" ")[4].encode().decode("unicode_escape")
            inside = path == mount or path.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):  # Later ones lie over earlier ones.
                best, kind = mount, rest.split(" ")[0]
        return best, kind
