"""
Requirements on the client: one answer for each call, and a named error for everything else.
"""

import errno
import os
import signal
import socket
import threading
from pathlib import Path

import msgspec
import pytest
from daemon_twin import JOB, DaemonTwin, Peer

from queuectl.client import Client, connect, read_umask
from queuectl.errors import (
    AccessDenied,
    CallTimedOut,
    ConnectionLost,
    DaemonUnreachable,
    ProtocolError,
    RequestRefused,
    RequestTooLong,
    UsageError,
)
from queuectl.framing import FRAME_BYTES_MAX, pack_frame
from queuectl.protocol import (
    Done,
    Enqueue,
    Enqueued,
    Hello,
    JobSpec,
    LogEnd,
    Logs,
    Output,
    Refused,
    Show,
    Shutdown,
    Welcome,
    encode,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "q.sock")


def test_hello_travels_with_the_first_request(path: str) -> None:
    """
    A command costs one round trip: the request is sent before Welcome came.
    """

    def script(peer: Peer) -> None:
        assert peer.receive() == Hello(protocol=1, version="0.1.0")
        request = peer.receive()  # There, though nothing was answered yet.
        peer.send(Welcome(protocol=1, version="9.9.9", pid=7), Done(call=request.call))
        again = peer.receive()
        assert isinstance(again, Shutdown)  # No second Hello.
        peer.send(Done(call=again.call))

    with DaemonTwin(path, script), Client(path) as client:
        assert client.welcome is None
        client.call(Shutdown(), Done)
        assert client.welcome == Welcome(protocol=1, version="9.9.9", pid=7)
        client.call(Shutdown(), Done)


def test_answers_cut_anywhere_are_put_together(path: str) -> None:
    """
    The kernel may deliver an answer byte by byte.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        answer = pack_frame(encode(Enqueued(call=peer.receive().call, ids=["17"])))
        for index in range(len(answer)):
            peer.raw(answer[index : index + 1])

    with DaemonTwin(path, script), Client(path) as client:
        assert client.enqueue([JobSpec(command="true")]).ids == ["17"]


def test_a_refusal_says_all_that_the_daemon_said(path: str) -> None:
    """
    Refused becomes RequestRefused, and the connection goes on.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(
            Refused(call=peer.receive().call, code="conflict", message="no", field="id", index=3)
        )
        peer.send(Done(call=peer.receive().call))

    with DaemonTwin(path, script), Client(path) as client:
        with pytest.raises(RequestRefused) as caught:
            client.call(Show(id="1"), Done)
        error = caught.value
        assert (error.code, str(error), error.field, error.index) == ("conflict", "no", "id", 3)
        client.call(Shutdown(), Done)


def test_a_refused_hello_is_read_though_the_daemon_hung_up(path: str) -> None:
    """
    What a daemon says before it hangs up on a strange client reaches the user.
    """

    def script(peer: Peer) -> None:
        peer.send(Refused(code="unsupported", message="speak protocol 2"))

    with (
        DaemonTwin(path, script),
        Client(path) as client,
        pytest.raises(RequestRefused, match="speak protocol 2"),
    ):
        client.call(Show(id="x" * 300_000), Done)


def test_enqueue_is_repeated_once_with_the_same_request_id(path: str) -> None:
    """
    After a lost connection the same request goes over a new one: no second job is made.
    """
    requests: list[Enqueue] = []

    def hang_up(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())

    def answer(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())
        peer.send(Enqueued(call=requests[-1].call, ids=["1"], existing=True))

    with DaemonTwin(path, hang_up, answer), Client(path) as client:
        assert client.enqueue([JobSpec(command="true")]).existing
    assert requests[0] == requests[1]
    assert requests[0].request_id


def test_enqueue_is_not_repeated_for_ever(path: str) -> None:
    """
    A daemon that hangs up twice is an error.
    """

    def hang_up(peer: Peer) -> None:
        peer.greet()
        assert isinstance(peer.receive(), Enqueue)

    with DaemonTwin(path, hang_up, hang_up), Client(path) as client, pytest.raises(ConnectionLost):
        client.enqueue([JobSpec(command="true")])


def test_each_enqueue_has_a_request_id_of_its_own(path: str) -> None:
    """
    Two requests for the same job make two jobs.
    """
    ids = set()

    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(2):
            request = peer.receive()
            ids.add(request.request_id)
            peer.send(Enqueued(call=request.call, ids=["1"]))

    with DaemonTwin(path, script), Client(path) as client:
        for _ in range(2):
            client.enqueue([JobSpec(command="true")])
    assert len(ids) == 2


def test_enqueue_takes_over_this_process(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Directory, umask and the allowed variables are those of the caller.
    """
    requests: list[Enqueue] = []
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("SECRET_TOKEN", "x")

    def script(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())
        peer.send(Enqueued(call=requests[0].call, ids=["1"]))

    with DaemonTwin(path, script), Client(path) as client:
        client.enqueue([JobSpec(command="true")])
    assert os.path.samefile(os.getcwd(), requests[0].cwd)
    assert requests[0].umask == read_umask()
    env = msgspec.msgpack.decode(requests[0].env)
    assert env["LC_TIME"] == "C"
    assert "SECRET_TOKEN" not in env


@pytest.mark.parametrize(
    "garbage",
    [
        pack_frame(b"\xc1"),
        pack_frame(b""),
        pack_frame(encode(Output(attempt=1, offset=0, data=b""))),
        pack_frame(bytes.fromhex("81a26f70a6") + b"future"),
        pack_frame(bytes.fromhex("82a26f70a4") + b"done" + bytes.fromhex("a463616c6cc2")),
        pack_frame(bytes.fromhex("83a26f70a7") + b"refused\xa4code\xa1\xff\xa7message\xa0"),
        pack_frame(encode(Done(call=99))),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
    ],
    ids=["code", "empty", "other", "unknown", "type", "utf8", "call", "http", "length"],
)
def test_garbage_is_a_protocol_error(path: str, garbage: bytes) -> None:
    """
    Whatever else listens at the path, the caller learns that it is no daemon.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.raw(garbage)

    with (
        DaemonTwin(path, script),
        Client(path) as client,
        pytest.raises(ProtocolError, match="is no queuectld of this version"),
    ):
        client.call(Shutdown(), Done)


def test_half_an_answer_is_a_lost_connection(path: str) -> None:
    """
    A daemon killed while it writes has not confirmed anything.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        answer = pack_frame(encode(Done(call=peer.receive().call)))
        peer.raw(answer[:-1])

    with DaemonTwin(path, script), Client(path) as client, pytest.raises(ConnectionLost):
        client.call(Shutdown(), Done)


def test_a_call_that_times_out_ends_the_connection(path: str) -> None:
    """
    The answer that comes later must not be taken for that of the next call.
    """
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        assert over.wait(10)
        assert peer.receive() is None

    with DaemonTwin(path, script), Client(path) as client:
        with pytest.raises(CallTimedOut):
            client.call(Shutdown(), Done, timeout_ms=20)
        assert client.fileno() == -1
        over.set()


def test_a_signal_that_interrupts_nothing_is_heard(path: str) -> None:
    """
    A signal that comes just before the client waits does not end the wait, as one that another
    thread takes does not; Ctrl-C is heard all the same.
    """
    asked, over = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        asked.set()
        assert over.wait(10)

    def interrupt() -> None:
        assert asked.wait(10)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with DaemonTwin(path, script), Client(path) as client:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.call(Shutdown(), Done)
        over.set()
    thread.join()


def test_calls_can_be_under_way_together(path: str) -> None:
    """
    send() and receive() pipeline: answers say by their call which request they belong to.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        numbers = [peer.receive().call for _ in range(3)]
        for number in reversed(numbers):
            peer.send(Done(call=number))

    with DaemonTwin(path, script), Client(path) as client:
        sent = [client.send(Shutdown()) for _ in range(3)]
        received = [client.receive(Done).call for _ in range(3)]
        assert sent == received[::-1]
        assert len(set(sent)) == 3


def test_a_stream_ends_with_its_end(path: str) -> None:
    """
    All pieces come, then the end, and the connection can be used again.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.receive().call
        peer.send(*(Output(call=call, attempt=1, offset=n, data=b"x") for n in range(3)))
        peer.send(LogEnd(call=call, job=JOB, attempt=1))
        peer.send(Done(call=peer.receive().call))

    with DaemonTwin(path, script), Client(path) as client:
        answers = list(client.stream(Logs(id="1"), Output, LogEnd))
        assert [type(each) for each in answers] == [Output, Output, Output, LogEnd]
        client.call(Shutdown(), Done)


def test_a_stream_left_early_ends_the_connection(path: str) -> None:
    """
    The rest of the stream must not be taken for the answer to the next call.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        call = peer.receive().call
        peer.send(Output(call=call, attempt=1, offset=0, data=b"x"))
        assert peer.receive() is None

    with DaemonTwin(path, script), Client(path) as client:
        stream = client.stream(Logs(id="1"), Output, LogEnd)
        next(stream)
        stream.close()
        assert client.fileno() == -1


def test_nobody_there(path: str) -> None:
    """
    No file, and a file that a dead daemon left, are both an unreachable daemon.
    """
    with pytest.raises(DaemonUnreachable, match="No such file"):
        Client(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(DaemonUnreachable, match="Connection refused"):
        Client(path)


def test_a_daemon_is_started_when_nobody_is_there(path: str) -> None:
    """
    `start` is called once, and the connection made then.
    """
    twins: list[DaemonTwin] = []

    def start() -> None:
        twins.append(DaemonTwin(path, script).__enter__())

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(Done(call=peer.receive().call))

    with Client(path, start=start) as client:
        client.call(Shutdown(), Done)
    assert len(twins) == 1
    twins[0].__exit__(None)


def test_a_start_that_fails_says_why(path: str) -> None:
    """
    What the start raises is what the caller gets.
    """

    def start() -> None:
        raise DaemonUnreachable("the disk is full")

    with pytest.raises(DaemonUnreachable, match="the disk is full"):
        Client(path, start=start)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.ENOENT, DaemonUnreachable),
        (errno.ECONNREFUSED, DaemonUnreachable),
        (errno.EAGAIN, DaemonUnreachable),
        (errno.ENOTSOCK, DaemonUnreachable),
    ],
)
def test_every_way_to_fail_to_connect(
    path: str, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    """
    Not permitted is another error than nobody there: no daemon is started then.
    """
    closed = []

    class Unconnectable(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(number, os.strerror(number))

        def close(self) -> None:
            closed.append(True)
            super().close()

    monkeypatch.setattr(socket, "socket", Unconnectable)
    with pytest.raises(expected):
        connect(path)
    assert closed


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    """
    The kernel's limit of 107 bytes is a usage error, not a daemon that does not run.
    """
    with pytest.raises(UsageError, match="too long"):
        Client(str(tmp_path / ("x" * 200)))


def test_a_request_too_long_is_refused_before_it_is_sent(path: str) -> None:
    """
    The limit is named, and the connection still good.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(Done(call=peer.receive().call))

    with DaemonTwin(path, script), Client(path) as client:
        with pytest.raises(RequestTooLong, match=str(FRAME_BYTES_MAX)):
            client.enqueue([JobSpec(command="x" * FRAME_BYTES_MAX)])
        client.call(Shutdown(), Done)


@pytest.mark.parametrize(
    ("command", "env"), [("cat '\udcff'", {}), ("true", {"A": "\udcff"}), ("true", {"\udcff": "A"})]
)
def test_text_that_is_not_utf8_is_refused_before_it_is_sent(
    path: str, command: str, env: dict[str, str]
) -> None:
    """
    A file name with stray bytes, as Python keeps it, cannot travel as text; neither can a variable.
    """

    def script(peer: Peer) -> None:
        assert peer.receive() is None

    with (
        DaemonTwin(path, script),
        Client(path) as client,
        pytest.raises(UsageError, match="not valid UTF-8"),
    ):
        client.enqueue([JobSpec(command=command)], env=env)


class FailingSocket:
    """
    The socket, one of whose calls fails.
    """

    def __init__(self, real: socket.socket, name: str, error: OSError) -> None:
        self._real, self._name, self._error = real, name, error

    def __getattr__(self, name: str) -> object:
        if name == self._name:
            return self._fail
        return getattr(self._real, name)

    def _fail(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("sendall", BrokenPipeError(32, "pipe")),
        ("sendall", ConnectionResetError(104, "reset")),
        ("recv", ConnectionResetError(104, "reset")),
    ],
)
def test_a_connection_that_breaks_is_lost(path: str, name: str, error: OSError) -> None:
    """
    However the kernel puts it, the caller hears ConnectionLost.
    """
    with DaemonTwin(path, lambda peer: None), Client(path) as client:
        client._socket = FailingSocket(client._socket, name, error)  # type: ignore[assignment]
        with pytest.raises(ConnectionLost):
            client.call(Shutdown(), Done)
