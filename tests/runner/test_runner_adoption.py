"""
The runner is killed, and the next one takes up what it left. The test process stands in for init:
it is where orphans go, and it reaps them.
"""

import os
import random
import signal
import struct
import zlib
from pathlib import Path

import pytest
from runner_client import Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process
from queuectld.runner.ledger import LEDGER_NAME, RECORD_BYTES

pytestmark = pytest.mark.usefixtures("reaper")


def kernel_tells_exits() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    pidfd = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        return process.exit_status(pidfd) == 0x700
    except OSError:
        return False
    finally:
        os.close(pidfd)


needs_exit_info = pytest.mark.skipif(
    not kernel_tells_exits(), reason="this kernel has no PIDFD_GET_INFO with exit codes (6.15)"
)


def start_waiting(client: Client, output: Output, code: str, job: int = 1) -> messages.Running:
    """
    Start a job that waits for a line in its fifo before it goes on with `code`.
    """
    directory = output.path.parent
    os.mkfifo(directory / f"fifo{job}")
    program = ["sh", "-c", f"read line < fifo{job}; {code}"]
    client.start(program, output.fd, job=job, cwd=str(directory))
    return client.running()


def let_go(output: Output, job: int = 1) -> None:
    with open(output.path.parent / f"fifo{job}", "w") as go:
        go.write("\n")


@needs_exit_info
def test_an_adopted_run_keeps_its_exit_code(runner: RunnerProcess, client: Client, output: Output):
    """
    The job outlives its runner; the next one tells that it runs, refuses a second start, and tells
    its true exit code once init has reaped it, which is known, while its usage is not.
    """
    running = start_waiting(client, output, "echo went on; exit 42")
    runner.kill()
    with RunnerProcess(runner.directory) as next_runner:
        client, events = next_runner.meet()
        assert [running] == events
        client.start(["true"], output.fd)
        assert messages.DUPLICATE == client.refused().stage
        let_go(output)
        wait_until(lambda: b"Z" == getattr(process.read(running.pid), "state", b""), "its end")
        client.sync()
        assert client.is_quiet()
        os.waitpid(running.pid, 0)
        exited = client.exited()

        assert (0x2A00, True, False) == (exited.status, exited.known, exited.usage_known)
        assert running.started_at == exited.started_at
        assert "went on\n" == output.text


@needs_exit_info
def test_an_adopted_run_is_told_again_to_each_runner(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    Adopted runs and unacknowledged exits pass through any number of kills.
    """
    running = start_waiting(client, output, "exit 5")
    client.start(["sh", "-c", "exit 6"], output.fd, job=2)
    exited = client.exited()
    runner.kill()
    for _ in range(3):
        with RunnerProcess(runner.directory) as next_runner:
            assert [running, exited] == next_runner.meet()[1]
            next_runner.kill()
    let_go(output)
    with RunnerProcess(runner.directory) as last:
        client = last.greeted()
        os.waitpid(running.pid, 0)
        assert 0x500 == client.exited().status


def test_a_refused_start_leaves_nothing(runner: RunnerProcess, client: Client, output: Output):
    """
    What did not become a process is not told as a run, or as an end, by the next runner.
    """
    client.start(["/no/such/program"], output.fd)
    assert messages.EXEC == client.refused().stage
    runner.kill()
    with RunnerProcess(runner.directory) as next_runner:
        assert [] == next_runner.meet()[1]


def test_an_end_that_nobody_saw_is_not_known(runner: RunnerProcess, client: Client, output: Output):
    """
    A job that ends while there is no runner has an end, but no status.
    """
    running = start_waiting(client, output, "exit 0")
    runner.kill()
    let_go(output)
    os.waitpid(running.pid, 0)
    with RunnerProcess(runner.directory) as next_runner:
        (exited,) = next_runner.meet()[1]

        assert (1, 1, False, False) == (
            exited.job,
            exited.attempt,
            exited.known,
            exited.usage_known,
        )
        assert running.started_at == exited.started_at <= exited.ended_at


def test_another_process_of_that_number_is_not_adopted(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    The pid alone proves nothing: with another start time the run has ended, and the process that
    has its number now is let be.
    """
    running = start_waiting(client, output, "exit 0")
    runner.kill()
    # As if the number had been used again: the same process, made a second earlier.
    path = runner.directory / LEDGER_NAME
    data = bytearray(path.read_bytes())
    kinds = data[::RECORD_BYTES]
    assert b"\1\6\2\3" == kinds
    at = 3 * RECORD_BYTES
    part = struct.Struct("<QIQQ")
    started_at, pid, from_ns, to_ns = part.unpack_from(data, at + 16)
    assert (running.started_at, running.pid) == (started_at, pid)
    second = 1_000_000_000
    part.pack_into(data, at + 16, started_at, pid, from_ns - second, to_ns - second)
    data[-4:] = crc(bytes(data[at:-4]))
    path.write_bytes(data)
    with RunnerProcess(runner.directory) as next_runner:
        (exited,) = next_runner.meet()[1]

        assert (1, False) == (exited.job, exited.known)
    assert process.read(running.pid) is not None
    let_go(output)
    os.waitpid(running.pid, 0)


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGKILL])
def test_an_adopted_run_is_stopped(
    runner: RunnerProcess, client: Client, output: Output, signo: int
):
    """
    A signal reaches every process of an adopted session.
    """
    client.start(["sh", "-c", "sleep 1000 & echo $!; timeout 1000 sleep 1000"], output.fd)
    leader = client.running().pid
    members = wait_until(
        lambda: len(found := process.living({leader})) == 4 and found, "four processes"
    )
    runner.kill()
    with RunnerProcess(runner.directory) as next_runner:
        client = next_runner.greeted()
        client.send(messages.pack_signal(1, 1, signo))
        wait_until(lambda: not any(is_living(member.pid) for member in members), "their ends")
        os.waitpid(leader, 0)
        exited = client.exited()

        assert exited.status in (signo, 0)  # 0: the kernel does not tell, see `known`
        assert exited.known == (exited.status != 0)
    reap()


def test_killed_runners_never_run_twice_nor_lie(tmp_path: Path, output: Output, rng: random.Random):
    """
    Runners killed at random moments, jobs that each write a line and exit with their own code:
    every job started has exactly one end, ran at most once, and where the end is known its code is
    its own; what was refused or never answered did not run if it is not told.
    """
    codes: dict[int, int] = {}
    ended: dict[int, messages.Exited] = {}
    job = 0
    for _ in range(12):
        with RunnerProcess(tmp_path / "runner") as runner:
            client, events = runner.meet()
            for event in events:
                take(client, event, ended)
            # What is not told was in the socket of the runner before, and never ran.
            told = {event.job for event in events} | ended.keys()
            codes = {number: code for number, code in codes.items() if number in told}
            for _ in range(rng.randrange(1, 30)):
                job += 1
                codes[job] = rng.randrange(1, 100)
                pause = rng.choice(["", "", "sleep 0.1;", "sleep 0.3;"])
                program = f"{pause} echo {job}; exit {codes[job]}"
                client.start(["bash", "-c", program], output.fd, job=job)
            # Of what was started, some ends are awaited and some are left to the next runner.
            advance(client, ended, rng.randrange(len(ended), len(codes) + 1))
            runner.kill()
            if rng.random() < 0.5:
                reap()
    with RunnerProcess(tmp_path / "runner") as runner:
        client, events = runner.meet()
        living = {event.job for event in events if isinstance(event, messages.Running)}
        for event in events:
            take(client, event, ended)
        advance(client, ended, len(ended.keys() | living))
    lines = output.text.split()

    for number, exited in ended.items():
        assert exited.status == (codes[number] << 8 if exited.known else 0)
        assert lines.count(str(number)) <= 1
        if exited.known:
            assert lines.count(str(number)) == 1
    assert set(map(int, lines)) <= ended.keys()
    assert sum(exited.known for exited in ended.values()) > len(codes) / 4


def take(client: Client, event: messages.Event, ended: dict[int, messages.Exited]) -> None:
    if isinstance(event, messages.Exited):
        # Told again after a kill that came before the ACK: the same, or it would be two ends.
        assert ended.setdefault(event.job, event) == event
        client.send(messages.pack_ack(event.job, event.attempt))
    else:
        assert isinstance(event, messages.Running)


def advance(client: Client, ended: dict[int, messages.Exited], count: int) -> None:
    """
    Reap and take what is there until `count` ends are known.
    """

    def are_known() -> bool:
        reap()
        while not client.is_quiet():
            take(client, client.receive(), ended)
        return len(ended) >= count

    wait_until(are_known, f"{count} ends")


def is_living(pid: int) -> bool:
    found = process.read(pid)
    return found is not None and found.state not in b"ZX"


def reap() -> None:
    """
    What init does: wait for whatever orphan has ended, and leave our own children to their owners.
    """
    for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        found = process.read(int(child))
        if found is not None and found.session != os.getsid(0):
            os.waitpid(found.pid, os.WNOHANG)
