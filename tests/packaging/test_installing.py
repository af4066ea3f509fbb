"""
The packages on a machine: installed, used, upgraded while a job runs, removed, purged.

Each machine is a Debian that boots in namespaces (see tests/box). The RPM is put into such a tree
from outside, with its scriptlets: what it needs of a system, Debian has too.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_box import Box, unavailable, wait_until
from installation import write
from package_files import ROOT, Packages, build, need
from queue_in_box import DAEMON, RUNNER, SOCKET, QueueInBox

from queuectl import __version__

UNITS = (RUNNER, SOCKET, DAEMON)
CONFIGURATION = "/etc/queuectl/queuectld.toml"
NEWER = "99.0.0"
LIBRARY = "/usr/lib/queuectl"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """
    The packages of a later version, with another default configuration.
    """
    tree = tmp_path_factory.mktemp("newer") / "tree"
    for folder in ("queuectl", "queuectld", "packaging", "systemd", "docs"):
        shutil.copytree(ROOT / folder, tree / folder)
    for file in ("LICENSE", "README.md", "CHANGELOG.md"):
        shutil.copy2(ROOT / file, tree)
    for folder in ("wheels", "nfpm"):
        shutil.copytree(ROOT / "build" / folder, tree / "build" / folder)
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


@pytest.fixture
def empty_box() -> Iterator[Box]:
    """
    A machine that is not up yet, and has nothing of ours.
    """
    box = new_box("rpm", "trixie")
    try:
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


def test_upgraded_under_a_running_job(newer: Packages, machine: Box) -> None:
    """
    An upgrade brings the daemon to the new version and leaves running jobs running to their true
    end; what an administrator wrote stays, and what was enqueued is there.
    """
    queue = QueueInBox(machine)
    queue.start_patient("patient")
    runner, daemon = queue.main_pid(RUNNER), queue.main_pid(DAEMON)
    pid = queue.show("patient")["pid"]
    machine.shell(f"echo '# mine' >> {CONFIGURATION}")
    install(machine, newer.deb)
    assert "# mine" == machine.shell(f"tail -n 1 {CONFIGURATION}")
    assert "later version" in machine.shell(f"cat {CONFIGURATION}.dpkg-dist")
    queue.wait_for_other_main_pid(DAEMON, daemon)
    assert NEWER in queue.queuectl("version").splitlines()[1]
    assert ("processing", pid) == (queue.state("patient"), queue.show("patient")["pid"])
    assert runner == queue.main_pid(RUNNER)
    queue.let_go("patient")
    queue.wait_for_state("patient", "dead")
    assert 7 == queue.show("patient")["exit_code"]


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


def rpm(box: Box, *words: str | Path) -> str:
    """
    Run rpm on the tree of a box that is not up. Debian has what is needed, but not as RPMs.
    """
    command = ["rpm", f"--root={box.tree}", "--nodeps", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_rpm(packages: Packages, newer: Packages, empty_box: Box) -> None:
    """
    The RPM's scriptlets make the account, compile and enable; the machine boots with it; an upgrade
    leaves changed configuration alone, a removal leaves the state.
    """
    need("rpm")
    box = empty_box
    rpm(box, "--install", packages.rpm)
    assert box.path("/etc/systemd/system/multi-user.target.wants/queuectld.service").is_symlink()
    box.boot()
    add_users(box)
    queue = QueueInBox(box)
    queue.enqueue("hello", "echo hello world")
    queue.wait_for_state("hello", "completed")
    programs_work(box)
    box.cut_power()
    with open(box.path(CONFIGURATION), "a") as file:
        file.write("# mine\n")
    rpm(box, "--upgrade", newer.rpm)
    assert box.path(CONFIGURATION).read_text().endswith("# mine\n")
    assert "later version" in box.path(f"{CONFIGURATION}.rpmnew").read_text()
    box.boot()
    assert NEWER in queue.queuectl("version").splitlines()[1]
    assert "completed" == queue.state("hello")
    box.cut_power()
    rpm(box, "--erase", "queuectl")
    assert 0 == compiled_count(box)
    assert box.path("/var/lib/queuectl/journal").is_dir()
    assert not list(box.path("/etc/systemd/system").rglob("queuectld.s*"))
