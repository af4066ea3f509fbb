"""
A process under another account hangs before it becomes its program: its file does not open, or
its own account stops it. That is nobody's trouble but its own.
"""

import errno
import os
import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_accounts import UID, Leased, as_account, needs_root, run, start
from runner_client import DEADLINE_S, Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process
from queuectld.runner.ledger import LEDGER_NAME, RECORD_BYTES

pytestmark = needs_root


@pytest.fixture
def runner(account_runner: RunnerProcess) -> RunnerProcess:
    return account_runner


@pytest.fixture
def output(folder_output: Output) -> Output:
    return folder_output


@pytest.fixture
def leased(folder: Path) -> Iterator[Leased]:
    leased = Leased(folder / "slow", "#!/bin/sh\necho slow\n")
    yield leased
    leased.release()


@pytest.fixture
def hanging(runner: RunnerProcess, client: Client, output: Output, leased: Leased) -> int:
    """
    Job 1, which has left root and waits to be executed; its pid.
    """
    start(client, [str(leased.path)], output)

    def switched() -> int:
        children = Path(f"/proc/{runner.process.pid}/task/{runner.process.pid}/children")
        for child in map(int, children.read_text().split()):
            if process.real_uid(child) == UID:
                return child
        return 0

    return wait_until(switched, "the child to leave root")


def test_a_start_that_hangs_holds_up_nobody(
    runner: RunnerProcess, client: Client, output: Output, leased: Leased, hanging: int
):
    """
    While one program cannot be opened, other jobs start and end; a second START of it is refused,
    and a new daemon is told of it, so that it does not start it again.
    """
    assert 0 == run(client, ["true"], output, job=2).status
    start(client, ["true"], output)
    assert messages.Refused(1, 1, errno.EEXIST, messages.DUPLICATE) == client.refused()
    client, told = runner.meet(2)
    assert [(1, hanging)] == [(e.job, e.pid) for e in told if isinstance(e, messages.Running)]
    leased.release()

    assert 0 == client.exited().status
    assert "slow\n" == output.text


def test_a_run_that_hung_is_told_of_again(
    runner: RunnerProcess, client: Client, output: Output, folder: Path
):
    """
    In the list of a greeting while it hangs, and when it is its program and lives on.
    """
    leased = Leased(folder / "long", "#!/bin/sh\nexec sleep 1000\n")
    start(client, [str(leased.path)], output)
    client, told = runner.meet(2)
    leased.release()

    assert told == [client.running()]


def test_a_refusal_may_come_after_a_greeting(
    runner: RunnerProcess, client: Client, output: Output, folder: Path
):
    """
    What was told to run turns out not to: REFUSED, and the attempt is forgotten.
    """
    leased = Leased(folder / "orphan", "#!/no/such/interpreter\n")
    start(client, [str(leased.path)], output)
    client, told = runner.meet(2)
    assert [1] == [event.job for event in told]
    leased.release()

    assert messages.Refused(1, 1, errno.ENOENT, messages.EXEC) == client.refused()
    assert [] == runner.meet(3)[1]


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_start_that_hangs_can_be_ended(client: Client, hanging: int, signo: int):
    """
    A signal ends the child as it would end the job.
    """
    client.send(messages.pack_signal(1, 1, signo))

    assert signo == client.exited().status
    assert process.read(hanging) is None


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_of_the_account_do_not_reach_the_runner(
    runner: RunnerProcess, client: Client, output: Output, hanging: int, signo: int
):
    """
    The child was the runner a moment ago; the account's signals to it are none to the runner.
    """
    as_account(lambda: os.kill(hanging, signo))
    assert signo == client.exited().status
    assert 0 == run(client, ["true"], output, job=2).status
    assert "" == runner.stderr


def test_a_child_that_is_stopped_stops_nobody(
    client: Client, output: Output, leased: Leased, hanging: int
):
    """
    From the switch on the account can stop its process.
    """
    as_account(lambda: os.kill(hanging, signal.SIGSTOP))
    wait_until(lambda: getattr(process.read(hanging), "state", b"") == b"T", "the stop")
    leased.release()
    assert 0 == run(client, ["true"], output, job=2).status
    client.send(messages.pack_signal(1, 1, signal.SIGTERM))

    assert signal.SIGTERM == client.exited().status


def test_the_account_cannot_look_into_the_child(hanging: int):
    """
    It still holds the runner's memory: no debugger, no memory, no descriptors, for its own account
    either.
    """

    def look() -> None:
        for name in ("mem", "environ", "fd/1", "maps"):
            with pytest.raises(PermissionError):
                os.close(os.open(f"/proc/{hanging}/{name}", os.O_RDONLY))

    as_account(look)
    names = set(os.listdir(f"/proc/{hanging}/fd"))
    assert {"0", "1", "2", "4"} == names


def reap(pid: int) -> None:
    """
    End a job that went to us, unless a failed test did not get that far.
    """
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except ProcessLookupError:
        pass


def test_a_stop_ends_what_hangs(runner: RunnerProcess, client: Client, hanging: int):
    """
    A runner that is told to end takes its unborn jobs with it.
    """
    client.send(messages.pack_stop(10_000))

    assert signal.SIGTERM == client.exited().status
    assert 0 == runner.process.wait(DEADLINE_S)


@pytest.mark.usefixtures("reaper")
def test_a_child_whose_runner_died_does_not_pose_as_a_job(
    runner: RunnerProcess, client: Client, output: Output, folder: Path
):
    """
    When it cannot be executed and nobody hears so, it dies of a signal: no exit code of its own.
    """
    leased = Leased(folder / "orphan", "#!/no/such/interpreter\n")
    start(client, [str(leased.path)], output)
    running = runner.meet(2)[1][0]
    assert isinstance(running, messages.Running)
    runner.kill()
    leased.release()

    assert os.WIFSIGNALED(os.waitpid(running.pid, 0)[1])


@pytest.mark.usefixtures("reaper")
@pytest.mark.parametrize(("uid", "is_adopted"), [(UID, True), (12345, False)])
def test_a_process_of_another_account_is_not_adopted(
    runner: RunnerProcess,
    client: Client,
    output: Output,
    policy_options: list[str],
    uid: int,
    is_adopted: bool,
):
    """
    After a kill of the runner a process is taken up only if its account is that of the run.
    """
    start(client, ["sleep", "1000"], output)
    running = client.running()
    runner.kill()
    path = runner.directory / LEDGER_NAME
    data = bytearray(path.read_bytes())
    at = data[::RECORD_BYTES].index(3) * RECORD_BYTES
    assert UID == struct.unpack_from("<I", data, at + 44)[0]
    struct.pack_into("<I", data, at + 44, uid)
    struct.pack_into("<I", data, at + 60, zlib.crc32(data[at : at + 60]))
    path.write_bytes(data)
    try:
        with RunnerProcess(runner.directory, *policy_options) as next_runner:
            (event,) = next_runner.meet(2)[1]
            if is_adopted:
                assert running == event
            else:
                assert isinstance(event, messages.Exited)
                assert not event.known
            assert process.read(running.pid) is not None
            os.kill(running.pid, signal.SIGKILL)
            os.waitpid(running.pid, 0)
    finally:
        reap(running.pid)
