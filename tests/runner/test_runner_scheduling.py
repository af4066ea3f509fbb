"""
Short slices: for the daemon and the runner, and for nothing that they start.
"""

import ctypes
import os
import struct
import subprocess
import sys

import pytest
from daemon_process import DaemonProcess

from queuectld.runner.scheduling import SLICE_NS

#: As sched_setattr(2) has it, and the number of sched_getattr(2) after its own.
ATTRIBUTES = struct.Struct("=IIQiIQQQ")
NUMBERS = {"x86_64": 315, "aarch64": 275, "riscv64": 275, "ppc64le": 356, "s390x": 346}
ASK = """
import subprocess
from queuectld.runner.scheduling import ask_for_short_slices
ask_for_short_slices()
job = subprocess.Popen(["sleep", "1000"])
print(job.pid, flush=True)
input()
job.kill()
"""


def slice_ns(pid: int) -> int:
    """
    Return how long a process runs at a time; 0 where the kernel does not say.
    """
    found = ctypes.create_string_buffer(ATTRIBUTES.size)
    arguments = (ctypes.c_long(pid), found, ctypes.c_ulong(ATTRIBUTES.size), ctypes.c_ulong(0))
    number = NUMBERS.get(os.uname().machine)
    if number is None or ctypes.CDLL(None).syscall(ctypes.c_long(number), *arguments) != 0:
        pytest.skip("sched_getattr(2) says nothing here")
    return int(ATTRIBUTES.unpack(found.raw)[5])


@pytest.fixture
def usual_ns() -> int:
    """
    The slice of this process, for which nobody asked.
    """
    found = slice_ns(os.getpid())
    if found == 0:
        pytest.skip("this kernel (before 6.12) lets nobody ask for a slice")
    assert found != SLICE_NS
    return found


def test_who_decides_and_who_starts_is_let_in_soon(daemon: DaemonProcess, usual_ns: int) -> None:
    """
    The daemon and the runner have short slices; a job of theirs has the usual one.
    """
    (job,) = daemon.enqueue("sleep 1000")
    ours = [slice_ns(pid) for pid in (daemon.pid, daemon.runner_pid)]
    assert [SLICE_NS, SLICE_NS, usual_ns] == [*ours, slice_ns(daemon.pid_of(job))]


@pytest.mark.parametrize("more", [5, 0, -5])
def test_who_is_preferred_stays_so(usual_ns: int, more: int) -> None:
    """
    A nice value stays what it is, of who asks and of what it starts. Where it is below 0, to ask
    would take it away from what is started: then nothing is asked.
    """
    if more < 0 and os.geteuid() != 0:
        pytest.skip("only root can be preferred")
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + more, 19)
    command = ["nice", "-n", str(more), sys.executable, "-c", ASK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        job = int(process.stdout.readline())
        slices = [slice_ns(pid) for pid in (process.pid, job)]
        assert [SLICE_NS if nice >= 0 else usual_ns, usual_ns] == slices
        assert [nice, nice] == [os.getpriority(os.PRIO_PROCESS, pid) for pid in (process.pid, job)]
        process.communicate(b"\n")
