import errno
import json
import os
import pwd
import resource
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_client import PATH, Client, Output, RunnerProcess

from queuectld.runner import messages
from queuectld.runner.clock import now_ms

PYTHON = [sys.executable, "-IS", "-c"]
EXIT = 0x100  # an exit code in a wait(2) status


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_job_has_its_own_surroundings(client: Client, output: Output, tmp_path: Path):
    """
    A session and group of its own, no input, the environment, directory and umask that were asked
    for, and no descriptor of ours, with other runs and a connection open meanwhile. Of the runner's
    environment nothing; what was not said of the account is filled in.
    """
    client.start(["sleep", "1000"], output.fd, job=2)
    client.running()
    code = """
import json, os
print(json.dumps([os.getsid(0) == os.getpgid(0) == os.getpid(), os.readlink("/proc/self/fd/0"),
    dict(os.environ), os.getcwd(), os.umask(0), sorted(map(int, os.listdir("/proc/self/fd")))]))
"""
    env = {"PATH": PATH, "HOME": "/h", "LC_ALL": "C.UTF-8", "EMPTY": "", "X": "a=b ü"}
    exited = client.run([*PYTHON, code], output.fd, env=env, cwd=str(tmp_path), umask=0o137)

    assert 0 == exited.status
    # 3 is the listing itself.
    account = pwd.getpwuid(os.geteuid())
    filled_in = dict.fromkeys(("USER", "LOGNAME"), account.pw_name) | {"SHELL": account.pw_shell}
    expected = [True, "/dev/null", env | filled_in, str(tmp_path), 0o137, [0, 1, 2, 3]]
    assert expected == json.loads(output.text)


def test_a_job_that_was_told_nothing_is_at_home(client: Client, output: Output):
    """
    Without variables and in `~` it finds what a login would: the account's directory and names,
    and a PATH.
    """
    account = pwd.getpwuid(os.geteuid())
    code = 'echo "$PWD $HOME $USER $LOGNAME $SHELL $PATH"'
    exited = client.run(["sh", "-c", code], output.fd, env={}, cwd="~")

    assert 0 == exited.status
    home, name = account.pw_dir, account.pw_name
    expected = f"{home} {home} {name} {name} {account.pw_shell} /usr/local/bin:/usr/bin:/bin\n"
    assert expected == output.text


def spoil_signals() -> None:
    for signo in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP):
        signal.signal(signo, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGALRM])


def test_a_job_has_default_signals(tmp_path: Path, output: Output):
    """
    Nothing is ignored or blocked in a job, whatever the runner ignores or was started with.
    """
    with RunnerProcess(tmp_path / "runner", preexec=spoil_signals) as runner:
        runner.greeted().run(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"], output.fd)

    masks = {line[:6]: int(line[8:], 16) for line in output.text.splitlines()}
    # glibc spawns every process with its two internal signals, 32 and 33, ignored.
    assert {"SigBlk": 0, "SigIgn": 0} == {name: m & ~(3 << 31) for name, m in masks.items()}


def test_a_job_has_the_limits_the_runner_was_started_with(tmp_path: Path, output: Output):
    """
    The runner raises its own limit of descriptors, not that of the jobs.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))

    with RunnerProcess(tmp_path / "runner", preexec=limit) as runner:
        client = runner.greeted()
        client.run(["sh", "-c", "ulimit -Sn; ulimit -Hn"], output.fd)
        own = resource.prlimit(runner.process.pid, resource.RLIMIT_NOFILE)

    assert "100\n200\n" == output.text
    assert (200, 200) == own


def test_a_job_leaves_the_runner_as_it_was(
    runner: RunnerProcess, client: Client, output: Output, tmp_path: Path
):
    """
    Directory and umask are the runner's own again, after a start and after a refused one.
    """
    proc = Path(f"/proc/{runner.process.pid}")
    umask = [line for line in (proc / "status").read_text().splitlines() if "Umask" in line]
    client.run(["true"], output.fd, cwd=str(tmp_path), umask=0)
    client.start(["no-such-program"], output.fd, cwd=str(tmp_path), umask=0)
    client.refused()

    assert "/" == os.readlink(proc / "cwd")
    assert umask == [line for line in (proc / "status").read_text().splitlines() if "Umask" in line]
    assert ["Umask:\t0077"] == umask


def test_both_outputs_are_one(client: Client, output: Output):
    """
    stdout and stderr arrive in the order they were written in.
    """
    code = "i=0; while [ $i -lt 50 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    client.run(["sh", "-c", code], output.fd)

    expected = [line for i in range(50) for line in (f"out {i}", f"err {i}")]
    assert expected == output.text.splitlines()


@pytest.mark.parametrize(
    ("code", "status"),
    [("exit 0", 0), ("exit 255", 255 * EXIT), ("kill -KILL $$", 9), ("kill -USR1 $$", 10)],
)
def test_the_status_is_that_of_wait(client: Client, output: Output, code: str, status: int):
    """
    Exit codes and signals are told as wait(2) tells them.
    """
    exited = client.run(["sh", "-c", code], output.fd)

    assert (status, True) == (exited.status & ~0x80, exited.known)


def test_an_exit_tells_times_and_usage(client: Client, output: Output):
    """
    The start lies before the end, and CPU time and memory are those of the job.
    """
    code = """
import os
block = bytearray(64 << 20)
for at in range(0, len(block), 4096): block[at] = 1
while os.times().user < 0.1: pass
"""
    from_ms = now_ms()
    client.start([*PYTHON, code], output.fd)
    exited = client.exited()

    assert from_ms <= exited.started_at
    assert exited.started_at <= exited.ended_at
    assert exited.usage_known
    assert exited.utime_us >= 50_000
    assert exited.maxrss_kib >= 64 * 1024


@pytest.mark.parametrize(
    ("cwd", "number"),
    [
        ("{tmp}/missing", errno.ENOENT),
        ("{tmp}/file", errno.ENOTDIR),
        ("relative", errno.EINVAL),
        ("", errno.EINVAL),
        ("{tmp}/" + "x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_a_directory_that_cannot_be_entered_refuses(
    client: Client, output: Output, tmp_path: Path, cwd: str, number: int
):
    """
    The stage is CWD, the errno that of chdir(2); a relative one has nothing to be relative to.
    """
    (tmp_path / "file").touch()
    client.start(["true"], output.fd, cwd=cwd.format(tmp=tmp_path))

    assert messages.Refused(1, 1, number, messages.CWD) == client.refused()


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("missing", errno.ENOENT),
        ("", errno.ENOENT),
        ("{tmp}/missing", errno.ENOENT),
        ("plain", errno.EACCES),
        ("{tmp}/plain", errno.EACCES),
        ("directory", errno.EACCES),
        ("{tmp}/directory", errno.EACCES),
        ("{tmp}/plain/under", errno.ENOTDIR),
        ("orphan", errno.ENOENT),
        ("{tmp}/orphan", errno.ENOENT),
    ],
)
def test_a_program_that_cannot_be_executed_refuses(
    client: Client, output: Output, tmp_path: Path, program: str, number: int
):
    """
    The stage is EXEC and the errno that of execvp(3): missing, not executable, a directory, or an
    interpreter that is missing, by name and by path.
    """
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "directory").mkdir()
    executable(tmp_path / "orphan", "#!/no/such/interpreter\n")
    client.start([program.format(tmp=tmp_path)], output.fd, env={"PATH": str(tmp_path)})

    assert messages.Refused(1, 1, number, messages.EXEC) == client.refused()


def test_too_many_arguments_refuse(client: Client, output: Output):
    """
    What the kernel does not take is the job's fault, told by its errno.
    """
    client.start(["true", "x" * (256 * 1024)], output.fd)

    assert messages.Refused(1, 1, errno.E2BIG, messages.EXEC) == client.refused()


def test_a_refused_attempt_can_be_started_again(client: Client, output: Output):
    """
    A START that did not become a process is forgotten.
    """
    for _ in range(2):
        client.start(["missing"], output.fd)
        assert messages.EXEC == client.refused().stage

    assert 0 == client.run(["true"], output.fd).status


def test_programs_are_searched_in_the_path_of_the_job(
    client: Client, output: Output, tmp_path: Path
):
    """
    Left to right, passing over what cannot be executed; empty and relative entries are relative to
    the job's directory.
    """
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "it").write_text("not executable")
    executable(tmp_path / "two" / "it", "#!/bin/sh\necho two $0\n")
    executable(tmp_path / "three" / "it", "#!/bin/sh\necho three $0\n")
    executable(tmp_path / "it", "#!/bin/sh\necho here $0\n")
    for path in (f"{tmp_path}/one:{tmp_path}/two:{tmp_path}/three", "one:three", ":two", ""):
        client.run(["it"], output.fd, cwd=str(tmp_path), env={"PATH": path})

    expected = [f"two {tmp_path}/two/it", "three three/it", "here ./it", "here ./it"]
    assert expected == output.text.splitlines()


def test_without_a_path_the_usual_places_are_searched(client: Client, output: Output):
    """
    An environment without PATH finds the programs of /bin and /usr/bin.
    """
    client.run(["echo", "found"], output.fd, env={})

    assert "found\n" == output.text


@pytest.mark.parametrize("program", ["text", "./text"])
def test_an_executable_text_is_the_shells(
    client: Client, output: Output, tmp_path: Path, program: str
):
    """
    An executable file without "#!" is given to /bin/sh, as execvp(3) does.
    """
    executable(tmp_path / "text", 'echo "shell: $1 $2"\n')
    client.run([program, "a", "b c"], output.fd, cwd=str(tmp_path), env={"PATH": str(tmp_path)})

    assert "shell: a b c\n" == output.text


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo sh; printf '<%s>' \"$@\"\n", "sh\n<a><b c>"),
        ("#!/bin/sh -u\necho sh; printf '<%s>' \"$@\"\n", "sh\n<a><b c>"),
        (f"#!{sys.executable} -IS\nimport sys\nprint(sys.argv[1:])\n", "['a', 'b c']\n"),
    ],
)
def test_the_first_line_of_a_script_decides(
    client: Client, output: Output, script: str, expected: str
):
    """
    With "#!" that interpreter, without it the shell; argv holds the parameters.
    """
    exited = client.run(["a", "b c"], output.fd, script=script)

    assert (0, expected) == (exited.status, output.text)


def test_a_script_without_its_interpreter_refuses(client: Client, output: Output):
    """
    The stage is SCRIPT.
    """
    client.start([], output.fd, script="#!/no/such/interpreter\n")

    assert messages.Refused(1, 1, errno.ENOENT, messages.SCRIPT) == client.refused()


def test_a_script_brings_one_descriptor(client: Client, output: Output):
    """
    Only 3, the script itself, is open in a script besides input and outputs.
    """
    script = f"#!{sys.executable} -IS\nimport os\nprint(sorted(os.listdir('/proc/self/fd')))\n"
    client.run([], output.fd, script=script)

    # 4 is the listing itself; some interpreters keep the script open while they read it.
    assert output.text in ("['0', '1', '2', '3', '4']\n", "['0', '1', '2', '3', '4', '5']\n")


@pytest.mark.parametrize("size_bytes", [messages.BODY_INLINE_BYTES_MAX + n for n in (-1, 0, 1)])
def test_a_body_of_any_size_arrives(client: Client, output: Output, size_bytes: int):
    """
    On both sides of the limit of a packet, the end of the script is executed.
    """
    tail = "\necho end\n"
    empty = len(messages.pack_body("/", [], {"PATH": PATH}, tail))
    script = "#" * (size_bytes - empty) + tail
    assert size_bytes == len(messages.pack_body("/", [], {"PATH": PATH}, script))
    client.run([], output.fd, script=script)

    assert "end\n" == output.text


def test_a_large_body_arrives(client: Client, output: Output):
    """
    A script of 7 MiB is executed to its end.
    """
    client.run([], output.fd, script="#" * (7 << 20) + "\necho end\n")

    assert "end\n" == output.text


def pipe(_body: bytes) -> int:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    return read_fd


def longer(body: bytes) -> int:
    return messages.memfd("body", body + b"\0")


def shorter(body: bytes) -> int:
    return messages.memfd("body", body[:-1])


@pytest.mark.parametrize("make", [pipe, longer, shorter])
def test_a_descriptor_that_does_not_hold_the_body_refuses(
    client: Client, output: Output, make: Callable[[bytes], int]
):
    """
    A body is a regular file of exactly the size announced; a pipe is not even read.
    """
    body = messages.pack_body("/", ["true"], {}, "#" * messages.BODY_INLINE_BYTES_MAX)
    fd = make(body)
    client.send(messages.pack_start(1, 1, 0, body), [output.fd, fd])
    os.close(fd)

    assert messages.Refused(1, 1, errno.EBADMSG, messages.BODY) == client.refused()


def test_a_malformed_body_refuses(client: Client, output: Output):
    """
    The stage is BODY, and the connection goes on: the fault is this job's.
    """
    client.send(messages.pack_start(1, 1, 0, b"nonsense"), [output.fd])

    assert messages.Refused(1, 1, errno.EBADMSG, messages.BODY) == client.refused()
    assert 0 == client.run(["true"], output.fd).status


def test_without_descriptors_starts_are_refused_until_there_are_some(
    tmp_path: Path, output: Output
):
    """
    A full table refuses with EMFILE, never half starts, and takes jobs again once runs have ended.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))

    with RunnerProcess(tmp_path / "runner", preexec=limit) as runner:
        client = runner.greeted()
        running: list[int] = []
        while True:
            client.start(["sleep", "1000"], output.fd, job=1 + len(running))
            event = client.receive()
            if not isinstance(event, messages.Running):
                break
            running.append(event.job)
        assert messages.Refused(1 + len(running), 1, errno.EMFILE, messages.SPAWN) == event
        assert len(running) > 5
        for job in running:
            client.send(messages.pack_signal(job, 1, signal.SIGKILL))
        for _ in running:
            exited = client.exited()
            assert signal.SIGKILL == exited.status
            client.send(messages.pack_ack(exited.job, 1))

        assert 0 == client.run(["true"], output.fd).status


def test_the_files_of_a_runner_are_its_own(runner: RunnerProcess, client: Client):
    """
    Nobody else may connect, or read who ran when.
    """
    modes = {
        name: stat.S_IMODE((runner.directory / name).stat().st_mode)
        for name in (".", "runner.sock", "ledger")
    }
    assert {".": 0o700, "runner.sock": 0o600, "ledger": 0o600} == modes
