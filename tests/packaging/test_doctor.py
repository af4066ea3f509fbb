"""
`queuectl doctor`: each fault that it looks for, on a twin of a machine; and the command itself.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from daemon_process import PACKAGES, DaemonProcess
from msgspec.structs import replace

from queuectl.diagnosis import Case, Finding, diagnose
from queuectl.discovery import SYSTEM_SOCKET
from queuectl.machine import FileSystem, Machine, Owner
from queuectl.protocol import StatusReport
from queuectl.views import JournalView, ProcessView

NOW = 2_000_000_000_000
GIB = 1 << 30
DAY_MS = 86_400_000
DISK = FileSystem("ext4", "/", False, 100 * GIB, 200 * GIB, 1_000_000)


class MachineTwin(Machine):
    """
    A machine of which everything is told.
    """

    def __init__(self, **facts: Any) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {
            "uid": 1000,
            "active_groups": {1000, 50},
            "listed_groups": {1000, 50},
            "owner": Owner(0, 50, 0o140660),
            "file_system": DISK,
            "runs_systemd": True,
            "has_idle_system_queue": False,
            "lingers": False,
            "cgroup": "/system.slice/queuectl-runner.service",
            "is_delegated": True,
            "started_at": NOW - 60_000,
            "is_synchronized": True,
            **facts,
        }

    def __getattribute__(self, name: str) -> Any:
        if name in ("facts", "user_name", "group_name", "__init__", "__class__"):
            return object.__getattribute__(self, name)
        return lambda *_: self.facts[name]

    def user_name(self, uid: int) -> str:
        return {0: "root", 1000: "alice"}[uid]

    def group_name(self, gid: int) -> str:
        return {50: "queuectl", 51: "other"}[gid]


def process(version: str = "1.0.0") -> ProcessView:
    return ProcessView(pid=7, version=version, started_at=NOW - 60_000, uptime_ms=60_000)


REPORT = StatusReport(
    daemon=process(),
    runner=process(),
    jobs={},
    workers=[],
    dlq=0,
    journal=JournalView(size_bytes=1 << 20, segment_count=1, durability="always", state="ok"),
    mode="system",
    state_dir="/var/lib/queuectl",
    queue_count=0,
)


def journal(**changes: Any) -> StatusReport:
    return replace(REPORT, journal=replace(REPORT.journal, **changes))


def look(
    report: StatusReport | None = REPORT,
    *,
    socket: str = SYSTEM_SOCKET,
    fault: str = "",
    fault_code: str = "unreachable",
    **facts: Any,
) -> list[Finding]:
    """
    Return what a doctor finds on a machine with these facts.
    """
    machine = MachineTwin(**facts)
    case = Case(machine, "1.0.0", socket, "/home/alice/state", NOW, report, fault, fault_code)
    return diagnose(case)


def faults(*arguments: Any, **facts: Any) -> list[tuple[str, str]]:
    return [(f.check, f.level) for f in look(*arguments, **facts) if f.level != "ok"]


def the_fault(*arguments: Any, **facts: Any) -> Finding:
    (found,) = [each for each in look(*arguments, **facts) if each.level != "ok"]
    return found


def test_a_sound_machine() -> None:
    """
    Everything is looked at, and nothing is found.
    """
    found = look()
    checks = ["socket", "permissions", "versions", "runner", "cgroup", "disk", "clock", "journal"]
    assert checks == [each.check for each in found]
    assert {"ok"} == {each.level for each in found}


@pytest.mark.parametrize(
    ("facts", "expected", "mend"),
    [
        ({"owner": Owner(0, 50, 0o140666)}, ("permissions", "problem"), "restart queuectld.socket"),
        ({"owner": Owner(0, 51, 0o140660)}, ("permissions", "problem"), "systemd-sysusers"),
        ({"is_delegated": False}, ("cgroup", "warning"), "Delegate=yes"),
        ({"file_system": DISK._replace(free_bytes=GIB // 2)}, ("disk", "warning"), "prune"),
        ({"file_system": DISK._replace(free_bytes=1 << 20)}, ("disk", "problem"), "prune"),
        ({"file_system": DISK._replace(free_inode_count=3)}, ("disk", "problem"), "prune"),
        ({"file_system": DISK._replace(read_only=True)}, ("disk", "problem"), "remount,rw /"),
        ({"file_system": DISK._replace(kind="nfs4")}, ("disk", "problem"), "local disk"),
        ({"file_system": DISK._replace(kind="tmpfs")}, ("disk", "warning"), "to a disk"),
        ({"is_synchronized": False}, ("clock", "warning"), "timedatectl set-ntp true"),
        ({"started_at": NOW}, ("clock", "warning"), "timedatectl status"),
        ({"started_at": NOW - 7_200_000}, ("clock", "warning"), "timedatectl status"),
    ],
)
def test_a_fault_of_the_machine(
    facts: dict[str, Any], expected: tuple[str, str], mend: str
) -> None:
    """
    One thing is wrong: it alone is found, with the command that mends it.
    """
    found = the_fault(**facts)
    assert expected == (found.check, found.level)
    assert mend in found.mend


@pytest.mark.parametrize(
    ("report", "expected", "mend"),
    [
        (replace(REPORT, runner=None), ("runner", "problem"), "restart queuectl-runner"),
        (
            replace(REPORT, runner=process("0.9")),
            ("versions", "warning"),
            "systemctl reload queuectl-runner",
        ),
        (journal(state="full"), ("journal", "problem"), "df -h /var/lib/queuectl"),
        (journal(durability="off"), ("journal", "warning"), "--durability always"),
        (journal(size_bytes=GIB), ("journal", "warning"), "journalctl -u queuectld"),
        (
            journal(size_bytes=GIB, snapshot_at=NOW - 40 * DAY_MS),
            ("journal", "warning"),
            "journalctl -u queuectld",
        ),
    ],
)
def test_a_fault_that_the_daemon_tells(
    report: StatusReport, expected: tuple[str, str], mend: str
) -> None:
    """
    The same for what the daemon knows of itself.
    """
    found = the_fault(report)
    assert expected == (found.check, found.level)
    assert mend in found.mend


def test_an_older_runner_of_a_users_own_queue() -> None:
    """
    It was started by the daemon, so there is no unit to be reloaded.
    """
    report = replace(REPORT, mode="user", runner=process("0.9"))
    [found] = [each for each in look(report, socket="/run/own") if each.check == "versions"]
    assert ("warning", "kill -HUP 7") == (found.level, found.mend)


def test_an_older_daemon() -> None:
    """
    A daemon that was not restarted after an upgrade.
    """
    report = replace(REPORT, daemon=process("0.9"), runner=process("0.9"))
    found = the_fault(report)
    assert ("versions", "warning") == (found.check, found.level)
    assert "systemctl restart queuectld" == found.mend


def test_nothing_unknown_is_found() -> None:
    """
    What cannot be read is not reported, neither as well nor as ill.
    """
    unknown = {"owner": None, "file_system": None, "cgroup": None, "started_at": None}
    found = look(**unknown, is_synchronized=None, is_delegated=None)
    checks = ["socket", "versions", "runner", "clock", "journal"]
    assert checks == [each.check for each in found]
    assert [] == faults(**unknown, is_synchronized=None)


@pytest.mark.parametrize(
    ("facts", "words", "mend"),
    [
        ({"listed_groups": {1000}}, "alice is not in group queuectl", "usermod -aG queuectl alice"),
        ({}, "not since this login", "newgrp queuectl"),
        ({"owner": Owner(0, 50, 0o140600), "listed_groups": {1000}}, "user root", ""),
    ],
)
def test_a_user_who_is_not_let_in(facts: dict[str, Any], words: str, mend: str) -> None:
    """
    Who is not in the group, who is but not yet, and who has no business there.
    """
    found = the_fault(None, fault="not permitted", fault_code="denied", **facts)
    assert ("socket", "problem") == (found.check, found.level)
    assert words in found.text
    assert mend in found.mend


def test_no_other_group_is_to_be_joined() -> None:
    """
    A socket that fell to another group is mended, not its group joined, which may be root's.
    """
    facts = {"owner": Owner(0, 51, 0o140660), "listed_groups": {1000}}
    found = look(None, fault="not permitted", fault_code="denied", **facts)
    problems = [each for each in found if each.level == "problem"]
    assert ["socket", "permissions"] == [each.check for each in problems]
    assert "" == problems[0].mend
    assert "systemctl restart queuectld.socket" in problems[1].mend


def test_nobody_answers() -> None:
    """
    Systemd listens for a daemon that refuses to start, or it hangs: what it says is looked at.
    """
    timed_out = {"fault": "no answer in time", "fault_code": "timed_out"}
    found = the_fault(None, **timed_out)
    assert ("socket", "problem") == (found.check, found.level)
    assert "journalctl -u queuectld" in found.mend
    own = {"socket": "/run/user/1000/queuectl/queuectl.sock", "owner": None}
    assert "tail /home/alice/state/queuectld.log" == the_fault(None, **timed_out, **own).mend


def test_the_machines_queue_was_not_started() -> None:
    """
    Where presets enable nothing, as on Fedora, commands would quietly use a queue of one's own.
    """
    own = {"socket": "/run/user/1000/queuectl/queuectl.sock", "owner": Owner(1000, 50, 0o140600)}
    found = the_fault(has_idle_system_queue=True, **own)
    assert ("socket", "warning") == (found.check, found.level)
    assert "systemctl enable --now queuectld" == found.mend
    assert [] == faults(has_idle_system_queue=True)


def test_nobody_listens() -> None:
    """
    The system's daemon has to be there; one's own is started when it is needed.
    """
    found = the_fault(None, fault="no daemon listens")
    assert ("problem", "systemctl start queuectld.socket") == (found.level, found.mend)
    own = {"socket": "/run/user/1000/queuectl/queuectl.sock", "owner": None}
    found = the_fault(None, fault="no daemon listens", **own)
    assert ("warning", "queuectl daemon start") == (found.level, found.mend)


def test_lingering() -> None:
    """
    A user's own queue goes when the user does, where systemd rules and is not told otherwise.
    """
    report = replace(REPORT, mode="user")
    unit = "/user.slice/user-1000.slice/user@1000.service/app.slice/queuectld.service"
    own = {"socket": "/run/user/1000/queuectl/queuectl.sock", "owner": Owner(1000, 50, 0o140600)}
    found = the_fault(report, cgroup=unit, **own)
    assert ("lingering", "warning") == (found.check, found.level)
    assert "loginctl enable-linger alice" == found.mend
    assert "your last session" in found.text
    scope = "/user.slice/user-1000.slice/session-3.scope"
    assert "KillUserProcesses" in the_fault(report, cgroup=scope, **own).text
    assert [] == faults(report, cgroup=unit, lingers=True, **own)
    assert [] == faults(report, cgroup=unit, runs_systemd=False, **own)
    assert [] == faults(report, cgroup="/init.scope", **own)


def test_the_machine_itself(tmp_path: os.PathLike[str]) -> None:
    """
    Every look at the real machine works, also where there is nothing to see.
    """
    machine = Machine()
    found = machine.file_system(f"{os.fspath(tmp_path)}/not/there")
    assert found is not None
    assert 0 < found.free_bytes <= found.size_bytes
    assert os.path.ismount(found.mount)
    begun = machine.started_at(os.getpid())
    assert begun is not None
    assert machine.started_at(1 << 30) is None
    assert machine.cgroup(1 << 30) is None
    assert machine.is_synchronized() in (True, False, None)
    assert machine.owner("/proc/self/no") is None
    assert Owner(os.geteuid(), os.getegid(), os.stat(tmp_path).st_mode) == machine.owner(
        os.fspath(tmp_path)
    )
    assert "999999999" == machine.user_name(999_999_999) == machine.group_name(999_999_999)
    empty = Machine(os.fspath(tmp_path))
    assert empty.cgroup(1) is None
    assert not empty.runs_systemd()
    assert not empty.lingers(0)
    assert not empty.has_idle_system_queue()
    unit = Path(tmp_path, "usr/lib/systemd/system/queuectld.socket")
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert empty.has_idle_system_queue()
    socket = Path(tmp_path, SYSTEM_SOCKET.lstrip("/"))
    socket.parent.mkdir(parents=True)
    socket.touch()
    assert not empty.has_idle_system_queue()


def queuectl(daemon: DaemonProcess, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **daemon.environment,
        "QUEUECTL_SOCKET": daemon.socket,
        "QUEUECTL_STATE_DIR": daemon.state_dir,
        "PYTHONPATH": PACKAGES,
    }
    command = [sys.executable, "-P", "-m", "queuectl", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_command(daemons: Any) -> None:
    """
    It starts no daemon, finds one that runs, and tells in its exit code if there is a problem.
    """
    daemon = daemons()
    before = queuectl(daemon, "doctor", "--json")
    assert not os.path.exists(daemon.socket)
    levels = {each["check"]: each["level"] for each in msgspec.json.decode(before.stdout)}
    assert "warning" == levels["socket"]
    daemon.start()
    after = queuectl(daemon, "doctor", "--json")
    found = {each["check"]: each for each in msgspec.json.decode(after.stdout)}
    assert {"ok"} == {found[each]["level"] for each in ("socket", "permissions", "versions")}
    problem = any(each["level"] == "problem" for each in found.values())
    assert int(problem) == after.returncode
    text = queuectl(daemon, "doctor").stdout
    assert all(each in text for each in found)
    os.chmod(daemon.socket, 0o666)
    broken = queuectl(daemon, "doctor", "--quiet")
    assert 1 == broken.returncode
    assert "permissions" in broken.stdout.split()
