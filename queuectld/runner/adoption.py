"""
Finding the process that the ledger means by a pid, which by itself proves nothing: the process of
that number must have been made when the ledger says, and be of the account that it says.
"""

import os

from queuectld.runner import process
from queuectld.runner.ledger import Started
from queuectld.runner.messages import UID_OWN


def find(started: Started) -> tuple[int, bool]:
    """
    The pidfd of a run's process, and whether it is our child: then its number was not given away,
    and its end is ours to wait for. -1 when it is there no more. Raises `OSError` when the host has
    no room to look.
    """
    try:
        pidfd = os.pidfd_open(started.pid)
    except ProcessLookupError:
        return -1, False
    # Asked after opening: if it is this process now, the pidfd is of this process.
    found = process.read(started.pid)
    if (
        found is not None
        and found.was_made_between(started.made_from_ns, started.made_to_ns)
        and _may_be_of(started.pid, started.uid)
    ):
        return pidfd, found.parent == os.getpid()
    os.close(pidfd)
    return -1, False


def _may_be_of(pid: int, uid: int) -> bool:
    """
    Whether a process can be a run under `uid`: it is of that account, or of root, which a
    program with the set-user-ID bit made it. As root we signal what we adopt, so the start time
    is not all that is looked at.
    """
    return uid == UID_OWN or process.real_uid(pid) in (uid, 0)
