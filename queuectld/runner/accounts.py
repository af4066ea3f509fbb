"""
Who a job runs as. A START names a uid and the name it had when the job was submitted; here they
become an account with its groups of today, or a refusal that says what became of it.

Asked in this order: does the uid exist, is its name still the same, does the policy allow it, is
the account locked, expired, or without a login shell (unless the policy names it). Locked means a
"!" before a password's hash, as usermod --lock puts it there: a bare "!" or "*" only says that
there is no password.

Accounts that were admitted are remembered for CACHE_MS_MAX, and only while the files of the
database stay as they are. The time is for what comes from elsewhere, such as a directory service.
"""

import errno
import grp
import os
import pwd
from collections.abc import Callable
from typing import NamedTuple

from queuectld.runner import messages
from queuectld.runner.clock import monotonic_ms, now_ms
from queuectld.runner.policy import read_policy
from queuectld.runner.program import SpawnError

CACHE_MS_MAX = 1_000
CACHE_COUNT_MAX = 1_000
#: Where programs are searched for a job that brings no PATH.
PATH = b"/usr/local/bin:/usr/bin:/bin"

_DAY_MS = 86_400_000
_FILES = ("/etc/passwd", "/etc/group", "/etc/shadow")
_NO_SHELLS = ("nologin", "false")
_SHELL = "/bin/sh"


class Entry(NamedTuple):
    """
    What the database says of an account.
    """

    name: str
    gid: int
    home: str
    shell: str


class Shadow(NamedTuple):
    password: str
    expires_day: int | None  # days since the epoch


class Account(NamedTuple):
    """
    An account that may have jobs now.
    """

    uid: int
    gid: int
    groups: list[int]  # sorted, gid among them
    env: dict[bytes, bytes]  # what its jobs are told about it

    def environment(self, env: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """
        The environment of a job that asked for `env`.
        """
        return {b"PATH": PATH, **env, **self.env}

    def complete(self, body: messages.Body) -> messages.Body:
        """
        Return `body` as it is executed: the directory found, the account in the environment.
        """
        cwd = directory_of(body.cwd, self.env.get(b"HOME"))
        return body._replace(cwd=cwd, env=self.environment(body.env))


class Database:
    """
    The host's accounts, in the few calls that are made of it: tests bring their own. All raise
    `OSError`.
    """

    def entry(self, uid: int) -> Entry | None:
        try:
            found = pwd.getpwuid(uid)
        except KeyError:
            return None
        return Entry(found.pw_name, found.pw_gid, found.pw_dir, found.pw_shell)

    def groups(self, name: str, gid: int) -> list[int]:
        return os.getgrouplist(name, gid)

    def gid_of(self, group: str) -> int | None:
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            return None

    def shadow(self, name: str) -> Shadow | None:
        try:
            with open("/etc/shadow", "rb") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        return read_shadow(text, name)

    def stamp(self) -> tuple[object, ...]:
        """
        Differs when one of the files was changed.
        """
        return tuple(_stamp(path) for path in _FILES)


class Accounts:
    """
    The accounts that the policy in the file `path` allows. Raises `PolicyError` and `OSError`.
    """

    def __init__(
        self,
        path: str,
        database: Database | None = None,
        clock: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._policy = read_policy(path)
        self._database = database or Database()
        self._clock = clock
        self._stamp: tuple[object, ...] = ()
        #: The account, and until when it may be used, in monotonic ms.
        self._admitted: dict[tuple[int, bytes], tuple[Account, int]] = {}

    def admit(self, uid: int, user: bytes) -> Account:
        """
        The account of `uid`, whose name was `user`. Raises `SpawnError`.
        """
        try:
            stamp = self._database.stamp()
            if stamp != self._stamp or len(self._admitted) >= CACHE_COUNT_MAX:
                self._admitted.clear()
                self._stamp = stamp
            now = self._clock()
            account, until = self._admitted.get((uid, user), (None, 0))
            if account is None or now >= until:
                account = self._look_up(uid, os.fsdecode(user))
                self._admitted[uid, user] = account, now + CACHE_MS_MAX
            return account
        except OSError as error:
            raise SpawnError(messages.SWITCH, error.errno or errno.EIO) from None

    def _look_up(self, uid: int, user: str) -> Account:
        if uid == messages.UID_OWN:
            # Our own account is root's, which a job has to be given by name like any other.
            raise SpawnError(messages.POLICY, 0, messages.ROOT)
        entry = self._database.entry(uid)
        if entry is None:
            raise SpawnError(messages.ACCOUNT, 0, messages.GONE)
        if entry.name != user:
            raise SpawnError(messages.ACCOUNT, 0, messages.RECYCLED)
        groups = sorted({entry.gid, *self._database.groups(user, entry.gid)})
        reason = self._policy.reason_against(uid, user, groups, self._database.gid_of)
        if reason != 0:
            raise SpawnError(messages.POLICY, 0, reason)
        has_shell = os.path.basename(entry.shell) not in _NO_SHELLS
        reason = reason_against(self._database.shadow(user), now_ms() // _DAY_MS)
        if reason == 0 and not has_shell and user not in self._policy.allow_users:
            reason = messages.SHELL
        if reason != 0:
            raise SpawnError(messages.ACCOUNT, 0, reason)
        return Account(uid, entry.gid, groups, variables_of(entry))


def variables_of(entry: Entry) -> dict[bytes, bytes]:
    """
    What jobs of an account are told about it.
    """
    has_shell = os.path.basename(entry.shell) not in _NO_SHELLS
    told = {
        "HOME": entry.home,
        "USER": entry.name,
        "LOGNAME": entry.name,
        "SHELL": (entry.shell if has_shell else "") or _SHELL,
    }
    return {name.encode(): os.fsencode(value) for name, value in told.items()}


def directory_of(cwd: bytes, home: bytes | None) -> bytes:
    """
    Where a job begins: `~`, and what is below it, is in the account's home. As for login(1), an
    account without one is at home in the root directory; where there is no account (None), `cwd`
    stays as it is and cannot be entered.
    """
    if home is None or not (cwd == b"~" or cwd.startswith(b"~/")):
        return cwd
    return (home if home.startswith(b"/") else b"/") + cwd[1:]


def reason_against(shadow: Shadow | None, today: int) -> int:
    """
    Why an account with this shadow entry cannot have jobs on that day, or 0.
    """
    if shadow is None:
        return 0
    if shadow.password.startswith("!") and shadow.password.strip("!*"):
        return messages.LOCKED
    if shadow.expires_day is not None and today >= shadow.expires_day:
        return messages.EXPIRED
    return 0


def read_shadow(text: bytes, name: str) -> Shadow | None:
    """
    Find an account in the text of /etc/shadow. An expiry that is no number is one long past.
    """
    start = os.fsencode(name) + b":"
    for line in text.split(b"\n"):
        if line.startswith(start):
            fields = [*line.split(b":"), *[b""] * 8]
            day = fields[7]
            if day in (b"", b"-1"):
                return Shadow(os.fsdecode(fields[1]), None)
            return Shadow(os.fsdecode(fields[1]), int(day) if day.isdigit() else 0)
    return None


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
