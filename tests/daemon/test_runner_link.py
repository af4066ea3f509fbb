"""
The daemon's end of the connection to the runner, against a runner that follows a script.
"""

import errno
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from scripted_runner import WELCOME, Script

from queuectld.core.effects import StartRun
from queuectld.core.events import (
    RunExited,
    RunnerGone,
    RunnerReady,
    RunSpawned,
    StartRefused,
)
from queuectld.runner import messages
from queuectld.runtime.runner_link import RETRY_MS_MAX


@pytest.fixture
def script(tmp_path: os.PathLike[str]) -> Iterator[Script]:
    script = Script(os.fspath(tmp_path))
    yield script
    script.close()


def run(number: int = 1, argv: list[str] | None = None) -> StartRun:
    return StartRun(number, 1, argv or ["no-such", "x"], {"A": "b"}, "/here", 0o22, user="alice")


def test_a_greeting_tells_what_the_runner_knows(script: Script) -> None:
    """
    Live runs, then ends, and last which attempts were in the list and since when it is complete.
    """
    script.connect()
    exited = messages.Exited(2, 3, 256 * 4, True, 1, 2, True, 5000, 6000, 7)
    running = messages.pack_running(1, 1, 55, 1)
    packets = [WELCOME, running, messages.pack_exited(exited), messages.pack_ready()]
    for n, packet in enumerate(packets):
        assert not script.link.ready, n
        script.say(packet)
    assert script.link.ready
    assert script.events == [
        RunSpawned(1, 1, 55),
        RunExited(2, 3, exit_code=4, user_ms=5, system_ms=6, memory_max_bytes=7 * 1024),
        RunnerReady(frozenset({(1, 1), (2, 3)}), 5),
    ]


@pytest.mark.parametrize(
    ("since", "second", "vouched"),
    [
        (5, (78, 1000), [5, 5]),
        (9, (78, 1000), [9, 0]),
        (9, (77, 1001), [9, 0]),
        (9, (77, 1000), [9, 9]),
    ],
)
def test_a_ledger_vouches_only_for_what_it_cannot_have_missed(
    script: Script, since: int, second: tuple[int, int], vouched: list[int]
) -> None:
    """
    One that began in this daemon's own life may have replaced one that was lost with its runner:
    at the second greeting it proves nothing about what was started before, unless it is that of
    the same process.
    """
    heard = []
    for pid, started_at in ((77, 1000), second):
        runner = script.connect()
        welcome = messages.Welcome(messages.VERSION, pid, started_at, since, "1.0")
        script.say(messages.pack_welcome(welcome), messages.pack_ready())
        heard += [event for event in script.events if isinstance(event, RunnerReady)]
        script.events.clear()
        runner.close()
        script.pump()
        script.now += RETRY_MS_MAX
    assert [event.ledger_epoch for event in heard] == vouched


@pytest.mark.parametrize(
    ("status", "known", "code", "signo"),
    [(0, True, 0, None), (7 << 8, True, 7, None), (9, True, None, 9), (9 << 8, False, None, None)],
)
def test_an_end_is_what_wait_says(
    script: Script, status: int, known: bool, code: int | None, signo: int | None
) -> None:
    """
    Exit code or signal; neither when nobody saw it.
    """
    script.greet()
    script.say(messages.pack_exited(messages.Exited(1, 1, status, known, 1, 2, False, 0, 0, 0)))
    assert script.events == [RunExited(1, 1, exit_code=code, signal=signo)]


@pytest.mark.parametrize("size_bytes", [10, 200_000])
def test_a_start_carries_the_output_file(script: Script, size_bytes: int) -> None:
    """
    The run's own file, made for its owner alone; a large body comes in a second descriptor.
    """
    runner = script.greet()
    script.link.start(run(argv=["prog", "x" * size_bytes]))
    packet, fds, _, _ = socket.recv_fds(runner, 1 << 20, 4)
    try:
        start = messages.unpack_request(packet)
        assert isinstance(start, messages.Start)
        data = start.body if start.body is not None else os.pread(fds[1], start.body_bytes, 0)
        body = messages.unpack_body(data)
        assert (body.cwd, body.argv[0], body.env) == (b"/here", b"prog", {b"A": b"b"})
        os.write(fds[0], b"out")
    finally:
        for fd in fds:
            os.close(fd)
    path = f"{script.link._output.path(1, 1)}"
    with open(path, "rb") as file:
        assert file.read() == b"out"
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("stage", "number", "code", "passing", "words"),
    [
        (messages.EXEC, errno.ENOENT, 127, False, "no-such: No such file"),
        (messages.EXEC, errno.EACCES, 126, False, "no-such: Permission denied"),
        (messages.CWD, errno.ENOENT, None, False, "cannot enter /here"),
        (messages.SPAWN, errno.EAGAIN, None, True, "could not start"),
        (messages.SPAWN, errno.ENOSPC, None, True, "No space"),
        (messages.STOPPING, errno.ESHUTDOWN, None, True, "could not start"),
        (messages.SWITCH, errno.EPERM, None, False, "cannot become its account: Operation not"),
    ],
)
def test_a_refusal_says_why(
    script: Script, stage: int, number: int, code: int | None, passing: bool, words: str
) -> None:
    """
    With a shell's exit code where there is one; what passes by itself is marked so.
    """
    runner = script.greet()
    script.link.start(run())
    _, fds, _, _ = socket.recv_fds(runner, 1 << 20, 4)
    os.close(fds[0])
    script.say(messages.pack_refused(1, 1, number, stage))
    (event,) = script.events
    assert isinstance(event, StartRefused)
    assert (event.exit_code, event.passing) == (code, passing)
    assert words in event.error


@pytest.mark.parametrize("reason", messages.REASONS)
def test_a_refusal_of_an_account_is_explained(script: Script, reason: int) -> None:
    """
    With the runner's own words for what is wrong with the account, or with its policy for it.
    """
    runner = script.greet()
    script.link.start(run())
    _, fds, _, _ = socket.recv_fds(runner, 1 << 20, 4)
    os.close(fds[0])
    stage = messages.ACCOUNT if reason < messages.BELOW_UID_MIN else messages.POLICY
    script.say(messages.pack_refused(1, 1, 0, stage, reason))
    words = messages.Refused(1, 1, 0, stage, reason).explain("alice")
    assert [StartRefused(1, 1, f"could not start: {words}", final=True)] == script.events


@pytest.mark.parametrize(
    "packet",
    [
        messages.pack_running(1, 1, 55, 1),
        messages.pack_exited(messages.Exited(1, 1, 0, True, 1, 2, False, 0, 0, 0)),
        messages.pack_refused(1, 1, errno.ENOENT, messages.EXEC),
    ],
    ids=["running", "exited", "refused"],
)
def test_what_was_started_is_kept_until_it_is_heard_of(script: Script, packet: bytes) -> None:
    """
    Whatever is heard first: that it runs, that it ended, or why it did not start.
    """
    runner = script.greet()
    script.link.start(run())
    _, fds, _, _ = socket.recv_fds(runner, 1 << 20, 4)
    os.close(fds[0])
    assert [(1, 1)] == list(script.link._starting)
    script.say(packet)
    assert {} == script.link._starting


def test_a_second_start_of_an_attempt_is_no_event(script: Script) -> None:
    """
    The first one goes on, so nothing ended.
    """
    script.greet()
    script.say(messages.pack_refused(1, 1, errno.EEXIST, messages.DUPLICATE))
    assert script.events == []


def test_no_output_file_is_a_refusal(script: Script, tmp_path: os.PathLike[str]) -> None:
    """
    The runner is not asked when there is nothing for the job to write to.
    """
    script.greet()
    os.rmdir(f"{tmp_path}/output")
    with open(f"{tmp_path}/output", "wb"):
        pass
    script.link.start(run())
    (event,) = script.events
    assert isinstance(event, StartRefused)
    assert "could not open its output file" in event.error


def test_signals_and_acknowledgements_are_sent(script: Script) -> None:
    """
    In the order in which they were decided.
    """
    runner = script.greet()
    script.link.signal(4, 2, signal.SIGTERM)
    script.link.ack(5, 1)
    assert messages.unpack_request(runner.recv(100)) == messages.Signal(4, 2, signal.SIGTERM)
    assert messages.unpack_request(runner.recv(100)) == messages.Ack(5, 1)


def test_what_does_not_fit_waits_in_order(script: Script) -> None:
    """
    A runner that does not read for a while gets everything later, and in order.
    """
    runner = script.greet()
    for number in range(5000):
        script.link.ack(number, 1)
    heard = []
    while len(heard) < 5000:
        request = messages.unpack_request(runner.recv(100))
        assert isinstance(request, messages.Ack)
        heard.append(request.job)
        script.pump()
    assert heard == list(range(5000))


@pytest.mark.parametrize("packet", [b"x", WELCOME[:-1], b"\xff" * 40])
def test_what_is_not_understood_ends_the_connection(script: Script, packet: bytes) -> None:
    """
    Nothing is guessed: the link goes down, and a new one begins with a whole list.
    """
    script.greet()
    script.say(packet)
    assert script.events == [RunnerGone()]
    assert not script.link.ready


def test_a_runner_that_hangs_up_is_not_asked_in_a_circle(script: Script) -> None:
    """
    Soon at first, for it may just have been leaving; then ever later, up to a second.
    """
    waits_ms = []
    for _ in range(10):
        script.connect().close()
        script.pump()
        retry_at = script.link.next_deadline()
        assert retry_at is not None
        waits_ms.append(retry_at - script.now)
        script.link.attend(retry_at - 1)
        assert script.link.next_deadline() == retry_at
        script.now = retry_at
    assert waits_ms[:4] == [10, 20, 40, 80]
    assert waits_ms[-1] == RETRY_MS_MAX
    assert script.events == [RunnerGone()] * 10
    script.greet()
    assert script.link.next_deadline() is None


def test_without_a_runner_nothing_is_sent(script: Script) -> None:
    """
    What is decided meanwhile is decided again after the next greeting.
    """
    script.link.start(run())
    script.link.signal(1, 1, signal.SIGTERM)
    script.link.ack(1, 1)
    script.link.stop(100)
    runner = script.connect()
    runner.setblocking(False)
    with pytest.raises(BlockingIOError):
        runner.recv(100)


def test_starts_that_never_left_are_told_at_the_next_greeting(script: Script) -> None:
    """
    One that was decided while the link was down, and those that were waiting for room or found the
    runner's end closed; not one that the runner may have read.
    """
    runner = script.greet()
    script.link.start(run(1))
    assert isinstance(messages.unpack_request(runner.recv(1 << 20)), messages.Start)
    runner.shutdown(socket.SHUT_RD)
    script.link.start(run(2))
    runner.close()
    script.pump()
    script.link.start(run(3))
    script.events.clear()
    script.now += RETRY_MS_MAX
    script.connect()
    script.say(WELCOME, messages.pack_ready())
    assert [RunnerReady(frozenset(), 5, frozenset({(2, 1), (3, 1)}))] == script.events
    script.events.clear()
    script.say(messages.pack_ready())
    assert [RunnerReady(frozenset(), 5)] == script.events
