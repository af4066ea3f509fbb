"""
What the client does when the daemon hung up because nothing was asked for long.
"""

from pathlib import Path

import pytest
from daemon_process import wait_until
from daemon_twin import JOB, DaemonTwin, Peer

from queuectl.client import Client
from queuectl.errors import ConnectionIdle
from queuectl.protocol import Done, LogEnd, Logs, Output, Refused, Shutdown

IDLE = Refused(code="idle", message="nothing was asked for 60 minutes; connect again")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "q.sock")


@pytest.mark.parametrize("used", [True, False], ids=["used", "never used"])
def test_an_idle_connection_is_made_anew(path: str, used: bool) -> None:
    """
    Whatever the next request is: the daemon did not read it after it had hung up.
    """

    def first(peer: Peer) -> None:
        if used:
            peer.greet()
            peer.send(Done(call=peer.receive().call))
        peer.send(IDLE)

    def second(peer: Peer) -> None:
        peer.greet()
        for _ in range(2):
            request = peer.receive()
            assert isinstance(request, Shutdown)
            peer.send(Done(call=request.call))

    with DaemonTwin(path, first, second) as twin, Client(path) as client:
        if used:
            client.call(Shutdown(), Done)
        wait_until(lambda: twin.played_count == 1)
        client.call(Shutdown(), Done)
        client.call(Shutdown(), Done)


def test_a_request_that_crosses_the_hangup_is_repeated(path: str) -> None:
    """
    It was sent before the daemon's last words were read, and is in nobody's hands.
    """

    def first(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(IDLE)

    def second(peer: Peer) -> None:
        peer.greet()
        request = peer.receive()
        assert isinstance(request, Logs)
        peer.send(LogEnd(call=request.call, job=JOB))

    with DaemonTwin(path, first, second), Client(path) as client:
        assert list(client.stream(Logs(id="1"), Output, LogEnd)) == [LogEnd(call=2, job=JOB)]


def test_who_pipelines_is_told_that_the_connection_was_idle(path: str) -> None:
    """
    What was sent and not answered was not read: the caller knows best what to repeat.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(Done(call=peer.receive().call), IDLE)

    with DaemonTwin(path, script), Client(path) as client:
        client.send(Shutdown())
        client.send(Shutdown())
        assert client.receive(Done).call == 1
        with pytest.raises(ConnectionIdle, match="connect again"):
            client.receive(Done)


def test_a_daemon_that_finds_everybody_idle_is_not_asked_for_ever(path: str) -> None:
    """
    Twice is an error.
    """

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(IDLE)

    with DaemonTwin(path, script, script), Client(path) as client, pytest.raises(ConnectionIdle):
        client.call(Shutdown(), Done)
