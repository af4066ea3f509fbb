"""
Finding the processes that the ledger means.

STARTED names a pid, which by itself proves nothing: the process of that number must have been made
when the ledger says, and be of the account that it says.

An INTENT without STARTED is all there is when the runner before was killed between making the
process and writing that down, or had no room to write. To call that attempt lost while its process
goes on would be to run the job twice at once. So the process is looked for:

    session      it leads its own, as each run does to its end
    time         it was made after the INTENT
    parent       not made after it: who takes in orphans was there before the runner
    account      the run's, or root's
    traces       it writes to the attempt's output file, or its variables name the attempt

If there is none, the attempt is over: its end is one that nobody saw. If there is one, STARTED is
written, and the run goes on.

Invariants
1. No process is too young to be found. Who looks has the lock of the runner's directory, and every
   child of the runner before has it with a descriptor of that directory, which it closes, or loses
   when it executes a program, only after it has made its session and taken its output.
2. No account can have the process of another taken for its run. Output files are open to no other
   account. Variables anybody can set, so they count for processes of the run's own account, and
   not for root's: root's uid can be that of a set-user-ID program, started by whoever.
3. What is found led its session, but may be one that the run made and left behind when it ended.
   So its end is never taken for that of the run: it is one that nobody saw.

What has by then given itself other outputs as well as other variables is not found; nor, unless we
are root, is a set-user-ID program, which we may not look into.
"""

import os
import zlib
from collections.abc import Mapping

from queuectld.runner import process
from queuectld.runner.clock import boottime_ns
from queuectld.runner.ledger import Intent, Ledger, Started, unseen
from queuectld.runner.messages import UID_OWN
from queuectld.runner.process import Process

#: The kernel lets nobody start with more, but a process may point it at any memory it has.
ENVIRON_BYTES_MAX = 8 * 1024 * 1024

_JOB_ID, _ATTEMPT = b"QUEUECTL_JOB_ID", b"QUEUECTL_ATTEMPT"


def traces(output_fd: int, env: Mapping[bytes, bytes]) -> tuple[int, int, int]:
    """
    What a process with this output and these variables will be known by, the last three fields of
    its `Intent`. Raises `OSError`.
    """
    found = os.fstat(output_fd)
    return found.st_dev, found.st_ino, zlib.crc32(env.get(_JOB_ID, b""))


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


def resolve(ledger: Ledger, now: int) -> None:
    """
    Give each INTENT of a ledger its STARTED or its end, at `now` in ms since the epoch. Raises
    `OSError` when the host has no room to look.
    """
    # One at most, unless records were damaged: what waits for room goes out before the next INTENT.
    for intent in ledger.intents():
        found = _seek(intent, {started.pid for started in ledger.started()})
        if found is not None:
            ledger.start(found)
        else:
            ledger.exit(unseen(intent.job, intent.attempt, intent.at, now))


def _seek(intent: Intent, known_pids: set[int]) -> Started | None:
    """
    The process of an attempt, which is none of those known.
    """
    found = [
        each
        for each in process.every()
        if each.session == each.pid and each.pid not in known_pids and _is_run_of(each, intent)
    ]
    if not found:
        return None
    # What a run made is younger than the run.
    leader = min(found, key=lambda each: (each.start_ticks, each.pid))
    made_ns = leader.start_ns
    return Started(
        intent.job,
        intent.attempt,
        intent.at,
        leader.pid,
        made_ns,
        made_ns,
        intent.uid,
        is_found=True,
    )


def _is_run_of(leader: Process, intent: Intent) -> bool:
    since_ns, now_ns = intent.made_from_ns, boottime_ns()
    if not leader.was_made_between(since_ns, now_ns):
        return False
    parent = process.read(leader.parent)
    if parent is not None and parent.was_made_between(since_ns, now_ns):
        return False
    uid = os.geteuid() if intent.uid == UID_OWN else intent.uid
    real_uid = process.real_uid(leader.pid)
    if real_uid not in (uid, 0):
        return False
    return _has_output(leader.pid, intent) or (
        real_uid == uid != 0 and _has_name(leader.pid, intent)
    )


def _has_output(pid: int, intent: Intent) -> bool:
    for fd in (1, 2):
        try:
            found = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError as error:
            if process.is_shortage(error):
                raise
            continue  # It ended, or closed it, or we may not see it, or that file cannot be read.
        if (found.st_dev, found.st_ino) == (intent.output_device, intent.output_inode):
            return True
    return False


def _has_name(pid: int, intent: Intent) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            text = file.read(ENVIRON_BYTES_MAX)
    except OSError as error:
        if process.is_shortage(error):
            raise
        return False  # It ended, or we may not see it.
    env = dict(setting.partition(b"=")[::2] for setting in text.split(b"\0"))
    return (
        env.get(_ATTEMPT) == str(intent.attempt).encode()
        and _JOB_ID in env
        and zlib.crc32(env[_JOB_ID]) == intent.job_id_crc
    )


def _may_be_of(pid: int, uid: int) -> bool:
    """
    Whether a process can be a run under `uid`: it is of that account, or of root, which a
    program with the set-user-ID bit made it. As root we signal what we adopt, so the start time
    is not all that is looked at.
    """
    return uid == UID_OWN or process.real_uid(pid) in (uid, 0)
