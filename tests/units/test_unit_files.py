"""
The unit files as systemd reads them without running them. What they do is tests/box's.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from queuectld.runner.fd_store import name_of
from queuectld.runtime import forwarding, job_log

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = sorted((ROOT / "systemd").rglob("*.s[eo]*[et]"))

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def values(unit: str, key: str) -> list[str]:
    """
    Return the values of a key in a unit file.
    """
    lines = (ROOT / "systemd" / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_the_units_are_found() -> None:
    """
    Four units for the machine, four for a user.
    """
    assert 8 == len(UNITS), UNITS


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_systemd_understands_every_line(unit: Path) -> None:
    """
    No unknown key, section or value: systemd passes over those with a warning.
    """
    manager = "--user" if unit.parent.name == "user" else "--system"
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", manager, unit]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    ours = [line for line in said.splitlines() if str(unit) in line and "executable" not in line]
    assert [] == ours


@analyze
@pytest.mark.parametrize("unit", ["queuectld.service", "queuectl-web.service"])
def test_who_parses_what_strangers_send_is_locked_in(unit: str) -> None:
    """
    The units of the daemon and of the web gateway score 1.5 or less.
    """
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    path = ROOT / "systemd" / unit
    said = subprocess.run([*command, path], capture_output=True, text=True, check=False).stdout
    score = said.splitlines()[-1].partition(":")[2].split()[0]
    assert float(score) <= 1.5, said


def test_the_web_gateway_is_nobody() -> None:
    """
    Its account may connect to the daemon and that is all; it has no link that lets somebody in
    without a token, and what enables the queue does not enable it.
    """
    [account] = values("queuectl-web.service", "User")
    accounts = (ROOT / "systemd/sysusers.conf").read_text()
    assert f"u {account} " in accounts
    assert f"m {account} queuectl\n" in accounts
    [command] = values("queuectl-web.service", "ExecStart")
    assert " --tokens-only " in command
    assert [] == [line for line in values("queuectld.service", "Also") if "web" in line]


def test_jobs_are_not_the_units() -> None:
    """
    Systemd signals the runners only, never their jobs, and keeps what they remember.
    """
    for unit in ("queuectl-runner.service", "user/queuectl-runner.service"):
        assert ["process"] == values(unit, "KillMode")
        assert ["continue"] == values(unit, "OOMPolicy")
        assert ["always"] == values(unit, "Restart")
    assert ["yes"] == values("queuectl-runner.service", "Delegate")
    assert ["yes"] == values("queuectl-runner.service", "RuntimeDirectoryPreserve")


def test_the_names_of_stored_descriptors_fit_into_the_environment() -> None:
    """
    A variable of the environment holds 128 KiB. If the names of a full store came to more, no
    runner could be started again.
    """
    name = name_of(2**64 - 1, 2**32 - 1, 253402300799999)  # The last moment of the year 9999.
    for unit in ("queuectl-runner.service", "user/queuectl-runner.service"):
        [count] = values(unit, "FileDescriptorStoreMax")
        assert len(f"LISTEN_FDNAMES={':'.join([name] * int(count))}\0") <= 128 * 1024
        assert ["notify"] == values(unit, "Type")


def test_the_daemon_alone_reaches_the_runner() -> None:
    """
    Systemd makes the runner's directory what the runner with --daemon-user makes it: at no moment
    between two runners is the daemon kept out, and at none is anybody else let in.
    """
    [command] = values("queuectl-runner.service", "ExecStart")
    [account] = values("queuectld.service", "User")
    assert f" --daemon-user {account} " in command
    assert f"u {account} " in (ROOT / "systemd/sysusers.conf").read_text()
    assert [account] == values("queuectl-runner.service", "Group")
    assert ["0710"] == values("queuectl-runner.service", "RuntimeDirectoryMode")
    assert [] == values("queuectl-runner.service", "User")


def test_the_runner_is_where_the_daemon_looks() -> None:
    """
    Both units of a pair name one directory, and the socket is where clients look.
    """
    from queuectl.discovery import SYSTEM_SOCKET
    from queuectld.options import SYSTEM_RUNNER_DIR, SYSTEM_STATE_DIR

    [command] = values("queuectl-runner.service", "ExecStart")
    assert f"--dir {SYSTEM_RUNNER_DIR} " in command
    assert [SYSTEM_RUNNER_DIR] == [
        f"/run/{name}" for name in values("queuectl-runner.service", "RuntimeDirectory")
    ]
    assert [SYSTEM_STATE_DIR] == [
        f"/var/lib/{name}" for name in values("queuectld.service", "StateDirectory")
    ]
    assert [SYSTEM_SOCKET] == values("queuectld.socket", "ListenStream")
    [runner] = values("user/queuectl-runner.service", "ExecStart")
    [daemon] = values("user/queuectld.service", "ExecStart")
    assert runner.partition("--dir ")[2] == daemon.partition("--runner-dir ")[2]


def test_the_journal_takes_as_much_as_the_daemon_sends() -> None:
    """
    What the daemon allows itself, of events and of jobs' output, is below what journald suppresses.
    """
    (interval,) = values("queuectld.service", "LogRateLimitIntervalSec")
    (burst,) = values("queuectld.service", "LogRateLimitBurst")
    assert "30s" == interval
    lines_per_s = forwarding.LINES_MAX * 1000 // forwarding.POLL_MS
    events_per_s = job_log.EVENTS_MAX + job_log.WARNINGS_MAX
    assert int(burst) > 30 * (lines_per_s + events_per_s)
