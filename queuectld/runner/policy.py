"""
Which accounts may have jobs: a TOML file that only root can change, read by the runner itself, so
that a daemon that was taken over can at worst run jobs of those it names.

    uid_min       = 1000   accounts below are the system's: only those in allow_users may have jobs
    allow_users   = []     when either of these two is given, nobody else may have jobs
    allow_groups  = []
    deny_users    = []     these may not, whatever else is said
    deny_groups   = []
    allow_root    = false  root is neither denied nor allowed by the other keys

A group counts whether it is an account's first or one of its others. Names that do not exist
match nobody.
"""

import os
import stat
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from queuectld.runner.messages import (
    BELOW_UID_MIN,
    DENIED_GROUP,
    DENIED_USER,
    NOT_ALLOWED,
    ROOT,
    UID_OWN,
)


class PolicyError(Exception):
    """
    The policy cannot be trusted, or cannot be understood.
    """


class Policy(NamedTuple):
    uid_min: int = 1000
    allow_users: frozenset[str] = frozenset()
    deny_users: frozenset[str] = frozenset()
    allow_groups: frozenset[str] = frozenset()
    deny_groups: frozenset[str] = frozenset()
    allow_root: bool = False

    def reason_against(
        self, uid: int, user: str, gids: Collection[int], gid_of: Callable[[str], int | None]
    ) -> int:
        """
        Why this account may not have jobs (a reason of messages.py), or 0. `gids` are all groups
        it is in; `gid_of` finds a group by name, None when there is none.
        """
        if uid == 0:
            return 0 if self.allow_root else ROOT
        if user in self.deny_users:
            return DENIED_USER
        if any(gid_of(group) in gids for group in self.deny_groups):
            return DENIED_GROUP
        if user in self.allow_users:
            return 0
        if uid < self.uid_min:
            return BELOW_UID_MIN
        if self.allow_groups:
            is_allowed = any(gid_of(group) in gids for group in self.allow_groups)
            return 0 if is_allowed else NOT_ALLOWED
        return NOT_ALLOWED if self.allow_users else 0


def read_policy(path: str) -> Policy:
    """
    Read the policy. Raises `PolicyError` when the file, or a directory above it, can be written
    by anybody but root, or when it says what no policy does; `OSError` when it cannot be read.
    """
    # Here, because the runner of one account has no policy, and starts faster without.
    import tomllib

    try:
        table = tomllib.loads(_read_trusted(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None
    for key, value in table.items():
        _check(path, key, value)
    fields: dict[str, Any] = {
        key: frozenset(value) if isinstance(value, list) else value for key, value in table.items()
    }
    return Policy()._replace(**fields)


def _check(path: str, key: str, value: Any) -> None:
    known = Policy()._asdict()
    if key not in known:
        import difflib

        near = difflib.get_close_matches(key, known, 1, 0.0)[0]
        raise PolicyError(f"{path}: unknown key {ascii(key)[1:-1]}; the nearest is {near}")
    if key == "uid_min":
        if type(value) is not int or not 0 <= value < UID_OWN:
            raise PolicyError(f"{path}: uid_min must be a number from 0 to {UID_OWN - 1}")
    elif key == "allow_root":
        if not isinstance(value, bool):
            raise PolicyError(f"{path}: allow_root must be true or false")
    elif not isinstance(value, list) or not all(isinstance(n, str) and n for n in value):
        raise PolicyError(f"{path}: {key} must be a list of names")


def _read_trusted(path: str) -> bytes:
    fd = open_trusted(path)
    try:
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def open_trusted(path: str) -> int:
    """
    Open a file that nobody but root can have written; its descriptor. Raises `PolicyError`,
    `OSError`.
    """
    # From the root down: below a directory that only root can write, nothing is exchanged
    # between this look and the next. A symbolic link is refused like any other odd thing.
    path = os.path.abspath(path)
    names = path.split("/")[1:]
    above = "/"
    for name in names:
        _expect_only_root_writes(above, os.lstat(above), stat.S_ISDIR, "a directory")
        above = os.path.join(above, name)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _expect_only_root_writes(path, os.fstat(fd), stat.S_ISREG, "a regular file")
    except PolicyError:
        os.close(fd)
        raise
    return fd


def _expect_only_root_writes(
    path: str, found: os.stat_result, is_kind: Callable[[int], bool], kind: str
) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not is_kind(found.st_mode):
        raise PolicyError(f"{path}: is not {kind}; name the file by its real path")
    if found.st_uid != 0:
        raise PolicyError(f"{path}: belongs to uid {found.st_uid}; it must be root's alone")
    # What an access list grants shows in the group's bits too.
    if mode & 0o022:
        raise PolicyError(f"{path}: mode {mode:04o} lets others write; it must be root's alone")
