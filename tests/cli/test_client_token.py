"""
A client with a token goes on only where it is taken for the token's account.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from queuectl.client import Client
from queuectl.errors import ProtocolError, RequestRefused, UsageError
from queuectl.framing import FrameReader, pack_frame
from queuectl.protocol import Hello, Message, Refused, Welcome, decoder, encode
from queuectl.tokens import id_of

TOKEN = f"qctl_0123456789_{'s' * 43}"


class Answered:
    """
    What a daemon that says one thing to every hello was sent.
    """

    def __init__(self) -> None:
        self.heard: list[Message] = []


@contextmanager
def answering(path: str, answer: Message) -> Iterator[Answered]:
    """
    Stand in for a daemon: read until the first frame is whole, answer, read until the end.
    """
    answered = Answered()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        reader = FrameReader()
        with connection:
            while data := connection.recv(1 << 16):
                reader.feed(data)
                for frame in reader:
                    answered.heard.append(decoder(Hello).decode(frame))
                    connection.sendall(pack_frame(encode(answer)))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield answered
        thread.join(20)
        assert not thread.is_alive()


def test_the_token_is_said_first_and_named_by_the_answer(tmp_path: Path) -> None:
    """
    Hello carries it; a welcome that names its id is what the client waits for.
    """
    welcome = Welcome(protocol=1, version="9", user="ann", token="0123456789")
    path = f"{tmp_path}/s"
    with answering(path, welcome) as daemon, closing(Client(path, token=TOKEN)) as client:
        assert welcome == client.welcome
    (hello,) = daemon.heard
    assert isinstance(hello, Hello)
    assert TOKEN == hello.token


@pytest.mark.parametrize("named", [None, "9999999999"])
def test_a_daemon_that_does_not_take_the_token_is_asked_nothing(
    tmp_path: Path, named: str | None
) -> None:
    """
    A daemon that knows no tokens would serve us as who opened the connection: the client says so
    and hangs up before its first request.
    """
    path = f"{tmp_path}/s"
    with (
        answering(path, Welcome(protocol=1, version="0.1.0", token=named)) as daemon,
        pytest.raises(ProtocolError, match=r"0\.1\.0, does not know tokens; upgrade"),
    ):
        Client(path, token=TOKEN)
    assert len(daemon.heard) == 1


def test_a_token_that_is_refused(tmp_path: Path) -> None:
    """
    The daemon's words reach the caller, with their code.
    """
    path = f"{tmp_path}/s"
    with (
        answering(path, Refused(code="denied", message="not valid")),
        pytest.raises(RequestRefused, match="not valid") as refused,
    ):
        Client(path, token=TOKEN)
    assert refused.value.code == "denied"


@pytest.mark.parametrize(
    "text",
    [
        *("", "qctl_", "qctl__x", "qctl_0123456789", "qctl_0123456789_", "QCTL_0123456789_x"),
        f"{TOKEN}s",
        f"qctl_0123456789_{'ß' * 43}",
    ],
)
def test_text_that_is_no_token(text: str) -> None:
    """
    It is refused with what one looks like, and not repeated: it may be a secret all the same.
    """
    with pytest.raises(UsageError) as refused:
        id_of(text)
    assert "looks like" in str(refused.value)
    assert len(text) < 43 or text not in str(refused.value)


def test_the_id_of_a_token() -> None:
    """
    It is what stands between the underscores; the secret may hold some too.
    """
    assert id_of("qctl_0123456789_a_b") == "0123456789"
