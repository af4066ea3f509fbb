"""
Being let in soon: the daemon and the runner have little to do each time, and jobs keep the
processors busy.

Linux 6.12 and later let a thread say for how long it wants to run at a time (sched_setattr(2),
sched_runtime under SCHED_OTHER). Who asks for little gets no more of the processor than its share,
but is let in sooner when it wakes. Older kernels pass over it. What is started from here, jobs
above all, has the usual slice again.
"""

import ctypes
import os
import struct

#: The shortest that the kernel takes.
SLICE_NS = 100_000

#: The numbers of sched_setattr(2), which glibc has a function for since 2.41 only: <asm/unistd.h>.
_NUMBERS = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
#: struct sched_attr in its first version, <linux/sched/types.h>: size, policy, flags, nice,
#: priority, runtime, deadline, period.
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
_RESET_ON_FORK = 1


def ask_for_short_slices() -> None:
    """
    Ask for them, for this thread. It is a wish: nothing is said if it is not granted.

    Who was given more than others (a nice value below 0, another policy) keeps that, for itself and
    for its jobs, and does not ask: what resets the slice of what is started would reset it too.
    """
    number = _NUMBERS.get(os.uname().machine)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if number is None or nice < 0 or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    attributes = _ATTRIBUTES.pack(
        _ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, SLICE_NS, 0, 0
    )
    this_thread, no_flags = ctypes.c_long(0), ctypes.c_ulong(0)
    ctypes.CDLL(None).syscall(ctypes.c_long(number), this_thread, attributes, no_flags)
