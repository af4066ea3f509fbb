"""
What of our rights an execve(2) under another account would keep: the inheritable capabilities, and
with them the ambient ones. systemd as PID 1 has some in containers and hands them to every service,
and no setting of a unit takes them away and leaves root its others.

To give them up is always permitted.
"""

import os

_VERSION_3 = 0x20080522  # <linux/capability.h>: two words of each set


def inheritable() -> int:
    """
    Return the capabilities of this process, as bits, that a job would have too.
    """
    with open("/proc/self/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file)
    return int(fields[b"CapInh"], 16) | int(fields[b"CapAmb"], 16)


def give_up_inheritable() -> None:
    """
    Empty both sets of this process, which has one thread. Raises `OSError`.
    """
    if not inheritable():
        return
    # Here, because hardly any runner has something to give up.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the high words
    done = libc.capget(header, data)
    if done == 0:
        data[2] = data[5] = 0
        # An ambient capability that is not inheritable any more is dropped by the kernel.
        done = libc.capset(header, data)
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot give up inheritable capabilities: {os.strerror(number)}")
    assert not inheritable()
