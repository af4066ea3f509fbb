"""
Who may open a journal: one process, its owner's, on a disk of this host.

The lock is flock on the directory itself, so there is no lock file that could be deleted
under its holder, and the kernel drops it with the process. It is never asked whether a
process id is alive.
"""

import os
import stat
from contextlib import suppress

from queuectld.journal.directory import Directory
from queuectld.journal.errors import JournalLocked, JournalUnsafe
from queuectld.journal.files import Files

# Where flock, rename or fsync may mean something else than on a local disk. FUSE is all
# names that begin with "fuse".
REMOTE_FILESYSTEMS = frozenset(
    {"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)


def lock_directory(files: Files, path: str) -> Directory:
    """
    Open the directory at *path* for this process alone; make it if it is missing.

    The caller closes the descriptor, which ends the lock. Raises JournalLocked,
    JournalUnsafe, OSError.
    """
    with suppress(FileExistsError):
        files.mkdir(path)
        _sync_parent(files, path)
    fd = files.open_directory(path)
    try:
        check_directory(files, fd, path)
        try:
            files.lock(fd)
        except BlockingIOError:
            raise JournalLocked(
                f"{path} is in use by another queuectld. Stop that one first, or give this "
                "one a state directory of its own."
            ) from None
    except BaseException:
        files.close(fd)
        raise
    return Directory(files, path, fd)


def check_directory(files: Files, fd: int, path: str) -> None:
    """
    Raise JournalUnsafe if others can reach into the directory or it is not on a local disk.
    """
    status = files.fstat(fd)
    owner = files.owner()
    if status.st_uid != owner:
        raise JournalUnsafe(
            f"{path} belongs to user {status.st_uid}, but this process runs as user {owner}. "
            f"Run it as its owner, or give it the directory: chown -R {owner} {path}"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise JournalUnsafe(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}; others could read commands "
            f"or change history. Close it: chmod 0700 {path}"
        )
    filesystem = files.filesystem_type(fd)
    if filesystem in REMOTE_FILESYSTEMS or filesystem.startswith("fuse"):
        raise JournalUnsafe(
            f"{path} is on a {filesystem} file system, which does not promise that a synced "
            "file survives or that a lock excludes. Choose a directory on a local disk."
        )


def _sync_parent(files: Files, path: str) -> None:
    parent = files.open_directory(os.path.dirname(os.path.abspath(path)))
    try:
        files.fsync(parent)
    finally:
        files.close(parent)
