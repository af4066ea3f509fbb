"""
What can be wrong with an installation, and the command that mends it.

Each check looks at one thing and returns what it found, one Finding or several: `ok`, `warning`
(it works, but will not in some case that is named) or `problem` (something does not work now). A
check of what cannot be seen from here returns nothing.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from queuectl.discovery import SYSTEM_SOCKET
from queuectl.durations import describe_duration
from queuectl.machine import Machine
from queuectl.protocol import StatusReport
from queuectl.sizes import describe_size

Level = Literal["ok", "warning", "problem"]

#: The group whose members may use the system's queue.
GROUP = "queuectl"
#: Less free space than this stops the journal before long; than the other one, some day.
FREE_BYTES_MIN = 64 << 20
FREE_BYTES_WARN = 1 << 30
FREE_INODES_MIN = 1000
#: A snapshot is made when segments outgrow it; a journal this large without one has a reason.
SNAPSHOT_BYTES = 256 << 20
SNAPSHOT_MS_MAX = 30 * 86_400_000
#: A clock that is slewed, and rounding, move less than this.
STEP_MS = 5_000
#: Locks and syncs mean something else there; the daemon refuses to start.
REMOTE_KINDS = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "afs")


class Finding(NamedTuple):
    """
    What one check found. `mend` is a command, where there is one that helps.
    """

    check: str
    level: Level
    text: str
    mend: str = ""


class Case(NamedTuple):
    """
    What is known about an installation. `report` is None if no daemon answered; `fault` says why.
    """

    machine: Machine
    client_version: str
    socket: str
    state_dir: str
    now: int  # milliseconds since the epoch
    report: StatusReport | None = None
    fault: str = ""
    fault_code: str = ""  # a word of errors.py

    @property
    def system(self) -> bool:
        """
        Whether it is the system's queue.
        """
        return self.socket == SYSTEM_SOCKET


def diagnose(case: Case) -> list[Finding]:
    """
    Return what all checks found, in the order in which things are to be mended.
    """
    return [finding for check in CHECKS for finding in check(case)]


def check_socket(case: Case) -> Iterator[Finding]:
    """
    Somebody listens at the socket, lets us in, and answers.
    """
    if case.report is not None:
        yield Finding("socket", "ok", f"a daemon answers at {case.socket}")
    elif case.fault_code == "denied":
        yield from _denied(case)
    elif case.fault_code == "timed_out":
        # Somebody listens; with socket activation that is systemd, whatever becomes of the daemon.
        text = f"no answer from {case.socket}: the daemon does not start, or hangs"
        mend = "systemctl status queuectld; journalctl -u queuectld -n 20"
        yield Finding("socket", "problem", text, mend if case.system else _own_log(case.state_dir))
    elif case.system:
        yield Finding("socket", "problem", case.fault, "systemctl start queuectld.socket")
    else:
        # Nothing is wrong with a daemon that nobody has needed yet.
        start = "queuectl daemon start"
        yield Finding("socket", "warning", f"{case.fault}; the next command starts one", start)
    if not case.system and case.machine.has_idle_system_queue():
        text = "the machine's queue is installed, but not started: this is a queue of your own"
        yield Finding("socket", "warning", text, "systemctl enable --now queuectld")


def _denied(case: Case) -> Iterator[Finding]:
    machine, owner = case.machine, case.machine.owner(case.socket)
    name = machine.user_name(machine.uid())
    if owner is None:
        yield Finding("socket", "problem", case.fault)
        return
    group = machine.group_name(owner.gid)
    if owner.gid in machine.listed_groups():
        text = f"{name} is in group {group}, but not since this login"
        yield Finding("socket", "problem", text, "log out and in again, or: newgrp " + group)
    elif owner.mode & 0o060 == 0o060 and group == GROUP:
        text = f"{name} is not in group {group}, whose members may use {case.socket}"
        yield Finding("socket", "problem", text, f"sudo usermod -aG {group} {name}")
    else:
        # To join any other group is never what helps: its members may do more than use a queue.
        whose = f"user {machine.user_name(owner.uid)} and group {group}"
        yield Finding("socket", "problem", f"{case.socket} is for {whose}, not for {name}")


def _own_log(directory: str) -> str:
    return f"tail {directory}/queuectld.log"


def check_permissions(case: Case) -> Iterator[Finding]:
    """
    The socket is open to those it is meant for and to nobody else.
    """
    owner = case.machine.owner(case.socket)
    if owner is None:
        return
    mode = owner.mode & 0o777
    if mode & 0o007:
        text = f"{case.socket} is open to everybody (mode {mode:04o})"
        mend = "systemctl restart queuectld.socket" if case.system else "queuectl daemon stop"
        yield Finding("permissions", "problem", text, mend)
        return
    if case.system and case.machine.group_name(owner.gid) != GROUP:
        text = f"{case.socket} belongs to group {case.machine.group_name(owner.gid)}, not {GROUP}"
        mend = "systemd-sysusers && systemctl restart queuectld.socket"
        yield Finding("permissions", "problem", text, mend)
        return
    yield Finding("permissions", "ok", f"the socket has mode {mode:04o}")


def check_versions(case: Case) -> Iterator[Finding]:
    """
    Program, daemon and runner are of one version.
    """
    if case.report is None:
        return
    daemon, runner = case.report.daemon.version, case.report.runner
    if daemon != case.client_version:
        text = f"the daemon is {daemon}, this program {case.client_version}"
        mend = "queuectl daemon stop && queuectl daemon start"
        if case.system:
            mend = "systemctl restart queuectld"
        yield Finding("versions", "warning", text, mend)
    if runner is not None and runner.version not in ("", daemon):
        text = f"the runner is {runner.version}, the daemon {daemon}; running jobs go on when it"
        text += " takes its new version"
        mend = "systemctl reload queuectl-runner" if case.system else f"kill -HUP {runner.pid}"
        yield Finding("versions", "warning", text, mend)
    elif daemon == case.client_version:
        yield Finding("versions", "ok", f"all are {daemon}")


def check_runner(case: Case) -> Iterator[Finding]:
    """
    The runner is connected: nothing is started without it.
    """
    if case.report is None:
        return
    if case.report.runner is not None:
        yield Finding("runner", "ok", f"connected, pid {case.report.runner.pid}")
        return
    text = "not connected: no job is started"
    if case.report.mode == "system":
        mend = "journalctl -u queuectl-runner -n 20; systemctl restart queuectl-runner"
        yield Finding("runner", "problem", text, mend)
    else:
        mend = f"cat {case.report.state_dir}/runner/log"
        yield Finding("runner", "problem", f"{text}; the daemon tries again by itself", mend)


def check_lingering(case: Case) -> Iterator[Finding]:
    """
    A user's services outlive the session, if they are services.
    """
    machine = case.machine
    if case.report is None or case.report.mode != "user" or not machine.runs_systemd():
        return
    cgroup = machine.cgroup(case.report.daemon.pid) or ""
    uid = machine.uid()
    if uid == 0 or "/user.slice/" not in cgroup:
        return
    if machine.lingers(uid):
        yield Finding("lingering", "ok", "the queue goes on when you log out")
        return
    name = machine.user_name(uid)
    if f"user@{uid}.service" in cgroup:
        text = "the queue and its jobs end when your last session does"
    else:
        text = "the queue belongs to a session: with KillUserProcesses= it ends with that"
    yield Finding("lingering", "warning", text, f"loginctl enable-linger {name}")


def check_delegation(case: Case) -> Iterator[Finding]:
    """
    The cgroup of the jobs is the runner's to divide: systemd keeps its hands off.
    """
    report, machine = case.report, case.machine
    if report is None or report.runner is None or not machine.runs_systemd():
        return
    cgroup = machine.cgroup(report.runner.pid)
    if cgroup is None or report.mode != "system":
        return
    delegated = machine.is_delegated(cgroup)
    if delegated is False:
        text = f"cgroup {cgroup} of the runner is not delegated: systemd may change it under jobs"
        yield Finding("cgroup", "warning", text, "systemctl edit queuectl-runner  (Delegate=yes)")
    elif delegated:
        yield Finding("cgroup", "ok", f"{cgroup} is delegated")


def check_disk(case: Case) -> Iterator[Finding]:
    """
    The state's disk is local, writable, and has room.
    """
    path = case.report.state_dir if case.report is not None else case.state_dir
    found = case.machine.file_system(path)
    if found is None:
        return
    where = f"{found.mount} ({found.kind})"
    room = f"{describe_size(found.free_bytes)} of {describe_size(found.size_bytes)} free"
    look = f"du -sh {path}/*; queuectl prune --older-than 1d"
    if found.kind.startswith(REMOTE_KINDS):
        text = f"{path} is on {where}: locks and syncs are not sure there"
        yield Finding("disk", "problem", text, "move the state directory to a local disk")
    elif found.read_only:
        text = f"{where} is mounted read-only"
        yield Finding("disk", "problem", text, f"mount -o remount,rw {found.mount}")
    elif found.free_bytes < FREE_BYTES_MIN:
        yield Finding("disk", "problem", f"{where} has too little room: {room}", look)
    elif found.free_inode_count is not None and found.free_inode_count < FREE_INODES_MIN:
        text = f"{where} has {found.free_inode_count} inodes left: each attempt's output takes one"
        yield Finding("disk", "problem", text, look)
    elif found.free_bytes < FREE_BYTES_WARN:
        yield Finding("disk", "warning", f"{where} has little room: {room}", look)
    elif found.kind in ("tmpfs", "ramfs"):
        text = f"{path} is on {where}: a reboot forgets every job"
        yield Finding("disk", "warning", text, "move the state directory to a disk")
    else:
        yield Finding("disk", "ok", f"{where}, {room}")


def check_clock(case: Case) -> Iterator[Finding]:
    """
    The clock is kept right, and was not set while the daemon ran.
    """
    fine = True
    if case.report is not None:
        started_at = case.machine.started_at(case.report.daemon.pid)
        # The daemon wrote down when it began, by the clock of then; the kernel counts without it.
        moved_ms = 0 if started_at is None else started_at - case.report.daemon.started_at
        if abs(moved_ms) > STEP_MS:
            fine = False
            way = "forward" if moved_ms > 0 else "back"
            text = (
                f"the clock was set {way} by {describe_duration(abs(moved_ms))} since the daemon "
                "started: times shown for before that are off"
            )
            yield Finding("clock", "warning", text, "timedatectl status")
    if case.machine.is_synchronized() is False:
        text = "nobody keeps the clock right: jobs due at a time start when this clock says so"
        yield Finding("clock", "warning", text, "timedatectl set-ntp true")
    elif fine:
        yield Finding("clock", "ok", "not set since the daemon started")


def check_journal(case: Case) -> Iterator[Finding]:
    """
    The journal takes records, keeps its promise, and does not only grow.
    """
    if case.report is None:
        return
    journal = case.report.journal
    size = describe_size(journal.size_bytes)
    if journal.state == "full":
        text = "its disk is full: jobs are refused and none is started"
        yield Finding("journal", "problem", text, f"df -h {case.report.state_dir}")
        return
    if journal.state != "ok":
        yield Finding("journal", "warning", f"it is {journal.state}", "iostat -x 1")
    if journal.durability != "always":
        text = f"durability is {journal.durability}: a power cut can take jobs that were accepted"
        mend = "start queuectld with --durability always"
        yield Finding("journal", "warning", text, mend)
    age_ms = None if journal.snapshot_at is None else case.now - journal.snapshot_at
    if journal.size_bytes > SNAPSHOT_BYTES and (age_ms is None or age_ms > SNAPSHOT_MS_MAX):
        last = "never" if age_ms is None else f"{describe_duration(age_ms)} ago"
        text = f"it has {size}, and its last snapshot was made {last}: a start takes long"
        mend = f"grep snapshot {case.report.state_dir}/queuectld.log"
        if case.report.mode == "system":
            mend = "journalctl -u queuectld -g snapshot"
        yield Finding("journal", "warning", text, mend)
    elif journal.state == "ok" and journal.durability == "always":
        snapshot = "" if age_ms is None else f", snapshot {describe_duration(age_ms)} ago"
        yield Finding("journal", "ok", f"{size}{snapshot}")


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_socket,
    check_permissions,
    check_versions,
    check_runner,
    check_lingering,
    check_delegation,
    check_disk,
    check_clock,
    check_journal,
)
