"""
What the kernel says about processes: their session, their age, how they ended.

A pid by itself proves nothing, because numbers are used again. Three things do: being the parent
of a process that was not waited for (its number stays taken, and so does that of its session), a
pidfd, and the pid together with the start time in /proc. A number also stays taken while any
process has it as its session, whoever the parent is.

The start time of a child need not be read: it lies between two looks at the clock around the call
that made it. No other process can have this pid and a start time in between, since the child
itself held the pid at both looks.
"""

import errno
import fcntl
import os
import signal
import struct
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PIDFD_INFO = struct.Struct("=QQ11Ii")  # struct pidfd_info, its first version: 64 bytes
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64)


class Process(NamedTuple):
    pid: int
    state: bytes
    parent: int
    group: int
    session: int
    start_ticks: int  # since boot, 100 to a second as a rule

    def was_made_between(self, from_ns: int, to_ns: int) -> bool:
        """
        Whether it was made between these times, of the clock since boot.
        """
        return from_ns // _TICK_NS <= self.start_ticks <= to_ns // _TICK_NS

    @property
    def start_ns(self) -> int:
        """
        When it was made, of the clock since boot, to the tick.
        """
        return self.start_ticks * _TICK_NS


class Reserve:
    """
    Descriptors kept for looking at processes: `with` it they are free to be used. Without them a
    runner whose descriptors are all taken by runs could not see those runs end, and would never
    have one free again.
    """

    _COUNT = 2  # a pidfd, and a file of /proc

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    def __enter__(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __exit__(self, *error: object) -> None:
        self._fill()

    def _fill(self) -> None:
        try:
            while len(self._fds) < self._COUNT:
                self._fds.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            pass  # The whole host has none left: fewer are kept until the next time.


def read(pid: int) -> Process | None:
    """
    Look at a process; None when it is gone, or where another account's are hidden (proc(5), hidepid
    1 or 2). Raises `OSError` when the host has no room to look.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        text = os.read(fd, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    # The name comes second, in parentheses, and may hold anything, parentheses too.
    fields = text[text.rindex(b")") + 2 :].split()
    parent, group, session = map(int, fields[1:4])
    return Process(pid, fields[0], parent, group, session, int(fields[19]))


def real_uid(pid: int) -> int | None:
    """
    The real uid of a process; None and `OSError` as with `read`.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return int(text.partition(b"\nUid:")[2].split(maxsplit=1)[0])


def every() -> Iterator[Process]:
    """
    Every process of the host that still executes: zombies are not among them. Costs one look at
    each. Raises `OSError` when the host has no room to look.
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read(int(name))
            if process is not None and process.state not in b"ZXx":
                yield process


def living(sessions: Container[int]) -> list[Process]:
    """
    Those of these sessions. Costs and raises what `every` does.
    """
    return [process for process in every() if process.session in sessions]


def signal_session(leader: int, signos: Sequence[int], is_child: bool) -> None:
    """
    Send every process of a session these signals, in order. `is_child` says that the leader is an
    unreaped child of ours: then its process group is signalled in one step, from which no fork
    escapes. Other groups (a shell with job control and timeout(1) make them) are signalled process
    by process. A process that has made a session of its own is out of reach.
    Raises `OSError` when the host has no room to look for those.
    """
    if is_child:
        for signo in signos:
            try:
                os.killpg(leader, signo)
            except PermissionError:
                pass  # All of it runs set-user-id as another user, out of our reach.
            except ProcessLookupError:
                os.kill(leader, signo)  # Its first moments, before it has made its session.
    for process in living({leader}):
        if not is_child or process.group != leader:
            _signal(process, signos)


def _signal(process: Process, signos: Sequence[int]) -> None:
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # Asked after opening: if it is this process now, the pidfd is of this process.
        now = read(process.pid)
        if now is not None and now.start_ticks == process.start_ticks:
            for signo in signos:
                signal.pidfd_send_signal(fd, signo)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(fd)


def exit_status(pidfd: int) -> int | None:
    """
    The wait(2) status of a process that somebody else waited for; None while nobody did. Raises
    `OSError` when this kernel (before 6.15) does not tell.
    """
    info = bytearray(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(info, 0, _PIDFD_INFO_EXIT, *([0] * 13))
    fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info, True)
    mask, *_, status = _PIDFD_INFO.unpack(info)
    return status if mask & _PIDFD_INFO_EXIT else None


def is_shortage(error: OSError) -> bool:
    """
    Whether the host lacked room (descriptors, processes, memory, disk), rather than the request
    being wrong.
    """
    return error.errno in SHORTAGES


SHORTAGES = frozenset(
    (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
)
