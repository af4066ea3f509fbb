"""
Pidfds of runs in the keeping of systemd, so that a runner that follows one that was killed has
them: only who held a pidfd when init reaped the process can be told afterwards how it ended.

    a run lasts     FDSTORE=1, FDNAME=job.attempt.started_at, FDPOLL=0     sd_notify(3)
    it was ACKed    FDSTOREREMOVE=1
    a new runner    LISTEN_FDS, LISTEN_FDNAMES                             sd_listen_fds(3)

FDPOLL=0, because systemd drops what hangs up, and a pidfd hangs up when its process is reaped.

Invariants
1. Without NOTIFY_SOCKET nothing is kept and nothing is said.
2. Nothing waits: what systemd has no room for now is said again after RETRY_MS.
3. Only a run that has lasted STORE_AFTER_MS is stored. Storing and removing each short one would
   add a fifth to the runner's own work for it, and as many messages to systemd's. The next runner
   finds a younger run by its pid, and misses only one that ends before there is a next runner: it
   is lost. What a runner adopts it stores at once.

systemd keeps FileDescriptorStoreMax= descriptors and passes over more. The names of all must fit
into one variable of the environment (128 KiB), or no new runner could be started.
"""

import os
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Iterable, MutableMapping

from queuectld.runner.ledger import Key

STORE_AFTER_MS = 1_000
RETRY_MS = 1_000

_LISTEN_FDS_FIRST = 3
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class FdStore:
    """
    What systemd keeps for us and is to keep; `address` is NOTIFY_SOCKET, empty without one.
    Times are in monotonic ms.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        #: Runs to be stored: their name, their pidfd, and when. Oldest first.
        self._due: OrderedDict[Key, tuple[str, int, int]] = OrderedDict()
        self._stored: dict[Key, str] = {}
        #: Names that systemd has yet to hear that it can drop.
        self._unwanted: deque[str] = deque()
        self._retry_at = 0

    def keep(self, key: Key, name: str, pidfd: int, at: int) -> None:
        """
        Store this pidfd at that time, which is not before that of any other. It must stay open
        until `let_go`.
        """
        if self._address and key not in self._stored:
            self._due[key] = name, pidfd, at

    def let_go(self, key: Key) -> None:
        """
        Store a run no more if it was not yet: it ended.
        """
        self._due.pop(key, None)

    def remove(self, key: Key) -> None:
        """
        Have a run dropped: its end is known to all.
        """
        name = self._stored.pop(key, None)
        if name is not None:
            self._unwanted.append(name)

    def restore(self, stored: Iterable[str], wanted: Iterable[Key]) -> None:
        """
        Take note of what systemd has from a runner before; all but `wanted` is dropped.
        """
        keys = set(wanted)
        for name in stored:
            key = _key_of(name)
            if key in keys and key not in self._stored:
                self._stored[key] = name
            else:
                self._unwanted.append(name)

    def names(self) -> list[str]:
        """
        What systemd has.
        """
        return [*self._stored.values(), *self._unwanted]

    def next_at(self) -> int | None:
        """
        When to call `attend`; None: there is nothing to say.
        """
        if self._unwanted:
            return self._retry_at
        if self._due:
            return max(self._retry_at, next(iter(self._due.values()))[2])
        return None

    def attend(self, now: int) -> None:
        """
        Say what is due.
        """
        if now < self._retry_at:
            return
        try:
            while self._unwanted:
                notify(self._address, f"FDSTOREREMOVE=1\nFDNAME={self._unwanted[0]}")
                self._unwanted.popleft()
            while self._due:
                key, (name, pidfd, due_at) = next(iter(self._due.items()))
                if now < due_at:
                    return
                notify(self._address, f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", pidfd)
                del self._due[key]
                self._stored[key] = name
        except OSError:
            self._retry_at = now + RETRY_MS


def name_of(job: int, attempt: int, started_at: int) -> str:
    """
    The name of an attempt's descriptor. The time tells it from that of a queue that was there
    before, under the same number.
    """
    return f"{job}.{attempt}.{started_at}"


def _key_of(name: str) -> Key | None:
    numbers = name.split(".")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def notify(address: str, text: str, fd: int = -1, wait: bool = False) -> None:
    """
    Tell the service manager, if there is one; `wait` until it has room to hear it. Raises
    `OSError`.
    """
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    flags = 0 if wait else int(socket.MSG_DONTWAIT)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))] if fd >= 0 else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_manager:
        to_manager.sendmsg([text.encode()], rights, flags, address)


def take_listen_fds(environ: MutableMapping[str, str], pid: int) -> dict[str, int]:
    """
    The descriptors that systemd had in store, by name, no longer to be inherited. Of several with
    one name the last is taken and the others are closed. The variables are removed.
    """
    values = [environ.pop(variable, "") for variable in _LISTEN_VARIABLES]
    if values[0] != str(pid) or not values[1].isdecimal():
        return {}
    found: dict[str, int] = {}
    for fd, name in enumerate(values[2].split(":")[: int(values[1])], _LISTEN_FDS_FIRST):
        os.set_inheritable(fd, False)
        if name in found:
            os.close(found[name])
        found[name] = fd
    return found
