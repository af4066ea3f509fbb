"""
The packages on a machine: installed, used, upgraded while a job runs, removed, purged.

Each machine is a Debian that boots in namespaces (see tests/box). The RPM is put into such a tree
from outside, with its scriptlets: what it needs of a system, Debian has too.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from debian_box import Box, unavailable, wait_until
from installation import write
from package_files import Packages, build, need, unpacked
from queue_in_box import DAEMON, RUNNER, SOCKET, QueueInBox

from queuectl import __version__

UNITS = (RUNNER, SOCKET, DAEMON)
CONFIGURATION = "/etc/queuectl/queuectld.toml"
NEWER = "99.0.0"
#: Where that is, in a box.
NEWER_RPM = "/var/tmp/newer.rpm"
LIBRARY = "/usr/lib/queuectl"
#: Stands in for a python3 that is too old: runs a file or a program, and says another version.
OLD_PYTHON = """#!/usr/bin/{name} -IS
import runpy, sys
sys.version_info = (3, 9, 18, "final", 0)
sys.argv = sys.argv[2:]
if sys.argv[0] == "-c":
    exec(sys.argv[1])
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """
    The packages of a later version, with another default configuration.
    """
    tree = unpacked(tmp_path_factory.mktemp("newer") / "tree")
    module = tree / "queuectl/__init__.py"
    text = module.read_text()
    module.write_text(re.sub(r"(?m)^__version__ = .*$", f'__version__ = "{NEWER}"', text))
    with open(tree / "packaging/etc/queuectld.toml", "a") as file:
        file.write("# A line of the later version.\n")
    return build({"SOURCE_DATE_EPOCH": "1900000000"}, tree=tree)


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, packages: Packages) -> Iterator[Box]:
    """
    A machine that is up and has the deb. Tests leave it with some version of it installed.
    """
    box = new_box("deb", request.param)
    try:
        box.boot()
        install(box, packages.deb)
        add_users(box)
        yield box
    finally:
        box.destroy()


def new_box(name: str, suite: str) -> Box:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    return Box(name, suite)


def install(box: Box, deb: Path) -> str:
    """
    Install a deb, as `dpkg -i` does; changed configuration is kept. Return what was said.
    """
    box.push(deb, "/var/tmp/queuectl.deb")
    done = box.run(
        "dpkg", "--force-confdef", "--force-confold", "--install", "/var/tmp/queuectl.deb"
    )
    return done.stdout + done.stderr


def add_users(box: Box) -> None:
    box.run("useradd", "-m", "-G", "queuectl", "alice")
    box.run("useradd", "-m", "bob")


def compiled_count(box: Box) -> int:
    return len(list(box.path(LIBRARY).rglob("*.pyc")))


def programs_work(box: Box) -> None:
    """
    All that Python compiled is for the machine's Python, and each program starts.
    """
    sources = len(list(box.path(LIBRARY).rglob("*.py")))
    assert sources == compiled_count(box)
    assert f"queuectl {__version__}" in box.shell("queuectl version")
    assert "--state-dir" in box.shell("queuectld --help")
    assert "--dir" in box.shell("queuectl-runner --help")
    # Color needs rich, and rich needs nothing that is not there.
    assert "\x1b[" in box.run("queuectl", "list", "--color", "always", user="alice").stdout


def test_installed_and_used(machine: Box) -> None:
    """
    After the installation the units are enabled and run, and a member of the group enqueues a job;
    nobody else can. No module comes from anywhere but the package and the standard library.
    """
    for unit in UNITS:
        assert "enabled" == machine.shell(f"systemctl is-enabled {unit}")
        assert "active" == machine.shell(f"systemctl is-active {unit}")
    queue = QueueInBox(machine)
    queue.enqueue("hello", "echo hello world")
    queue.wait_for_state("hello", "completed")
    assert "hello world" == queue.queuectl("logs", "hello")
    programs_work(machine)
    refused = machine.run("queuectl", "list", user="bob", check=False)
    assert 77 == refused.returncode
    doctor = machine.run("queuectl", "doctor", user="bob", check=False)
    assert (1, True) == (doctor.returncode, "usermod -aG queuectl bob" in doctor.stdout)
    assert 0 == machine.run("queuectl", "doctor", user="alice").returncode
    assert "" == machine.shell("dpkg --verify queuectl")
    for module in ("json", "msgspec", "queuectl"):
        write(machine, f"/var/tmp/foreign/{module}.py", "raise SystemExit('foreign')\n")
    run = "cd /var/tmp/foreign && PYTHONPATH=/var/tmp/foreign queuectl version"
    assert f"queuectl {__version__}" in machine.shell(run)


def test_users_own_queue(machine: Box) -> None:
    """
    The programs start each other although their interpreter is a bare one: a user's own daemon, its
    runner, and the process that writes snapshots.
    """
    script = (
        "export QUEUECTL_STATE_DIR=/var/tmp/own QUEUECTL_SOCKET=/var/tmp/own/socket; "
        "queuectl run -- echo own queue && queuectl daemon stop >&2"
    )
    assert "own queue" == machine.shell(script, user="bob")


FAULTS = [
    ("chmod 666 /run/queuectl/queuectl.sock", "permissions"),
    ("chgrp daemon /run/queuectl/queuectl.sock", "permissions"),
    ("systemctl stop queuectl-runner", "runner"),
    ("systemctl stop queuectld.socket queuectld", "socket"),
    ("echo 'state_dir = 1' > /etc/queuectl/conf.d/x.toml; systemctl restart queuectld", "socket"),
]


def test_doctor_mends(machine: Box) -> None:
    """
    What it says of a fault is what mends it, to the letter. A configuration that was spoiled it
    leaves to a person, who is told where to look.
    """

    def found() -> dict[str, str]:
        said = json.loads(machine.run("queuectl", "doctor", "--json", check=False).stdout)
        # Whether somebody keeps the clock right is the host's affair.
        faults = [each for each in said if each["level"] != "ok" and each["check"] != "clock"]
        return {each["check"]: each["mend"] for each in faults}

    for fault, check in FAULTS:
        wait_until(lambda: found() == {}, 30, f"all is well before {fault}")
        machine.shell(fault, check=False)
        faults = found()
        assert [check] == list(faults), fault
        said = machine.shell(faults[check], check=False)
    assert "x.toml:1: state_dir" in said
    machine.shell("rm /etc/queuectl/conf.d/x.toml; systemctl restart queuectld")
    wait_until(lambda: found() == {}, 30, "all is well again")


class Load:
    """
    Somebody who enqueues one short job after the other, through whatever happens to the daemon.
    """

    COUNT_MIN = 30
    SCRIPT = (
        "i=0; until [ -e /var/tmp/enough ] && [ $i -ge {count} ]; do i=$((i + 1)); "
        'queuectl enqueue --quiet --id load-$i --max-retries 0 "exit $((i % 3))" || exit 1; done'
    )

    def __init__(self, box: Box) -> None:
        self.box = box
        box.path("/var/tmp/enough").unlink(missing_ok=True)
        script = self.SCRIPT.format(count=self.COUNT_MIN)
        command = box.command("sh", "-c", script, user="alice")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def check(self, queue: QueueInBox) -> None:
        """
        Stop; each was accepted, ran once, and ended with its own exit code.
        """
        write(self.box, "/var/tmp/enough", "")
        _, complaint = self.process.communicate(timeout=60)
        assert (0, "") == (self.process.returncode, complaint)
        wait_until(lambda: not self.unfinished(queue), 60, "all have ended")
        jobs = [job for job in self.jobs(queue) if job["id"].startswith("load-")]
        assert len(jobs) >= self.COUNT_MIN
        for job in jobs:
            expected = (int(job["id"].removeprefix("load-")) % 3, 1)
            assert expected == (job["exit_code"], job["attempts"]), job

    def jobs(self, queue: QueueInBox) -> list[dict[str, Any]]:
        found = queue.queuectl("list", "--limit", "10000", "--jsonl")
        return [json.loads(line) for line in found.splitlines()]

    def unfinished(self, queue: QueueInBox) -> list[dict[str, Any]]:
        done = ("completed", "dead", "held")
        return [job for job in self.jobs(queue) if job["state"] not in done]


def runner_version(queue: QueueInBox) -> str:
    """
    Return the version of the runner, nothing while there is none.
    """
    runner = json.loads(queue.queuectl("status", "--json"))["runner"]
    return str(runner["version"]) if runner else ""


def upgraded_under_load(box: Box, upgrade: Callable[[], object]) -> None:
    """
    Upgrade while jobs run, end and are enqueued: daemon and runner are the new ones, the runner in
    the process it was, nobody was refused, nothing ran twice, and each job ended as it would have.
    """
    queue = QueueInBox(box)
    queue.start_patient("patient")
    pid = queue.pid_of("patient")
    runner, daemon = queue.main_pid(RUNNER), queue.main_pid(DAEMON)
    load = Load(box)
    box.shell(f"echo '# mine' >> {CONFIGURATION}")
    upgrade()
    assert "# mine" == box.shell(f"tail -n 1 {CONFIGURATION}")
    queue.wait_for_other_main_pid(DAEMON, daemon)
    assert NEWER in queue.queuectl("version").splitlines()[1]
    assert ("processing", pid) == (queue.state("patient"), queue.show("patient")["pid"])
    wait_until(lambda: runner_version(queue) == NEWER, 30, "the runner is the new one")
    assert runner == queue.main_pid(RUNNER)
    queue.let_go("patient")
    assert ("exited", 7, None) == queue.end_of("patient")
    load.check(queue)


def test_upgraded_under_load(newer: Packages, machine: Box) -> None:
    """
    The deb; and the later version's configuration lies beside what an administrator wrote.
    """
    upgraded_under_load(machine, lambda: install(machine, newer.deb))
    assert "later version" in machine.shell(f"cat {CONFIGURATION}.dpkg-dist")


def test_removed_and_purged(packages: Packages, machine: Box) -> None:
    """
    Removing leaves configuration and state, and a later installation finds them; purging leaves
    nothing but the accounts.
    """
    queue = QueueInBox(machine)
    queue.queuectl("enqueue", "--id", "kept", "--hold", "true")
    machine.run("dpkg", "--remove", "queuectl")
    assert not machine.path(LIBRARY).exists()
    assert machine.path("/var/lib/queuectl/journal").is_dir()
    assert machine.path(CONFIGURATION).is_file()
    assert "" == machine.shell("pgrep -f '[q]ueuectl'", check=False)
    assert "inactive" == machine.shell(f"systemctl is-active {DAEMON}", check=False)
    assert "inactive" == machine.shell(f"systemctl is-active {SOCKET}", check=False)
    install(machine, packages.deb)
    wait_until(lambda: queue.state("kept") == "held", 30, "the job of before is there")
    machine.run("dpkg", "--purge", "queuectl")
    left = "find / -xdev -name '*queuectl*' -not -path '/proc/*' -not -path '/var/tmp/*'"
    assert "" == machine.shell(left)
    assert "queuectl" in machine.shell("getent passwd queuectl")


def test_the_administrator_decides_what_starts(packages: Packages, machine: Box) -> None:
    """
    Where the distribution's policy forbids it the installation starts nothing; a daemon that cannot
    start is no failed upgrade; and what was disabled, a later version neither enables nor starts.
    """
    machine.run("dpkg", "--purge", "queuectl")
    write(machine, "/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    install(machine, packages.deb)
    for unit in UNITS:
        assert "enabled" == machine.shell(f"systemctl is-enabled {unit}")
        assert "inactive" == machine.shell(f"systemctl is-active {unit}", check=False)
    machine.path("/usr/sbin/policy-rc.d").unlink()
    write(machine, "/etc/queuectl/conf.d/x.toml", "state_dir = 1\n")
    install(machine, packages.deb)
    assert "active" != machine.shell(f"systemctl is-active {DAEMON}", check=False)
    machine.run("systemctl", "disable", "--now", *UNITS)
    machine.run("systemctl", "reset-failed")
    install(machine, packages.deb)
    for unit in UNITS:
        assert "disabled" == machine.shell(f"systemctl is-enabled {unit}", check=False)
        assert "inactive" == machine.shell(f"systemctl is-active {unit}", check=False)


def rpm(box: Box, *words: str | Path) -> None:
    """
    Run rpm for a box: inside if it is up, so that scriptlets reach its systemd, else from outside
    on its tree. Debian has what the package needs, but not as RPMs.
    """
    command = ["rpm", "--dbpath=/var/lib/rpm", "--nodeps", *map(str, words)]
    if box.leader() is None:
        command += [f"--root={box.tree}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        done = box.run(*command, check=False)
    assert 0 == done.returncode, done.stderr
    assert not re.findall("(?im)^(error:.*|.*scriptlet failed.*|.*not found.*)", done.stderr)


def make_like_rhel_9(box: Box) -> None:
    """
    Leave a python3 that says it is 3.9, a newer one beside it, and no systemd module for that.
    """
    (python3,) = box.path("/usr/bin").glob("python3.1?")
    box.path("/usr/bin/python3").unlink()
    write(box, "/usr/bin/python3", OLD_PYTHON.format(name=python3.name), 0o755)
    shutil.rmtree(box.path("/usr/lib/python3/dist-packages/systemd"))


def make_like_fedora(box: Box) -> None:
    """
    Leave it as it is: a new python3, with its systemd module.
    """
    assert box.path("/usr/lib/python3/dist-packages/systemd").is_dir()


@pytest.mark.parametrize(
    ("suite", "make_like"),
    [("bookworm", make_like_rhel_9), ("trixie", make_like_fedora)],
    ids=["RHEL 9", "Fedora"],
)
def test_the_rpm(
    suite: str, make_like: Callable[[Box], None], packages: Packages, newer: Packages
) -> None:
    """
    Installed into a tree that is booted, it works at once: scriptlets have made the account and
    compiled, and presets decided what starts. An upgrade is as seamless as the deb's. A removal
    leaves the state, and of the configuration what was changed.
    """
    need("rpm")
    box = new_box("rpm", suite)
    try:
        make_like(box)
        rpm(box, "--install", packages.rpm)
        assert box.path(f"/etc/systemd/system/multi-user.target.wants/{DAEMON}").is_symlink()
        box.boot()
        add_users(box)
        queue = QueueInBox(box)
        queue.enqueue("hello", "echo hello world")
        queue.wait_for_state("hello", "completed")
        assert "hello world" == queue.queuectl("logs", "hello")
        programs_work(box)
        assert 0 == box.run("queuectl", "doctor", user="alice").returncode
        queue.systemctl("restart", DAEMON)
        assert "completed" == queue.state("hello")
        wait_until(lambda: queue.entries("QUEUECTL_JOB=hello"), 30, "the journal tells of it")
        box.push(newer.rpm, NEWER_RPM)
        upgraded_under_load(box, lambda: rpm(box, "--upgrade", NEWER_RPM))
        assert "later version" in box.path(f"{CONFIGURATION}.rpmnew").read_text()
        assert 0 < compiled_count(box)
        queue.enqueue("kept", "true", "--hold")
        rpm(box, "--erase", "queuectl")
        assert "" == box.shell("pgrep -f '[q]ueuectl'", check=False)
        assert not box.path(LIBRARY).exists()
        assert not list(box.path("/etc/systemd/system").rglob("queuectl*"))
        assert "# mine" in box.path(f"{CONFIGURATION}.rpmsave").read_text()
        rpm(box, "--install", NEWER_RPM)
        queue.systemctl("start", SOCKET, RUNNER)
        assert "held" == queue.state("kept")
    finally:
        box.destroy()
