"""
Jobs under other accounts, seen from inside: a runner that is root, a policy, and existing system
accounts as submitters.
"""

import errno
import grp
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from runner_accounts import UID, USER, needs_root, run, start
from runner_client import PATH, Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process

pytestmark = needs_root

# Not ours, which may be where nobody else can go.
PYTHON = [shutil.which("python3", path=PATH) or "python3", "-IS", "-c"]


@pytest.fixture
def runner(account_runner: RunnerProcess) -> RunnerProcess:
    return account_runner


@pytest.fixture
def output(folder_output: Output) -> Output:
    return folder_output


def status_of(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines())


def test_a_job_has_the_ids_and_nothing_of_root(client: Client, output: Output):
    """
    All four uids and gids, the groups of today, no capability in any set, and no way to gain one
    that any process of the account would not have.
    """
    exited = run(client, ["cat", "/proc/self/status"], output)
    status = status_of(output.text)
    entry = pwd.getpwuid(UID)

    assert 0 == exited.status
    assert [str(UID)] * 4 == status["Uid"].split()
    assert [str(entry.pw_gid)] * 4 == status["Gid"].split()
    groups = sorted(set(os.getgrouplist(USER, entry.pw_gid)))
    assert groups == [int(gid) for gid in status["Groups"].split()]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert 0 == int(status[name], 16), name


def test_supplementary_groups_are_those_of_the_account(client: Client, output: Output):
    """
    As id(1) sees them for the account by name.
    """
    with_groups = {name for group in grp.getgrall() for name in group.gr_mem}
    for name in [USER, "daemon", *sorted(with_groups)][:4]:
        entry = pwd.getpwnam(name)
        code = "id -u; id -g; id -G"
        client.start(
            ["sh", "-c", code], output.fd, job=entry.pw_uid + 2, uid=entry.pw_uid, user=name
        )
        event = client.outcome()
        if isinstance(event, messages.Refused):
            assert messages.POLICY == event.stage  # an account this host has, the policy not
            continue
        assert isinstance(event, messages.Exited)
        told = subprocess.run(
            ["sh", "-c", f"id -u {name}; id -g {name}; id -G {name}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        seen = output.text.splitlines()[-3:]
        assert told[:2] == seen[:2]
        assert set(told[2].split()) == set(seen[2].split())


def test_privileges_cannot_be_regained(client: Client, output: Output):
    """
    Neither by the calls that set ids nor by those of groups, on any of the saved ids.
    """
    code = """
import os
for call, arguments in [
    (os.setuid, (0,)), (os.seteuid, (0,)), (os.setreuid, (0, 0)), (os.setresuid, (-1, 0, -1)),
    (os.setgid, (0,)), (os.setegid, (0,)), (os.setresgid, (0, 0, 0)), (os.setgroups, ([0],)),
    (os.chroot, ("/",)), (os.kill, (os.getppid(), 0)),
]:
    try:
        call(*arguments)
    except PermissionError:
        continue
    print(call.__name__)
"""
    exited = run(client, [*PYTHON, code], output)

    assert (0, "") == (exited.status, output.text)


def spoil() -> None:
    """
    Surroundings that no job should notice.
    """
    os.nice(3)
    Path("/proc/self/oom_score_adj").write_text("200")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
    os.umask(0o177)
    os.setgroups([4, 24, 27])
    # Descriptors that a careless parent passed on.
    for fd in (50, 51, 99):
        os.dup2(os.open("/etc/shadow", os.O_RDONLY), fd, inheritable=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (123, 456))


def test_a_job_has_surroundings_of_its_own(folder: Path, output: Output, policy_options: list[str]):
    """
    Whatever the runner was started with: session, signals, limits, priority, OOM score, umask,
    descriptors and directory are those of an ordinary process.
    """
    code = """
import json, os, resource, signal
print(json.dumps([os.getsid(0) == os.getpgid(0) == os.getpid(), os.readlink("/proc/self/fd/0"),
    os.getcwd(), os.umask(0), sorted(map(int, os.listdir("/proc/self/fd"))),
    os.getpriority(os.PRIO_PROCESS, 0), int(open("/proc/self/oom_score_adj").read()),
    resource.getrlimit(resource.RLIMIT_NOFILE), os.getgroups(),
    [n for n in signal.valid_signals() if n not in (9, 19, 2, 13, 25)
     and signal.getsignal(n) != signal.SIG_DFL], sorted(signal.pthread_sigmask(0, []))]))
"""
    with RunnerProcess(folder / "runner", *policy_options, preexec=spoil) as runner:
        client = runner.greeted()
        for job in range(2, 9):
            start(client, ["sleep", "1000"], output, job=job)
            client.running()
        exited = run(client, [*PYTHON, code], output, cwd="/usr", umask=0o137)

    assert 0 == exited.status
    gids = sorted(set(os.getgrouplist(USER, pwd.getpwuid(UID).pw_gid)))
    # 3 is the listing itself.
    expected = [True, "/dev/null", "/usr", 0o137, [0, 1, 2, 3], 0, 0, [123, 456], gids, [], []]
    assert expected == json.loads(output.text)


def test_no_signal_is_ignored_or_blocked(folder: Path, output: Output, policy_options: list[str]):
    """
    The masks as the kernel has them, before any runtime of the job changes them.
    """
    with RunnerProcess(folder / "runner", *policy_options, preexec=spoil) as runner:
        run(runner.greeted(), ["cat", "/proc/self/status"], output)
    status = status_of(output.text)
    masks = {name: int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")}

    # 32 and 33 belong to glibc, which ignores them in what it spawns; Popen did that to the runner.
    assert {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0} == {
        name: mask & ~(3 << 31) for name, mask in masks.items()
    }


def test_the_environment_names_the_account(client: Client, output: Output):
    """
    What was asked for, with the account's HOME, USER, LOGNAME and SHELL over it, and a PATH if
    there is none; nothing of the runner's.
    """
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    env = {"A": "b=c ü", "HOME": "/root", "USER": "root", "LC_ALL": "C.UTF-8"}
    run(client, [*PYTHON, code], output, env=env)

    expected = {
        "A": "b=c ü",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": pwd.getpwuid(UID).pw_dir,
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/sh",
    }
    assert expected == json.loads(output.text)


def test_home_is_the_accounts(client: Client, output: Output, tmp_path: Path):
    """
    `~` is the directory that the database has for the account, not for the runner's.
    """
    daemon = pwd.getpwnam("daemon")
    run(client, ["pwd"], output, cwd="~", uid=daemon.pw_uid, user="daemon")
    assert f"{os.path.realpath(daemon.pw_dir)}\n" == output.text

    start(client, ["pwd"], output, job=2, cwd="~/no/such")
    assert messages.Refused(2, 1, errno.ENOENT, messages.CWD) == client.refused()


@pytest.fixture
def library(folder: Path) -> Path:
    """
    A library that writes down as whom it was loaded.
    """
    source = folder / "preload.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void loaded(void)"
        '{ dprintf(1, "loaded by %d %d %d\\n", getuid(), geteuid(), getgid()); }\n'
    )
    path = folder / "preload.so"
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler here")
    return path


def test_what_a_job_preloads_is_never_loaded_as_root(
    client: Client, output: Output, library: Path, folder: Path
):
    """
    LD_PRELOAD, BASH_ENV and the like act in processes of the account and in no other, whichever
    way the program is found and executed.
    """
    profile = folder / "profile"
    profile.write_text("echo sourced by $EUID\n")
    env = {
        "LD_PRELOAD": str(library),
        "BASH_ENV": str(profile),
        "ENV": str(profile),
        "PATH": f"/nowhere:{PATH}",
    }
    text = folder / "text"
    text.write_text("exec true\n")
    text.chmod(0o755)
    for argv, script in [
        (["true"], ""),
        (["bash", "-c", "true"], ""),
        ([str(text)], ""),
        ([], "exec true\n"),
        ([], "#!/bin/bash\nexec true\n"),
    ]:
        assert 0 == run(client, argv, output, env=env, script=script).status
    lines = set(output.text.splitlines())

    gid = pwd.getpwuid(UID).pw_gid
    assert {f"loaded by {UID} {UID} {gid}", f"sourced by {UID}"} == {
        line for line in lines if line.startswith(("loaded", "sourced"))
    }


def test_programs_are_searched_as_the_account(client: Client, output: Output, folder: Path):
    """
    A directory in PATH that only root can enter is passed over.
    """
    for name, mode in (("closed", 0o700), ("open", 0o755)):
        (folder / name).mkdir()
        program = folder / name / "it"
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
        (folder / name).chmod(mode)
    run(client, ["it"], output, env={"PATH": f"{folder}/closed:{folder}/open"})
    assert "open\n" == output.text

    start(client, ["it"], output, env={"PATH": f"{folder}/closed"})
    # As for the account itself: whether it is there cannot be seen.
    assert messages.Refused(1, 1, errno.ENOENT, messages.EXEC) == client.refused()


@pytest.mark.parametrize(
    ("argv", "how", "number", "stage"),
    [
        (["missing"], {}, errno.ENOENT, messages.EXEC),
        (["/etc/passwd"], {}, errno.EACCES, messages.EXEC),
        (["true", "x" * (256 * 1024)], {}, errno.E2BIG, messages.EXEC),
        (["true"], {"cwd": "/no/where"}, errno.ENOENT, messages.CWD),
        (["true"], {"cwd": "relative"}, errno.EINVAL, messages.CWD),
        ([], {"script": "#!/no/such/interpreter\n"}, errno.ENOENT, messages.SCRIPT),
    ],
)
def test_what_cannot_be_executed_refuses(
    client: Client, output: Output, argv: list[str], how: dict, number: int, stage: int
):
    """
    Stage and errno are those of the runner's own account, and the attempt can be started again.
    """
    for _ in range(2):
        start(client, argv, output, **how)
        assert messages.Refused(1, 1, number, stage) == client.refused()
    assert 0 == run(client, ["true"], output).status


def test_directories_are_entered_as_the_account(client: Client, output: Output, folder: Path):
    """
    One that only the account can enter is entered; one that only root can is refused by its errno.
    """
    own = folder / "own"
    own.mkdir(mode=0o700)
    os.chown(own, UID, 65534)
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    assert 0 == run(client, ["pwd"], output, cwd=str(own)).status
    assert f"{own}\n" == output.text

    start(client, ["pwd"], output, cwd=str(closed))
    assert messages.Refused(1, 1, errno.EACCES, messages.CWD) == client.refused()


@pytest.mark.parametrize("script", ["echo $1; id -u; cat /proc/self/fd/3", "#!/bin/sh\nid -u\n"])
def test_a_script_is_the_accounts(client: Client, output: Output, script: str):
    """
    Read through descriptor 3, with and without "#!".
    """
    exited = run(client, ["first"], output, script=script)

    assert 0 == exited.status
    assert str(UID) in output.text.splitlines()


def test_a_large_script_arrives(client: Client, output: Output):
    """
    Through a memfd each way.
    """
    run(client, [], output, script="#" * (7 << 20) + "\necho end\n")

    assert "end\n" == output.text


@pytest.mark.parametrize(
    ("uid", "user", "stage", "reason"),
    [
        (0, "root", messages.POLICY, messages.ROOT),
        (messages.UID_OWN, "", messages.POLICY, messages.ROOT),
        (2, "bin", messages.POLICY, messages.BELOW_UID_MIN),
        (3, "sys", messages.POLICY, messages.BELOW_UID_MIN),
        (UID, "mallory", messages.ACCOUNT, messages.RECYCLED),
        (0xFFFFFFF0, "ghost", messages.ACCOUNT, messages.GONE),
    ],
)
def test_what_the_policy_forbids_is_refused(
    client: Client, output: Output, uid: int, user: str, stage: int, reason: int
):
    """
    Whatever the daemon asks for; nothing was executed, and the connection goes on.
    """
    client.start(["echo", "ran"], output.fd, uid=uid, user=user)

    assert messages.Refused(1, 1, 0, stage, reason) == client.refused()
    assert 0 == run(client, ["true"], output).status
    assert "" == output.text


def test_every_uid_below_the_minimum_is_refused(client: Client, output: Output):
    """
    All of them, but for those the policy names.
    """
    for uid in range(1000):
        client.start(["echo", "ran"], output.fd, uid=uid, user="daemon" if uid == 1 else "root")
        event = client.outcome()
        if uid == 1:
            assert isinstance(event, messages.Exited)
            client.send(messages.pack_ack(1, 1))
        else:
            assert isinstance(event, messages.Refused)
            assert event.stage in (messages.ACCOUNT, messages.POLICY)
    assert "ran\n" == output.text


def test_without_a_policy_there_is_one_account(folder: Path, output: Output):
    """
    Root or not, the runner of one account starts jobs of no other; its own may be named.
    """
    with RunnerProcess(folder / "plain") as runner:
        client = runner.greeted()
        start(client, ["true"], output)
        assert messages.Refused(1, 1, 0, messages.POLICY, messages.NO_SWITCH) == client.refused()
        assert 0 == client.run(["true"], output.fd, uid=os.geteuid(), user="root").status


def test_root_may_have_jobs_where_the_policy_says_so(
    folder: Path, output: Output, policy_options: list[str]
):
    """
    allow_root, and by name.
    """
    (folder / "policy").write_text("allow_root = true")
    with RunnerProcess(folder / "runner", *policy_options) as runner:
        client = runner.greeted()
        exited = client.run(["sh", "-c", "id -u; pwd"], output.fd, uid=0, user="root", cwd="/")

        assert (0, "0\n/\n") == (exited.status, output.text)


def test_the_policy_is_read_again(runner: RunnerProcess, client: Client, output: Output):
    """
    At SIGHUP, by the same process, with a line that says so; a wrong one leaves the old in place.
    """
    policy = runner.directory.parent / "policy"
    policy.write_text("alow_root = true")
    runner.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "everything stays as it was" in runner.stderr, "the refusal")
    assert "the nearest is allow_root" in runner.stderr
    assert 0 == run(client, ["true"], output).status

    policy.write_text("")
    runner.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "goes on as version" in runner.stderr, "the new policy")
    assert client.is_closed()
    client = runner.greeted()
    start(client, ["true"], output)
    # nobody has no login shell, which only a name in allow_users makes up for.
    assert messages.Refused(1, 1, 0, messages.ACCOUNT, messages.SHELL) == client.refused()


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_jobs_of_others(client: Client, output: Output, signo: int):
    """
    Every process of the session, whatever account it runs under.
    """
    start(client, ["sh", "-c", "sleep 1000 & timeout 1000 sleep 1000"], output)
    leader = client.running().pid
    wait_until(lambda: len(process.living({leader})) == 4, "four processes")
    client.send(messages.pack_signal(1, 1, signo))

    assert signo == client.exited().status
    assert [] == process.living({leader})


def test_too_many_processes_of_an_account_refuse(
    folder: Path, output: Output, policy_options: list[str]
):
    """
    Its limit of processes counts for its jobs, and is told as a shortage that passes.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

    with RunnerProcess(folder / "runner", *policy_options, preexec=limit) as runner:
        client = runner.greeted()
        for job in range(1, 10):
            start(client, ["sleep", "1000"], output, job=job)
            event = client.receive()
            if not isinstance(event, messages.Running):
                break

        assert messages.Refused(job, 1, errno.EAGAIN, messages.SPAWN) == event
