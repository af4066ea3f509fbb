import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
from runner_client import DEADLINE_S, Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process

PYTHON = [sys.executable, "-IS", "-c"]
#: Outlives SIGTERM.
STUBBORN = "trap '' TERM; while :; do sleep 0.05; done"


def numbers(output: Output, count: int) -> list[int]:
    """
    The numbers that a job prints, once there are `count`.
    """

    def found() -> list[int]:
        words = output.text.split()
        return [int(word) for word in words] if len(words) >= count else []

    return wait_until(found, f"{count} numbers in {output.text!r}")


def is_living(pid: int) -> bool:
    found = process.read(pid)
    return found is not None and found.state not in b"ZX"


def state(pid: int) -> bytes:
    found = process.read(pid)
    return found.state if found else b""


def test_a_run_that_ends_by_itself_leaves_its_children(client: Client, output: Output):
    """
    Its end is told at once; what it left in the background is let be.
    """
    exited = client.run(["sh", "-c", "sleep 1000 & echo $!; exit 3"], output.fd)
    (child,) = numbers(output, 1)

    assert 0x300 == exited.status
    assert is_living(child)
    os.kill(child, signal.SIGKILL)


def test_a_signal_reaches_the_group(client: Client, output: Output):
    """
    Any signal goes to leader and children; one that is handled ends nothing.
    """
    handler = "trap 'echo had it' USR1; echo ready; while :; do sleep 0.02; done"
    client.start(["sh", "-c", f"({handler}) & {handler}"], output.fd)
    client.running()
    wait_until(lambda: output.text.count("ready") == 2, "both to be ready")
    client.send(messages.pack_signal(1, 1, signal.SIGUSR1))
    wait_until(lambda: output.text.count("had it") == 2, "both to have had it")
    client.send(messages.pack_signal(1, 1, signal.SIGKILL))

    assert signal.SIGKILL == client.exited().status


def test_a_stopped_run_ends_with_its_last_process(client: Client, output: Output):
    """
    After SIGTERM the leader is dead but a child goes on: the leader stays a zombie, so that its
    number stays taken, and the end is told when SIGKILL has ended the child, with the status of
    the leader.
    """
    client.start(["sh", "-c", f"({STUBBORN}) & echo $!; wait"], output.fd)
    leader = client.running().pid
    (child,) = numbers(output, 1)
    wait_until(lambda: "sleep" in children_of(child), "the trap to be set")
    client.send(messages.pack_signal(1, 1, signal.SIGTERM))
    wait_until(lambda: state(leader) == b"Z", "the leader to die")
    client.sync()

    assert is_living(child)
    assert client.is_quiet()
    client.send(messages.pack_signal(1, 1, signal.SIGKILL))
    exited = client.exited()
    assert signal.SIGTERM == exited.status
    assert not is_living(child)
    assert b"" == state(leader)


def children_of(pid: int) -> str:
    """
    The names of the children of a process.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return " ".join(Path(f"/proc/{child}/comm").read_text().strip() for child in children)
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_stopped_run_ends_with_its_other_groups(client: Client, output: Output):
    """
    A child in a group of its own (as of timeout(1), or of a shell with job control) is in the
    session still: it gets the signals, and the end waits for it.
    """
    client.start(["sh", "-c", "timeout 1000 sleep 1000 & echo $!; wait"], output.fd)
    leader = client.running().pid
    (child,) = numbers(output, 1)
    moved = wait_until(
        lambda: (found := process.read(child)) and found.group == child and found, "its group"
    )
    assert leader == moved.session
    client.send(messages.pack_signal(1, 1, signal.SIGTERM))

    assert signal.SIGTERM == client.exited().status
    assert not is_living(child)


def test_a_kill_is_repeated_until_nothing_lives(client: Client, output: Output):
    """
    Processes in ever new groups, which each look may miss, are gone when the end is told.
    """
    code = """
import os, time
while True:
    if os.fork() == 0:
        os.setpgid(0, 0)
        time.sleep(1000)
    time.sleep(0.001)
"""
    client.start([*PYTHON, code], output.fd)
    leader = client.running().pid
    wait_until(lambda: len(process.living({leader})) > 20, "many processes")
    client.send(messages.pack_signal(1, 1, signal.SIGKILL))

    assert signal.SIGKILL == client.exited().status
    assert [] == process.living({leader})


def test_a_session_of_its_own_is_out_of_reach(client: Client, output: Output):
    """
    A child that made a session of its own is not signalled, and nobody waits for it.
    """
    client.start(["sh", "-c", "setsid sleep 1000 & echo $!; wait"], output.fd)
    leader = client.running().pid
    (child,) = numbers(output, 1)
    wait_until(
        lambda: (found := process.read(child)) and found.session != leader, "its own session"
    )
    client.send(messages.pack_signal(1, 1, signal.SIGKILL))

    assert signal.SIGKILL == client.exited().status
    assert is_living(child)
    os.kill(child, signal.SIGKILL)


def test_a_paused_run_dies_of_sigterm(client: Client, output: Output):
    """
    SIGTERM brings SIGCONT along.
    """
    client.start(["sleep", "1000"], output.fd)
    pid = client.running().pid
    client.send(messages.pack_signal(1, 1, signal.SIGSTOP))
    wait_until(lambda: state(pid) == b"T", "it to be paused")
    client.send(messages.pack_signal(1, 1, signal.SIGTERM))

    assert signal.SIGTERM == client.exited().status


def test_signals_and_acks_for_nobody_do_nothing(client: Client, output: Output):
    """
    They crossed with the end of the run; a live run is not forgotten by an early ACK.
    """
    client.start(["sleep", "1000"], output.fd)
    pid = client.running().pid
    client.send(messages.pack_signal(1, 2, signal.SIGKILL))
    client.send(messages.pack_signal(2, 1, signal.SIGKILL))
    client.send(messages.pack_ack(7, 7))
    client.send(messages.pack_ack(1, 1))
    client.sync()
    assert is_living(pid)
    client.send(messages.pack_signal(1, 1, signal.SIGKILL))

    assert signal.SIGKILL == client.exited().status


def test_stop_ends_everything(runner: RunnerProcess, client: Client, output: Output):
    """
    STOP terminates, kills after its grace, refuses starts meanwhile, tells the ends and exits 0.
    """
    client.start(["sleep", "1000"], output.fd, job=1)
    client.running()
    client.start(["sh", "-c", f"echo 1; {STUBBORN}"], output.fd, job=2)
    client.running()
    numbers(output, 1)
    client.send(messages.pack_stop(3_600_000))
    first = client.exited()
    client.start(["true"], output.fd, job=3)
    refused = client.refused()
    client.send(messages.pack_stop(0))
    second = client.exited()

    assert (1, signal.SIGTERM) == (first.job, first.status)
    assert (3, messages.STOPPING) == (refused.job, refused.stage)
    assert (2, signal.SIGKILL) == (second.job, second.status)
    assert client.is_closed()
    assert 0 == runner.process.wait(DEADLINE_S)


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_runner_and_keeps_the_ends(
    runner: RunnerProcess, output: Output, signo: int
):
    """
    Told to end without a daemon, the runner ends its runs and writes the exits for the next one.
    """
    client = runner.greeted()
    client.start(["sleep", "1000"], output.fd)
    client.running()
    client.close()
    runner.process.send_signal(signo)
    assert 0 == runner.process.wait(DEADLINE_S)
    assert not (runner.directory / "runner.sock").exists()

    with RunnerProcess(runner.directory) as next_runner:
        _, events = next_runner.meet(2)
        assert [(1, signal.SIGTERM, True, True)] == [
            (event.job, event.status, event.known, event.usage_known) for event in events
        ]


def test_a_start_that_comes_too_late_is_refused(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    Each START that could be sent to a runner that ends is answered, and one that could not be sent
    is known not to have been: none is left to be taken for lost.
    """
    client.start(["sleep", "1000"], output.fd)
    client.running()
    runner.process.send_signal(signal.SIGTERM)
    sent, answered = {1}, set()
    try:
        for job in itertools.count(2):
            client.start(["true"], output.fd, job=job)
            sent.add(job)
            while not client.is_quiet():
                answered.add(client.receive().job)
    except (AssertionError, BrokenPipeError, ConnectionResetError):
        pass  # It hung up.
    while data := client.socket.recv(messages.MESSAGE_BYTES_MAX):
        answered.add(messages.unpack_event(data).job)
    with RunnerProcess(runner.directory) as next_runner:
        kept = {event.job for event in next_runner.meet()[1]}
    assert len(sent) > 1
    assert sent <= answered | kept


def test_a_hang_up_ends_nothing(runner: RunnerProcess, client: Client, output: Output):
    """
    The runner outlives its terminal, and so do the runs.
    """
    runner.process.send_signal(signal.SIGHUP)

    assert 0 == client.run(["true"], output.fd).status
