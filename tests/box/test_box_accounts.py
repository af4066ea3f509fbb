"""
One queue for everybody on a machine: the package as it comes out of the build, installed on a
booted Debian, used by its people. What is held here is the table in docs/security.md.
"""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from debian_box import Box, wait_until
from queue_in_box import DAEMON, RUNNER, WAIT_S, QueueInBox

ADMINS = ("root", "dave")
DENIED, NOT_FOUND, TRY_LATER = 77, 3, 75


@pytest.fixture(scope="module")
def alice(box: Box) -> QueueInBox:
    return QueueInBox(box, user="alice")


@pytest.fixture(scope="module")
def secret(alice: QueueInBox) -> dict[str, Any]:
    """
    A job of alice's that waits; her command and her variables are nobody's business.
    """
    alice.enqueue("mine", "echo hidden-command", "--env", "TOKEN=hidden-token", "--hold")
    return alice.show("mine")


def ask(box: Box, user: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """
    Run queuectl as somebody, who may be refused.
    """
    return box.run("queuectl", *words, user=None if user == "root" else user, check=False)


def listed(box: Box, user: str) -> list[int]:
    said = ask(box, user, "list", "--json")
    assert 0 == said.returncode, said
    return [job["number"] for job in json.loads(said.stdout)]


def number_of_last(queue: QueueInBox) -> str:
    return str(queue.show("last")["number"])


@pytest.mark.parametrize("user", ["alice", "bob", "dave"])
def test_a_job_is_its_submitters(box: Box, user: str) -> None:
    """
    It has the ids, groups and home of the account, whatever the submitter's variables say, and no
    capability; an admin's job has no more than that either.
    """
    queue = QueueInBox(box, user=user)
    told = "id -u; id -un; id -Gn; pwd; echo $HOME $USER $LOGNAME; grep ^Cap /proc/self/status"
    words = ["env", "HOME=/var/tmp", "USER=root", "queuectl", "enqueue", "--id", "who", told]
    box.run(*words, user=user)
    queue.wait_for_state("who", "completed")
    uid, name, groups, cwd, home, *capabilities = queue.queuectl("logs", "who").splitlines()
    assert (box.shell(f"id -u {user}"), user) == (uid, name)
    assert sorted(box.shell(f"id -Gn {user}").split()) == sorted(groups.split())
    assert ("/", f"/home/{user} {user} {user}") == (cwd, home)
    sets = dict(line.split(":\t") for line in capabilities)
    held = {each: int(sets[each], 16) for each in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    assert dict.fromkeys(held, 0) == held


def test_a_file_that_only_the_submitter_may_read(box: Box, alice: QueueInBox) -> None:
    """
    The kernel decides what a job may open, as it would for the account itself.
    """
    box.shell("umask 077; echo private > /home/alice/file", user="alice")
    bob = QueueInBox(box, user="bob")
    for queue, expected in ((alice, "completed"), (bob, "dead")):
        queue.enqueue("reads", "cat /home/alice/file", "--max-retries", "0")
        queue.wait_for_state("reads", "completed", "dead")
        assert expected == queue.state("reads")
    assert "private" == alice.queuectl("logs", "reads")


@pytest.mark.parametrize("by", ["id", "number"])
@pytest.mark.parametrize("verb", ["show", "logs", "wait", "cancel", "hold", "release", "retry"])
def test_jobs_of_others_do_not_exist(
    box: Box, alice: QueueInBox, secret: dict[str, Any], verb: str, by: str
) -> None:
    """
    By number and by name the answer is that of a job that never was, and nothing happens to it.
    """
    said = ask(box, "bob", verb, str(secret[by]))
    assert (NOT_FOUND, "", 1) == (said.returncode, said.stdout, said.stderr.count("\n"))
    assert "no job" in said.stderr
    assert "held" == alice.state("mine")


def test_lists_and_filters_hold_ones_own(box: Box, secret: dict[str, Any]) -> None:
    """
    Nobody sees a line about others' jobs; a verb for all jobs is for all of one's own.
    """
    bob = QueueInBox(box, user="bob")
    bob.enqueue("bobs", "true", "--hold")
    ask(box, "bob", "cancel", "--all")
    assert "cancelled" == bob.state("bobs")
    assert secret["number"] in listed(box, "alice")
    assert secret["number"] not in listed(box, "bob")
    said = ask(box, "bob", "list", "--jsonl").stdout + ask(box, "bob", "worker", "list").stdout
    assert "hidden" not in said
    # A name that somebody else took is free.
    bob.enqueue("mine", "true", "--hold")
    assert bob.show("mine")["number"] != secret["number"]


@pytest.mark.parametrize("user", ADMINS)
def test_admins_see_all_jobs_but_not_what_they_are(
    box: Box, alice: QueueInBox, secret: dict[str, Any], user: str
) -> None:
    """
    Root and members of queuectl-admin list and manage everybody's jobs. Commands, directories and
    variables are shown to their owner alone.
    """
    number = str(secret["number"])
    assert secret["number"] in listed(box, user)
    for words in (["show", number], ["show", number, "--json"], ["list", "--json"], ["list"]):
        said = ask(box, user, *words)
        assert (0, False) == (said.returncode, "hidden" in said.stdout), words
    own = alice.queuectl("show", "mine", "--json")
    assert ("hidden-command" in own, "hidden-token" in own) == (True, True)
    alice.enqueue(f"for-{user}", "true", "--hold")
    assert 0 == ask(box, user, "cancel", number_of_last(alice)).returncode
    assert "cancelled" == alice.state(f"for-{user}")


@pytest.mark.parametrize(
    "words",
    [
        "enqueue --priority 1 true",
        "worker start --count 1",
        "worker stop",
        "worker stop --now",
        "config set max_retries 9",
        "config unset max_retries",
        "queue set default --concurrency 1",
        "queue pause default",
        "queue resume default",
        "queue delete default",
        "daemon stop",
    ],
)
def test_what_is_everybodys_is_for_admins(box: Box, words: str) -> None:
    """
    Exit code 77 and one line that names the group.
    """

    def shared() -> list[str]:
        lists = (
            ["config", "list", "--json"],
            ["worker", "list", "-q"],
            ["queue", "list", "--json"],
        )
        return [ask(box, "root", *each).stdout for each in lists]

    before = shared()
    said = ask(box, "alice", *words.split())
    assert (DENIED, "", 1) == (said.returncode, said.stdout, said.stderr.count("\n")), said
    assert "queuectl-admin" in said.stderr
    assert before == shared()


@pytest.mark.parametrize("user", ADMINS)
def test_admins_change_what_is_everybodys(box: Box, user: str) -> None:
    """
    Settings and named queues.
    """
    for words in (
        "config set max_retries 2",
        "config unset max_retries",
        "queue set heavy --concurrency 1",
        "queue delete heavy",
        "worker start --count 1",
        "enqueue --priority 9 --hold true",
    ):
        said = ask(box, user, *words.split())
        assert 0 == said.returncode, (words, said)


def test_who_is_no_member_is_told_how_to_be(box: Box) -> None:
    """
    The socket turns them away: exit code 77, and one line with what an administrator types.
    """
    said = ask(box, "carol", "list")
    assert (DENIED, "", 1) == (said.returncode, said.stdout, said.stderr.count("\n"))
    assert "usermod -aG queuectl " in said.stderr
    box.run("usermod", "-aG", "queuectl", "carol")
    assert [] == listed(box, "carol")


def delete(box: Box, user: str) -> None:
    box.run("userdel", user)


def expire(box: Box, user: str) -> None:
    box.run("usermod", "--expiredate", "1970-01-02", user)


@pytest.mark.parametrize(
    ("user", "act", "reason"),
    [
        ("erin", delete, "account erin was deleted"),
        ("frank", expire, "account frank has expired"),
    ],
    ids=["deleted", "expired"],
)
def test_an_account_that_may_have_no_jobs_any_more(
    box: Box, user: str, act: Callable[[Box, str], None], reason: str
) -> None:
    """
    Its job is not started under that account nor under another, is dead without a retry, and says
    why.
    """
    queue = QueueInBox(box, user=user)
    queue.enqueue("late", f"touch /var/tmp/late-{user}", "--hold", "--max-retries", "3")
    number = number_of_last(queue)
    act(box, user)
    root = QueueInBox(box, user="")
    root.queuectl("release", number)
    root.wait_for_state(number, "dead")
    assert f"could not start: {reason}" == root.show(number)["last_error"]
    assert (None, 1) == (root.show(number)["exit_code"], len(root.show(number)["runs"]))
    assert not box.path(f"/var/tmp/late-{user}").exists()


def test_the_policy_allows_no_jobs_of_root(box: Box) -> None:
    """
    Until an administrator says allow_root in the policy and reloads the runner.
    """
    root = QueueInBox(box, user="")
    root.enqueue("as-root", "true", "--max-retries", "0")
    root.wait_for_state("as-root", "dead")
    expected = "could not start: the policy allows no jobs of root (allow_root)"
    assert expected == root.show("as-root")["last_error"]


def test_nobody_talks_to_the_runner(box: Box) -> None:
    """
    Its directory lets the daemon through to a socket that is the daemon's own, and nobody else.
    """
    found = box.shell(
        "stat -c '%a %U %G' /run/queuectl-runner /run/queuectl-runner/runner.sock "
        "/etc/queuectl/runner.toml /usr/lib/queuectl/executor"
    )
    assert [
        "710 root queuectl",
        "600 queuectl queuectl",
        "644 root root",
        "755 root root",
    ] == found.splitlines()
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        "s.connect('/run/queuectl-runner/runner.sock')"
    )
    for user in ("alice", "dave"):
        said = box.run("python3", "-c", code, user=user, check=False)
        assert "PermissionError" in said.stderr


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_jobs_run_on_without_the_daemon(box: Box, alice: QueueInBox, how: str) -> None:
    """
    Under their account, to their true end, and they are still their owner's alone.
    """
    job_id = f"survives-{how}"
    alice.start_patient(job_id)
    pid = alice.pid_of(job_id)
    daemon, runner = alice.main_pid(DAEMON), alice.main_pid(RUNNER)
    if how == "kill":
        alice.kill(DAEMON, "--signal=KILL")
    else:
        alice.systemctl("restart", DAEMON)
    alice.wait_for_other_main_pid(DAEMON, daemon)
    assert runner == alice.main_pid(RUNNER)
    assert "alice" == box.shell(f"stat -c %U /proc/{pid}")
    assert NOT_FOUND == ask(box, "bob", "cancel", number_of_last(alice)).returncode
    alice.let_go(job_id)
    assert ("exited", 7, None) == alice.end_of(job_id)


def test_a_running_job_is_ended_for_its_owner(box: Box, alice: QueueInBox) -> None:
    """
    The daemon has no right over the processes of others; the runner ends them.
    """
    alice.start_patient("ended")
    pid = alice.pid_of("ended")
    alice.queuectl("cancel", "ended")
    alice.wait_for_state("ended", "cancelled")
    wait_until(
        lambda: box.run("test", "-e", f"/proc/{pid}", check=False).returncode, WAIT_S, "gone"
    )


def test_a_greedy_neighbour_delays_nobody(box: Box) -> None:
    """
    One user's long line delays another's first job until one running job ends, and a line longer
    than the limit is refused, whatever of it would fit.
    """
    for words in ("config set workers 1", "config set user_queued_max 250"):
        assert 0 == ask(box, "dave", *words.split()).returncode
    line = '{"command": "sleep 0.2"}\n' * 200
    made = box.run("queuectl", "enqueue", "--file", "-", stdin=line, user="alice")
    assert 200 == len(made.stdout.split())
    command = ("queuectl", "enqueue", "--partial", "--file", "-")
    said = box.run(*command, stdin=line, user="alice", check=False)
    assert (TRY_LATER, "") == (said.returncode, said.stdout), said
    assert "user_queued_max" in said.stderr

    bob = QueueInBox(box, user="bob")
    bob.queuectl("run", "--id", "first", "true")
    mine = bob.show("first")
    theirs = json.loads(ask(box, "alice", "list", "--json", "--limit", "0").stdout)
    between = [
        job["id"]
        for job in theirs
        if job["started_at"] and mine["created_at"] < job["started_at"] < mine["started_at"]
    ]
    assert len(between) <= 1, between
    assert "pending" in [job["state"] for job in theirs]

    assert 0 == ask(box, "alice", "cancel", "--all").returncode
    for words in ("config unset workers", "config unset user_queued_max"):
        assert 0 == ask(box, "dave", *words.split()).returncode
