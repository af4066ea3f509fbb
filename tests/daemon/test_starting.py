"""
How the daemon starts, refuses to start, and what it leaves behind.
"""

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable

import pytest
from daemon_process import DaemonProcess, alive, processes_of, wait_until

from queuectl.client import Client
from queuectl.protocol import Done, Enqueue, Enqueued, JobSpec, Shutdown, Status, StatusReport
from queuectld.main import (
    EXIT_DENIED,
    EXIT_LOCKED,
    EXIT_OPTIMIZED,
    EXIT_SYSTEM,
)

Daemons = Callable[..., DaemonProcess]


def refusal(daemon: DaemonProcess, *options: str) -> tuple[str, int]:
    """
    Start a daemon that must not start; return what it said and its exit code.
    """
    said = daemon.launch(*options)
    return said, daemon.wait()


def test_a_state_directory_has_one_daemon(daemons: Daemons) -> None:
    """
    A second one on the same directory ends with 75 and says why; the first goes on.
    """
    first = daemons().start()
    second = daemons(state_dir=first.state_dir)
    said, code = refusal(second)
    assert said.startswith("error: locked: ")
    assert first.state_dir in said
    assert code == EXIT_LOCKED
    (job_id,) = first.enqueue("true")
    assert first.wait_for(job_id).job.state == "completed"


def test_a_live_socket_is_not_taken(daemons: Daemons) -> None:
    """
    A daemon with another state directory does not take the socket of one that listens.
    """
    first = daemons().start()
    second = daemons(socket=first.socket)
    said, code = refusal(second)
    assert said == f"error: locked: another daemon listens at {first.socket}"
    assert code == EXIT_LOCKED
    assert first.status().daemon.pid == first.pid


def test_a_file_in_the_place_of_the_socket_is_kept(daemons: Daemons) -> None:
    """
    What is not a socket is not removed.
    """
    daemon = daemons()
    with open(daemon.socket, "w", encoding="ascii") as file:
        file.write("precious")
    said, code = refusal(daemon)
    assert said == f"error: locked: {daemon.socket} is there and is not a socket"
    assert code == EXIT_LOCKED
    with open(daemon.socket, encoding="ascii") as file:
        assert file.read() == "precious"


def test_a_dead_socket_is_replaced(daemons: Daemons) -> None:
    """
    The socket of a daemon that was killed is in nobody's way.
    """
    daemon = daemons()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(daemon.socket)
    daemon.start()
    daemon.kill()
    assert os.path.exists(daemon.socket)
    daemon.start()
    assert stat.S_IMODE(os.stat(daemon.socket).st_mode) == 0o600
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.socket)


def test_a_state_directory_that_others_can_read_is_refused(daemons: Daemons) -> None:
    """
    Exit code 77, and the mode is named; nothing is made in it.
    """
    daemon = daemons()
    os.mkdir(daemon.state_dir, 0o755)
    os.chmod(daemon.state_dir, 0o755)
    said, code = refusal(daemon)
    assert code == EXIT_DENIED
    assert said.startswith(f"error: {daemon.state_dir} ")
    assert "755" in said
    assert os.listdir(daemon.state_dir) == []


def test_a_state_directory_that_cannot_be_made(daemons: Daemons) -> None:
    """
    Exit code 71: the place and the system's reason, as people write them.
    """
    daemon = daemons(state_dir="/proc/queuectl")
    said, code = refusal(daemon)
    assert ("error: /proc/queuectl: No such file or directory", EXIT_SYSTEM) == (said, code)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_state_directory_of_another_user_is_refused(daemons: Daemons) -> None:
    """
    Exit code 77, and the owner is named.
    """
    daemon = daemons()
    os.mkdir(daemon.state_dir, 0o700)
    os.chown(daemon.state_dir, 65534, 65534)
    said, code = refusal(daemon)
    assert code == EXIT_DENIED
    assert "65534" in said


def test_what_it_makes_is_its_owners_alone(daemons: Daemons) -> None:
    """
    Whatever the umask: no file and no folder of the state is open to others.
    """
    daemon = daemons()
    umask = os.umask(0)
    try:
        daemon.start()
    finally:
        os.umask(umask)
    (job_id,) = daemon.enqueue("echo hi")
    daemon.wait_for(job_id)
    found = [
        os.path.join(folder, name)
        for folder, folders, files in os.walk(daemon.state_dir)
        for name in [*folders, *files]
    ]
    assert len(found) > 5
    assert {path for path in found if stat.S_IMODE(os.lstat(path).st_mode) & 0o077} == set()


@pytest.mark.parametrize("how", ["option", "environment"])
def test_it_does_not_run_without_assertions(daemons: Daemons, how: str) -> None:
    """
    Under python -O and PYTHONOPTIMIZE it says why and exits with 78, having made nothing.
    """
    daemon = daemons()
    flag = ["-O"] if how == "option" else []
    extra = {"PYTHONOPTIMIZE": "1"} if how == "environment" else {}
    done = subprocess.run(
        [sys.executable, *flag, "-P", "-m", "queuectld", "--state-dir", daemon.state_dir],
        env={**daemon.environment, **extra},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == EXIT_OPTIMIZED
    assert "without assertions" in done.stderr
    assert not os.path.exists(daemon.state_dir)


def test_an_ephemeral_daemon_leaves_nothing(daemons: Daemons) -> None:
    """
    Its state, its runner and its jobs go with it, those that ignore SIGTERM too.
    """
    daemon = daemons("--ephemeral").start()
    ids = daemon.enqueue("sleep 1000", "trap '' TERM; while :; do sleep 0.05; done")
    pids = [daemon.pid_of(job_id) for job_id in ids]
    state_dir = daemon.status().state_dir
    assert os.path.isdir(state_dir)
    assert daemon.stop() == 0
    assert not any(map(alive, pids))
    assert not os.path.exists(state_dir)
    assert processes_of(daemon.directory) == {}
    assert os.listdir(f"{daemon.directory}/run/queuectl") == []


@pytest.mark.parametrize("durability", ["interval", "off"])
def test_less_durability_is_told(daemons: Daemons, durability: str) -> None:
    """
    Each answer says that it is not on disk yet, and status says why; with a clean stop all of it is
    there after the next start.
    """
    daemon = daemons("--durability", durability).start()
    with daemon.client() as client:
        request = Enqueue(jobs=[JobSpec(command="true", hold=True)])
        assert client.call(request, Enqueued).durable is False
        report = client.call(Status(), StatusReport)
    assert report.journal.durability == durability
    assert any("power cut" in note for note in report.notes)
    daemon.restart()
    assert daemon.status().jobs["held"] == 1


def test_always_is_told_too(daemon: DaemonProcess) -> None:
    """
    The default confirms what is on disk.
    """
    with daemon.client() as client:
        answer = client.call(Enqueue(jobs=[JobSpec(command="true", hold=True)]), Enqueued)
    assert answer.durable is True
    assert daemon.runner_pid
    assert daemon.status().notes == []


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_answers(daemon: DaemonProcess, signo: int) -> None:
    """
    What was asked before the signal is answered, and it is there after the next start.
    """
    with daemon.client() as client:
        for n in range(1, 101):
            client.send(Enqueue(call=n, jobs=[JobSpec(command="true", hold=True)]))
        assert client.receive(Enqueued, timeout_ms=20_000).call == 1
        daemon.signal(signo)
        answered = 1
        while answered < 100:
            try:
                client.receive(Enqueued, timeout_ms=20_000)
            except Exception:
                break
            answered += 1
    assert daemon.wait() == 0
    daemon.start()
    assert daemon.status().jobs["held"] >= answered


def test_a_client_can_stop_it(daemon: DaemonProcess) -> None:
    """
    Shutdown is answered, then the daemon ends like by SIGTERM.
    """
    with daemon.client() as client:
        client.call(Shutdown(), Done)
        client.wait_for_hangup(20_000)
    assert daemon.wait() == 0


def test_clients_that_do_not_read_do_not_keep_it(daemon: DaemonProcess) -> None:
    """
    All of them together have a moment to take what they are owed; then it ends.
    """
    (job_id,) = daemon.enqueue("head -c 20000000 /dev/zero")
    daemon.wait_for(job_id)
    deaf = []
    for _ in range(40):
        client = daemon.client()
        for _ in range(40):
            client.send(Status())
        deaf.append(client)
    assert daemon.stop() == 0


def test_the_log_is_one_json_object_a_line(daemon: DaemonProcess) -> None:
    """
    Away from a terminal: with event, time, level and, where it is about a run, job and attempt.
    """
    (job_id,) = daemon.enqueue("exit 3", max_retries=0)
    daemon.wait_for(job_id)
    daemon.stop()
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    assert all({"event", "timestamp", "level"} <= line.keys() for line in lines)
    events = [line["event"] for line in lines]
    assert events.index("listening") < events.index("run_started") < events.index("run_ended")
    ended = lines[events.index("run_ended")]
    assert (ended["job"], ended["attempt"], ended["exit_code"]) == (1, 1, 3)
    assert events[-1] == "daemon_stopped"


def test_the_log_is_key_value_on_a_terminal(daemons: Daemons) -> None:
    """
    For people: time, level and event first.
    """
    daemon = daemons()
    master, slave = pty.openpty()
    command = [sys.executable, "-P", "-m", "queuectld", "--state-dir", daemon.state_dir]
    process = subprocess.Popen(
        [*command, "--socket", daemon.socket], env=daemon.environment, stderr=slave, cwd="/"
    )
    os.close(slave)
    text = ""
    try:
        while "event='listening'" not in text:
            text += os.read(master, 4096).decode()
        assert "timestamp='" in text
        assert "level='info' event='listening'" in text
    finally:
        process.terminate()
        assert process.wait(20) == 0
        os.close(master)


def test_a_log_that_nobody_reads_stops_nothing(daemons: Daemons) -> None:
    """
    The reader of the log's pipe goes away; the queue goes on.
    """
    daemon = daemons()
    command = [sys.executable, "-P", "-m", "queuectld", "--state-dir", daemon.state_dir]
    process = subprocess.Popen(
        [*command, "--socket", daemon.socket],
        env=daemon.environment,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    assert process.stderr is not None
    try:
        while b"listening" not in process.stderr.readline():
            pass
        process.stderr.close()
        (job_id,) = daemon.enqueue("true")
        assert daemon.wait_for(job_id).job.state == "completed"
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_requests_are_served_while_there_is_no_runner(daemons: Daemons) -> None:
    """
    A runner that cannot start is reported; jobs wait, and run when it can.
    """
    daemon = daemons()
    os.makedirs(f"{daemon.state_dir}", 0o700)
    os.mkdir(f"{daemon.state_dir}/runner", 0o755)
    os.chmod(f"{daemon.state_dir}/runner", 0o755)
    daemon.start()
    (job_id,) = daemon.enqueue("true")
    assert daemon.state(job_id) == "pending"
    assert any("runner is not connected" in note for note in daemon.status().notes)
    wait_until(lambda: "runner_ended" in daemon.log, what="the runner has given up")
    os.chmod(f"{daemon.state_dir}/runner", 0o700)
    assert daemon.wait_for(job_id).job.state == "completed"


def test_a_client_may_leave_before_its_answer(daemon: DaemonProcess) -> None:
    """
    The request is carried out all the same, and nothing goes wrong.
    """
    for n in range(20):
        with Client(daemon.socket) as client:
            client.send(Enqueue(call=1, jobs=[JobSpec(command="true", id=f"j{n}", hold=True)]))
    wait_until(lambda: daemon.status().jobs["held"] == 20)
