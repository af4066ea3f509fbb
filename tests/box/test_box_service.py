"""
The service as systemd and an administrator see it: socket, notification, watchdog, journal,
configuration; and a user's own units.
"""

import json
import subprocess
from collections.abc import Callable

import pytest
from debian_box import Box, wait_until
from installation import LIBRARY, write
from queue_in_box import DAEMON, RUNNER, SOCKET, WAIT_S, QueueInBox

CONFIGURATION = "/etc/queuectl/queuectld.toml"


@pytest.fixture(scope="module")
def queue(make_box: Callable[[str], Box]) -> QueueInBox:
    """
    The machine's queue on a booted machine, with a watchdog that bites soon.
    """
    box = make_box("service")
    write(box, "/etc/systemd/system/queuectld.service.d/soon.conf", "[Service]\nWatchdogSec=4s\n")
    write(box, CONFIGURATION, "workers = 2\nmax_retries = 5\n")
    box.boot()
    return QueueInBox(box)


def test_the_socket_is_the_groups(queue: QueueInBox) -> None:
    """
    Members of the group may connect, others may not; state and runner are the daemon's alone.
    """
    box = queue.box
    found = box.shell("stat -c '%a %U %G' /run/queuectl/queuectl.sock /var/lib/queuectl")
    assert ["660 root queuectl", "700 queuectl queuectl"] == found.splitlines()
    refused = box.run("queuectl", "status", user="nobody", check=False)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert box.run("ls", "/run/queuectl-runner", user="bob", check=False).returncode != 0


def test_the_daemon_can_do_nothing_else(queue: QueueInBox) -> None:
    """
    The daemon runs without a capability, cannot gain one, and its unit scores 1.5 or less.
    """
    status = queue.box.shell(f"cat /proc/{queue.main_pid(DAEMON)}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert 0 == int(fields[name], 16), name
    assert "1" == fields["NoNewPrivs"]
    assert "2" == fields["Seccomp"]
    said = queue.box.shell(f"systemd-analyze security {DAEMON}").splitlines()[-1]
    assert float(said.split(":")[1].split()[0]) <= 1.5, said


def test_clients_wait_while_the_daemon_restarts(queue: QueueInBox) -> None:
    """
    The socket is there while the daemon is not: a client waits, is served, and notices nothing.
    """
    queue.systemctl("stop", DAEMON)
    client = subprocess.Popen(
        queue.box.command("queuectl", "enqueue", "--id", "waited", "true", user="alice"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, complained = client.communicate(timeout=WAIT_S)
    assert (0, b"waited\n", b"") == (client.returncode, said, complained)
    queue.wait_for_state("waited", "completed")


def test_the_status_has_counts(queue: QueueInBox) -> None:
    """
    `systemctl status` shows how many jobs run and wait, and follows.
    """
    queue.start_patient("counted")

    def text() -> str:
        return queue.systemctl("show", "--value", "--property=StatusText", DAEMON)

    wait_until(lambda: text().startswith("1 running, 0 waiting"), WAIT_S, "1 running")
    queue.let_go("counted")
    wait_until(lambda: text().startswith("0 running, 0 waiting, 1 dead"), WAIT_S, "1 dead")


def test_a_daemon_that_hangs_is_replaced(queue: QueueInBox) -> None:
    """
    The watchdog ends a daemon whose loop stands still; its job runs on, and its end is known.
    """
    before = queue.main_pid(DAEMON)
    queue.start_patient("watched")
    queue.systemctl("kill", "--kill-whom=main", "--signal=STOP", DAEMON)
    queue.wait_for_other_main_pid(DAEMON, before)
    queue.let_go("watched")
    assert ("exited", 7, None) == queue.end_of("watched")
    assert "watchdog" in queue.box.shell(f"journalctl -u {DAEMON} | grep -i watchdog")


def test_a_healthy_daemon_is_left_alone(queue: QueueInBox) -> None:
    """
    A daemon with nothing to do gives its sign of life: systemd has it from later than any time
    that the watchdog allows.
    """
    before = queue.main_pid(DAEMON)
    started = int(
        queue.systemctl("show", "--value", "--property=ActiveEnterTimestampMonotonic", DAEMON)
    )

    def lasted() -> bool:
        name = "WatchdogTimestampMonotonic"
        beat = int(queue.systemctl("show", "--value", f"--property={name}", DAEMON))
        return beat - started > 5_000_000

    wait_until(lasted, WAIT_S, "a sign of life after more than WatchdogSec")
    assert before == queue.main_pid(DAEMON)


def test_a_jobs_story_is_in_the_journal(queue: QueueInBox) -> None:
    """
    `journalctl QUEUECTL_JOB=id` has its starts and ends, with fields, ids and priorities; a job
    that died is a warning, an attempt that failed is not.
    """
    queue.enqueue("story", "exit 3", "--max-retries", "1", "--queue", "tales")
    queue.wait_for_state("story", "dead")

    def told() -> bool:
        return len(queue.entries("QUEUECTL_JOB=story", "QUEUECTL_EVENT=run_ended")) == 2

    wait_until(told, WAIT_S, "both ends are told")
    entries = queue.entries("QUEUECTL_JOB=story")
    kinds = [entry["QUEUECTL_EVENT"] for entry in entries if "run" in entry["QUEUECTL_EVENT"]]
    assert ["run_started", "run_ended", "run_started", "run_ended"] == kinds
    failed, dead = queue.entries("QUEUECTL_JOB=story", "QUEUECTL_EVENT=run_ended")
    assert ("5", "4") == (failed["PRIORITY"], dead["PRIORITY"])
    assert ("1", "2") == (failed["QUEUECTL_ATTEMPT"], dead["QUEUECTL_ATTEMPT"])
    assert "tales" == dead["QUEUECTL_QUEUE"]
    assert "queuectld.service" == dead["_SYSTEMD_UNIT"]
    assert dead["MESSAGE"].startswith("Job story: attempt 2: exit code 3, after ")
    explained = queue.box.shell("journalctl -x QUEUECTL_JOB=story -p warning")
    assert "A job's attempt has ended" in explained
    assert "queuectl logs story" in explained


def test_many_jobs_are_summed_up(queue: QueueInBox) -> None:
    """
    Under load the journal has counts instead of a line for each run; nothing is suppressed, and
    every run is told or counted.
    """
    count = 400
    jobs = "\n".join(json.dumps({"command": "true", "queue": "many"}) for _ in range(count))
    since = queue.box.shell("date '+%F %T'")
    queue.box.run("queuectl", "worker", "start", "--count", "6")
    queue.box.run("queuectl", "enqueue", "-f", "-", user="alice", stdin=jobs)

    def numbers() -> tuple[int, int]:
        told = queue.entries("QUEUECTL_EVENT=run_ended", "QUEUECTL_QUEUE=many")
        sums = queue.entries("QUEUECTL_EVENT=runs_summed", f"--since={since}")
        return len(told), sum(int(entry.get("QUEUECTL_ENDED", 0)) for entry in sums)

    wait_until(lambda: sum(numbers()) == count, WAIT_S, "every end is told or counted")
    assert 0 < numbers()[0] < count, numbers()
    suppressed = queue.box.run("journalctl", "--grep=Suppressed", check=False)
    assert "queuectld" not in suppressed.stdout


def test_the_configuration_is_reloaded(queue: QueueInBox) -> None:
    """
    A reload takes over what can change, names what cannot, and keeps the old on a fault.
    """
    assert "5" == queue.queuectl("config", "get", "max_retries")
    assert f"file {CONFIGURATION}" in queue.queuectl("config", "list")
    write(queue.box, CONFIGURATION, 'workers = 2\nmax_retries = 7\ndurability = "off"\n')
    queue.systemctl("reload", DAEMON)
    wait_until(
        lambda: queue.queuectl("config", "get", "max_retries") == "7", WAIT_S, "it is in force"
    )
    waiting = queue.entries("QUEUECTL_EVENT=restart_needed")
    assert "durability" == waiting[-1]["QUEUECTL_KEYS"]
    write(queue.box, CONFIGURATION, "workers = 2\nmax_retrys = 8\n")
    queue.systemctl("reload", DAEMON)
    wait_until(lambda: queue.entries("QUEUECTL_EVENT=reload_failed"), WAIT_S, "the fault is told")
    fault = queue.entries("QUEUECTL_EVENT=reload_failed")[-1]["MESSAGE"]
    assert f"{CONFIGURATION}:2: unknown key 'max_retrys' (did you mean max_retries?)" in fault
    assert "7" == queue.queuectl("config", "get", "max_retries")
    checked = queue.box.run("queuectld", "--system", "--check-config", check=False)
    assert 78 == checked.returncode
    write(queue.box, CONFIGURATION, "workers = 2\n")
    queue.systemctl("reload", DAEMON)


def test_a_runner_of_another_version_is_told(queue: QueueInBox) -> None:
    """
    A daemon that was restarted alone after an upgrade says so, and doctor the command that brings
    the runner to its version.
    """
    module = queue.box.path(f"{LIBRARY}/queuectl/__init__.py")
    write(queue.box, f"{LIBRARY}/queuectl/__init__.py", module.read_text() + '__version__ = "99"\n')
    queue.systemctl("restart", DAEMON)
    mend = "systemctl reload queuectl-runner"
    assert f"the daemon 99: {mend}" in queue.queuectl("status")
    assert mend in queue.queuectl("doctor", check=False)
    queue.box.run(*mend.split())
    wait_until(lambda: mend not in queue.queuectl("status"), WAIT_S, "the runner is of version 99")


@pytest.fixture(scope="module")
def own(queue: QueueInBox) -> QueueInBox:
    """
    Bob's own queue, by user units, with lingering.
    """
    box = queue.box
    box.run("loginctl", "enable-linger", "bob")
    uid = box.shell("id -u bob")
    wait_until(
        lambda: box.run("test", "-S", f"/run/user/{uid}/bus", check=False).returncode == 0,
        WAIT_S,
        "bob's manager is up",
    )
    mine = QueueInBox(box, user="bob", own=True)
    mine.systemctl("enable", "--now", DAEMON)
    return mine


@pytest.mark.parametrize("verb", ["restart", "kill", "stop"])
def test_a_users_jobs_survive_their_daemon(own: QueueInBox, verb: str) -> None:
    """
    Whatever happens to a user's daemon, the runner's unit is another, and so the jobs run on.
    """
    assert f"/run/user/{own.box.shell('id -u bob')}/queuectl/queuectl.sock" in own.systemctl(
        "show", "--property=Listen", SOCKET
    )
    before = own.main_pid(DAEMON)
    own.start_patient(f"own-{verb}")
    if verb == "kill":
        own.kill(DAEMON, "--signal=KILL")
        own.wait_for_other_main_pid(DAEMON, before)
    else:
        own.systemctl(verb, DAEMON)  # Stopped, it is started again by the next client.
    own.let_go(f"own-{verb}")
    assert ("exited", 7, None) == own.end_of(f"own-{verb}")
    assert before != own.main_pid(DAEMON)


def test_a_users_jobs_are_told_when_the_session_ends(own: QueueInBox) -> None:
    """
    Without lingering the last logout ends a user's jobs, politely, and their ends are known.
    """
    box = own.box
    own.start_patient("session")
    uid = box.shell("id -u bob")
    box.run("loginctl", "disable-linger", "bob")
    box.run("systemctl", "stop", f"user@{uid}.service")
    box.run("loginctl", "enable-linger", "bob")
    box.run("systemctl", "start", f"user@{uid}.service")
    wait_until(
        lambda: own.systemctl("is-active", DAEMON, check=False) == "active", WAIT_S, "back again"
    )
    assert ("exited", 9, None) == own.end_of("session")
    assert "active" == own.systemctl("is-active", RUNNER)
