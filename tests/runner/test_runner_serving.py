import errno
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from runner_client import DEADLINE_S, Client, Output, RunnerProcess, wait_until

from queuectl import __version__
from queuectld.runner import ledger, messages
from queuectld.runner.runner import OUTBOX_COUNT_MAX, STRANGERS_COUNT_MAX


def fd_count(runner: RunnerProcess) -> int:
    return len(os.listdir(f"/proc/{runner.process.pid}/fd"))


def test_welcome_says_who_answers(tmp_path: Path):
    """
    Version, pid, the program's version, and the epoch since which nothing is missing.
    """
    with RunnerProcess(tmp_path / "runner") as runner:
        welcome, events = runner.connect().hello(epoch=7)

        assert (messages.VERSION, runner.process.pid, 7, __version__) == (
            welcome.version,
            welcome.pid,
            welcome.ledger_epoch,
            welcome.program_version,
        )
        assert [] == events
        assert 7 == runner.connect().hello(epoch=8)[0].ledger_epoch


def test_an_exit_is_told_until_it_is_acknowledged(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    Each HELLO brings the live runs and the exits without ACK; an ACK ends it.
    """
    client.start(["sleep", "1000"], output.fd, job=1)
    running = client.running()
    client.start(["sh", "-c", "exit 4"], output.fd, job=2)
    exited = client.exited()
    client.close()

    for epoch in (1, 2):
        client = runner.connect()
        assert [running, exited] == client.hello(epoch)[1]
    client.send(messages.pack_ack(2, 1))
    client.sync()
    assert [running] == runner.meet(2)[1]


def test_an_end_without_a_daemon_is_kept(runner: RunnerProcess, client: Client, output: Output):
    """
    A run that ends while no daemon is there is told to the next one, with its true status.
    """
    client.start(["sh", "-c", "read line < fifo; exit 9"], output.fd, cwd=fifo(output))
    client.running()
    client.close()
    with open(Path(fifo(output)) / "fifo", "w") as go:
        go.write("\n")
    client = runner.connect()
    _, events = client.hello()
    (event,) = events
    exited = client.exited() if isinstance(event, messages.Running) else event

    assert (0x900, True) == (exited.status, exited.known)


def fifo(output: Output) -> str:
    path = output.path.parent / "fifo"
    if not path.exists():
        os.mkfifo(path)
    return str(path.parent)


def test_an_attempt_is_started_once(runner: RunnerProcess, client: Client, output: Output):
    """
    A second START is refused while the run lives and until its exit is acknowledged, by whichever
    daemon; another attempt is another matter.
    """
    client.start(["sh", "-c", "echo once; read line < fifo"], output.fd, cwd=fifo(output))
    client.running()
    duplicate = messages.Refused(1, 1, errno.EEXIST, messages.DUPLICATE)
    again = ["sh", "-c", "echo twice"]
    client.start(again, output.fd)
    assert duplicate == client.refused()
    with open(Path(fifo(output)) / "fifo", "w") as go:
        go.write("\n")
    client.exited()
    client.start(again, output.fd)
    assert duplicate == client.refused()
    client = runner.connect()
    client.hello(2)
    client.start(again, output.fd)
    assert duplicate == client.refused()
    assert "once\n" == output.text

    client.start(["true"], output.fd, attempt=2)
    assert 2 == client.exited().attempt


def test_an_older_daemon_is_fenced(runner: RunnerProcess, output: Output):
    """
    A HELLO closes the connection before it; one of a lower epoch is refused, also by the next
    runner.
    """
    old = runner.greeted(epoch=5)
    new = runner.greeted(epoch=6)
    assert old.is_closed()
    late = runner.connect()
    late.send(messages.pack_hello(5))
    assert late.is_closed()
    assert 0 == new.run(["true"], output.fd).status
    again = runner.greeted(epoch=6)
    assert new.is_closed()
    assert 0 == again.run(["true"], output.fd).status
    runner.kill()

    with RunnerProcess(runner.directory) as next_runner:
        next_runner.greeted(epoch=6)
        late = next_runner.connect()
        late.send(messages.pack_hello(5))
        assert late.is_closed()
        assert "epoch 5 is over" in next_runner.stderr


def test_what_a_replaced_daemon_sent_is_told_or_never_happens(
    runner: RunnerProcess, output: Output
):
    """
    A START in the socket of a daemon that is being replaced is in the list of the new one, or is
    not executed at all.
    """
    old = runner.greeted(epoch=1)
    for job in range(1, 20):
        runner.process.send_signal(signal.SIGSTOP)
        new = runner.connect()
        new.send(messages.pack_hello(job))
        old.start(["sh", "-c", f"echo {job}"], output.fd, job=job)
        runner.process.send_signal(signal.SIGCONT)
        welcome, *events = [new.receive(), new.receive()]
        assert isinstance(welcome, messages.Welcome)
        while not isinstance(events[-1], messages.Ready):
            events.append(new.receive())
        running = [event.job for event in events if isinstance(event, messages.Running)]
        ended = [event.job for event in events if isinstance(event, messages.Exited)]
        ended += [new.exited().job for _ in running]
        assert ended in ([], [job])
        if ended:
            new.send(messages.pack_ack(job, 1))
        new.sync()
        assert output.text.split().count(str(job)) == len(ended)
        old = new


def test_another_version_is_told_ours(runner: RunnerProcess, client: Client, output: Output):
    """
    A daemon of another version learns ours and is closed, and the daemon in place stays: it is told
    of a run that began before.
    """
    client.start(["sleep", "1000"], output.fd)
    other = runner.connect()
    other.send(messages.pack_hello(1, version=99))

    welcome = other.receive()
    assert isinstance(welcome, messages.Welcome)
    assert messages.VERSION == welcome.version
    assert other.is_closed()
    assert 1 == client.running().job


def test_a_daemon_that_greets_is_told_of_a_run_once(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    In its list, whether or not the one before it had been told.
    """
    client.start(["sh", "-c", "echo ran; exec sleep 1000"], output.fd)
    wait_until(lambda: output.text, "the run")
    new, (running,) = runner.meet(2)
    new.send(messages.pack_signal(1, 1, signal.SIGKILL))
    exited = new.receive()

    assert isinstance(running, messages.Running)
    assert isinstance(exited, messages.Exited)
    assert running.started_at == exited.started_at


@pytest.mark.parametrize(
    "data",
    [b"\0", messages.pack_ack(1, 1), messages.pack_ready(), messages.pack_hello(1) + b"\0"],
)
def test_a_stranger_that_does_not_greet_is_closed(runner: RunnerProcess, data: bytes):
    """
    The first message is HELLO.
    """
    stranger = runner.connect()
    stranger.send(data)

    assert stranger.is_closed()
    assert 1 == runner.stderr.count("\n")


def test_strangers_are_few(runner: RunnerProcess, client: Client):
    """
    Those who connect and say nothing make room for those who come after them.
    """
    strangers = [runner.connect() for _ in range(STRANGERS_COUNT_MAX + 3)]

    assert all(stranger.is_closed() for stranger in strangers[:3])
    client.sync()
    assert strangers[-1].is_quiet()


def is_served(client: Client) -> bool:
    """
    Whether the connection is still open once everything sent was read.
    """
    try:
        with open(os.devnull, "wb") as null:
            client.start(["/"], null.fileno(), job=2**63, cwd="/nowhere/at/all")
        while data := client.socket.recv(messages.MESSAGE_BYTES_MAX):
            event = messages.unpack_event(data)
            if isinstance(event, messages.Refused) and event.job == 2**63:
                return True
    except (BrokenPipeError, ConnectionResetError):
        pass
    return False


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (messages.pack_hello(1), 0),
        (messages.pack_ack(1, 1), 1),
        (messages.pack_ack(1, 1), 5),
        (messages.pack_start(1, 1, 0, b"body"), 0),
        (messages.pack_start(1, 1, 0, b"body"), 2),
        (messages.pack_ready(), 0),
        (b"x" * (messages.MESSAGE_BYTES_MAX + 1000), 0),
    ],
)
def test_nonsense_closes_the_connection(
    runner: RunnerProcess, client: Client, data: bytes, count: int
):
    """
    A second HELLO, descriptors where none belong or too few, and what is no request: one line, a
    closed connection, no descriptor kept, and the next daemon is served.
    """
    before = fd_count(runner)
    with open(os.devnull, "rb") as null:
        client.send(data, [null.fileno()] * count)
        assert client.is_closed()

    assert 1 == runner.stderr.count("\n")
    runner.greeted().sync()
    wait_until(lambda: before == fd_count(runner), "the descriptors to be closed")


def test_a_daemon_that_does_not_read_is_cut_off(runner: RunnerProcess, client: Client):
    """
    What waits for a daemon is bounded; when it comes back it is served.
    """
    body = messages.pack_body("/nowhere/at/all", ["true"], {})

    def send_all() -> None:
        with open(os.devnull, "wb") as null:
            for job in range(1, 4 * OUTBOX_COUNT_MAX):
                client.send(messages.pack_start(job, 1, 0, body), [null.fileno()])

    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        send_all()
    assert "unread" in runner.stderr
    runner.greeted().sync()


def test_a_daemon_that_reads_late_reads_everything(client: Client, output: Output):
    """
    More answers than the socket holds wait, in order.
    """
    body = messages.pack_body("/nowhere/at/all", ["true"], {})
    for job in range(1, 2000):
        client.send(messages.pack_start(job, 1, 0, body), [output.fd])

    assert list(range(1, 2000)) == [client.refused().job for _ in range(1, 2000)]


def test_random_messages_end_nothing(runner: RunnerProcess, output: Output, rng: random.Random):
    """
    20,000 messages made of valid ones by changed bytes, cuts and stray descriptors: connections
    are closed, jobs refused, and the runner serves on with no descriptor lost.
    """
    client = runner.greeted()
    client.start(["sleep", "1000"], output.fd, job=2**40)
    client.running()
    before = fd_count(runner)
    program = messages.pack_body("/", ["/no/such/program"], {"PATH": "/none"})
    valid = [
        messages.pack_start(1, 1, 0o22, program),
        messages.pack_signal(1, 1, 15),
        messages.pack_ack(1, 1),
        messages.pack_hello(1),
        messages.pack_ready(),
    ]
    closed_count = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(valid))
        for _ in range(rng.choice([0, 0, 1, 2])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.1:
            del data[rng.randrange(1, len(data)) :]
        if data[0] == messages.STOP:
            continue
        client.send(bytes(data), [output.fd] * rng.choice([0, 1, 1, 1, 2, 3]))
        if not is_served(client):
            closed_count += 1
            client.close()
            client = runner.greeted()
    assert 1000 < closed_count < 19_000
    wait_until(lambda: before == fd_count(runner), "the descriptors to be closed")
    client.start(["true"], output.fd, job=2**40)
    assert messages.DUPLICATE == client.refused().stage


def test_a_full_table_delays_connections_only(
    runner: RunnerProcess, client: Client, output: Output
):
    """
    A connection for which there is no descriptor waits, and is served when there is one.
    """
    limit = ["prlimit", "--pid", str(runner.process.pid)]
    before = fd_count(runner)
    subprocess.run([*limit, f"--nofile={before}:"], check=True)
    late = Client(runner.directory)
    late.send(messages.pack_hello(2))
    client.send(messages.pack_start(1, 1, 0, messages.pack_body("/", ["true"], {})), [output.fd])
    assert messages.Refused(1, 1, errno.EMFILE, messages.SPAWN) == client.refused()
    assert late.is_quiet()
    subprocess.run([*limit, f"--nofile={before + 100}:"], check=True)

    assert isinstance(late.receive(), messages.Welcome)
    late.close()


def test_a_runner_of_no_use_leaves(runner: RunnerProcess, client: Client, output: Output):
    """
    Without a daemon it stays while a run lives, and leaves after it, exit code 0; the exit is
    there for the next one.
    """
    client.start(["sh", "-c", "read line < fifo"], output.fd, cwd=fifo(output))
    client.running()
    client.close()
    with pytest.raises(subprocess.TimeoutExpired):
        runner.process.wait(1.5)
    with open(Path(fifo(output)) / "fifo", "w") as go:
        go.write("\n")

    assert 0 == runner.process.wait(DEADLINE_S)
    with RunnerProcess(runner.directory) as next_runner:
        assert [(1, 0)] == [(e.job, e.status) for e in next_runner.meet()[1]]


def test_a_runner_that_is_to_stay_stays(tmp_path: Path):
    """
    With --stay it waits for the next daemon without end.
    """
    with RunnerProcess(tmp_path / "runner", "--stay") as runner:
        runner.greeted().close()
        with pytest.raises(subprocess.TimeoutExpired):
            runner.process.wait(1.5)


def test_one_directory_has_one_runner(runner: RunnerProcess, client: Client):
    """
    A second runner waits for the lock, says who is in its way, and exits 75; one that waits takes
    over when the first is gone.
    """
    with RunnerProcess(runner.directory) as second:
        assert 75 == second.process.wait(DEADLINE_S)
        assert "another runner has it" in second.stderr
        client.sync()
    with RunnerProcess(runner.directory) as third:
        pid = runner.process.pid
        runner.kill()

        def welcome() -> int:
            try:
                return third.connect().hello()[0].pid
            except (AssertionError, OSError):
                return pid

        assert wait_until(lambda: welcome() != pid, "the third runner")


@pytest.mark.parametrize(
    "arguments", [[], ["--dir"], ["--dir", ""], ["--what"], ["--dir", "/x", "more"]]
)
def test_a_wrong_command_line_is_refused(arguments: list[str]):
    """
    Exit code 64 and one line.
    """
    done = subprocess.run(
        [*RunnerProcess.COMMAND, *arguments], cwd=RunnerProcess.ROOT, capture_output=True
    )
    assert (64, 1, b"") == (done.returncode, done.stderr.count(b"\n"), done.stdout)


def test_help_names_the_options():
    """
    --help exits 0.
    """
    done = subprocess.run(
        [*RunnerProcess.COMMAND, "--help"], cwd=RunnerProcess.ROOT, capture_output=True, check=True
    )
    assert b"--stay" in done.stdout


def test_a_directory_open_to_others_is_refused(tmp_path: Path):
    """
    Exit code 77: others could put a socket of their own there.
    """
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    with RunnerProcess(tmp_path / "open") as runner:
        assert 77 == runner.process.wait(DEADLINE_S)
        assert "0750" in runner.stderr


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path):
    """
    Exit code 71.
    """
    done = subprocess.run(
        [*RunnerProcess.COMMAND, "--dir", str(tmp_path / "missing" / "runner")],
        cwd=RunnerProcess.ROOT,
        capture_output=True,
    )
    assert (71, 1) == (done.returncode, done.stderr.count(b"\n"))


def test_a_newer_ledger_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """
    Exit code 65, and the ledger stays as it is.
    """
    monkeypatch.setattr(ledger, "VERSION", ledger.VERSION + 1)
    (tmp_path / "runner").mkdir(mode=0o700)
    directory_fd = os.open(tmp_path / "runner", os.O_RDONLY)
    ledger.Ledger(directory_fd, b"b" * 16, 1).close()
    os.close(directory_fd)
    with RunnerProcess(tmp_path / "runner") as runner:
        assert 65 == runner.process.wait(DEADLINE_S)
        assert "version 2" in runner.stderr


def test_a_long_path_has_a_socket(tmp_path: Path, output: Output):
    """
    The directory's path may be longer than an address.
    """
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with RunnerProcess(deep / "runner") as runner:
        assert 0 == runner.greeted().run(["true"], output.fd).status


def test_a_socket_left_behind_is_replaced(runner: RunnerProcess, output: Output):
    """
    After a kill the socket file is there and nobody listens.
    """
    runner.greeted()
    runner.kill()
    with pytest.raises(ConnectionRefusedError):
        Client(runner.directory)
    with RunnerProcess(runner.directory) as next_runner:
        assert 0 == next_runner.greeted().run(["true"], output.fd).status
