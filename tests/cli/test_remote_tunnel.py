"""
Requirements on the tunnel to another machine's daemon: to a client it is the daemon's socket.
"""

import pytest
from gateway_twin import GatewayTwin, Visit
from websockets.frames import Frame, Opcode

from queuectl import __version__
from queuectl.environment import pack_variables
from queuectl.errors import CallTimedOut, ConnectionLost
from queuectl.framing import FRAME_BYTES_MAX, pack_frame
from queuectl.protocol import (
    Config,
    Enqueue,
    Enqueued,
    GetConfig,
    Hello,
    JobSpec,
    LogEnd,
    Logs,
    Output,
    SettingView,
    encode,
)
from queuectl.remote import RemoteClient, parse_address

TOKEN = "qctl_abc_secret"


def client_of(twin: GatewayTwin) -> RemoteClient:
    return RemoteClient(parse_address(twin.url), TOKEN)


# --- a tunnel --------------------------------------------------------------------------------


def answer_config(visit: Visit) -> None:
    request = visit.greet()
    assert isinstance(request, GetConfig)
    visit.send(Config(call=request.call, settings=[]))


def test_a_tunnel_carries_frames() -> None:
    """
    The handshake names the token and the program, and nothing of a browser's; each frame is a
    message; farewell is said.
    """

    def script(visit: Visit) -> None:
        request = visit.accept()
        assert "/api/v1/tunnel" == request.path
        assert f"Bearer {TOKEN}" == request.headers["Authorization"]
        assert f"queuectl/{__version__}" == request.headers["User-Agent"]
        assert "Origin" not in request.headers
        answer_config(visit)
        assert visit.receive() is None or visit.websocket.close_rcvd is not None
        assert visit.websocket.close_rcvd is not None
        assert 1000 == visit.websocket.close_rcvd.code

    with GatewayTwin(script) as twin, client_of(twin) as client:
        assert [] == client.call(GetConfig(), Config).settings
        assert twin.url == client.path


def test_a_frame_may_come_in_pieces_with_pings_between() -> None:
    """
    Fragments are put together, pings are answered while an answer is waited for.
    """
    setting = SettingView(key="x" * 1000, value=1, default=1, source="set")

    def script(visit: Visit) -> None:
        visit.accept()
        request = visit.greet()
        data = pack_frame(encode(Config(call=request.call, settings=[setting])))
        visit.websocket.send_binary(data[:3], fin=False)
        visit.websocket.send_ping(b"still there?")
        visit.websocket.send_continuation(data[3:500], fin=False)
        visit.websocket.send_continuation(data[500:], fin=True)
        whole = b"".join(visit.websocket.data_to_send())
        for start in range(0, len(whole), 7):
            visit.sock.sendall(whole[start : start + 7])
        pong = visit.next_event()
        assert b"still there?" == bytes(pong.data)  # type: ignore[attr-defined]

    with GatewayTwin(script) as twin, client_of(twin) as client:
        assert [setting] == client.call(GetConfig(), Config).settings


def test_the_largest_frame_fits() -> None:
    """
    The limit of a frame is the control socket's, both ways.
    """
    output = Output(call=1, attempt=1, offset=0, data=b"x" * (FRAME_BYTES_MAX - 100))

    def script(visit: Visit) -> None:
        visit.accept()
        request = visit.greet()
        assert isinstance(request, Logs)
        assert len(request.id) > FRAME_BYTES_MAX - 100
        visit.send(output)
        visit.receive()

    with GatewayTwin(script) as twin, client_of(twin) as client:
        stream = client.stream(Logs(id="i" * (FRAME_BYTES_MAX - 60)), Output, LogEnd)
        assert output == next(stream)
        stream.close()


def test_pings_are_answered_while_a_long_frame_is_sent() -> None:
    """
    Over a slow line a frame takes longer than the gateway waits for a sign of life.
    """
    seen: list[Opcode] = []

    def script(visit: Visit) -> None:
        visit.accept()
        assert isinstance(visit.receive(), Hello)
        visit.websocket.send_ping(b"still there?")
        visit.flush()
        # What was sent by now is as much as there is room for on the way: not the whole frame.
        while Opcode.PONG not in seen:
            frame = visit.next_event()
            assert isinstance(frame, Frame)
            seen.append(frame.opcode)
            assert frame.opcode is Opcode.PONG or not frame.fin, "the pong came after the frame"

    with GatewayTwin(script) as twin, client_of(twin) as client, pytest.raises(ConnectionLost):
        client.call(Logs(id="i" * (FRAME_BYTES_MAX - 60)), LogEnd)
    assert Opcode.BINARY in seen


def test_pings_do_not_put_off_a_timeout() -> None:
    """
    A call's time is over when it is over, whatever arrives meanwhile that is no answer.
    """

    def script(visit: Visit) -> None:
        visit.accept()
        visit.greet()
        visit.sock.settimeout(0.005)
        try:
            while True:
                visit.websocket.send_ping(b"")
                visit.flush()
                try:
                    if not visit.sock.recv(1 << 16):
                        return
                except TimeoutError:
                    pass
        except OSError:
            return

    with GatewayTwin(script) as twin, client_of(twin) as client, pytest.raises(CallTimedOut):
        client.call(GetConfig(), Config, timeout_ms=200)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, None])
def test_the_end_of_a_tunnel_is_the_end_of_a_connection(code: int | None) -> None:
    """
    However it is closed, or broken off, what was not answered is a lost connection, which commands
    that wait come back from.
    """

    def script(visit: Visit) -> None:
        visit.accept()
        visit.greet()
        if code is not None:
            visit.websocket.send_close(code, "bye")
            visit.flush()

    with GatewayTwin(script) as twin, client_of(twin) as client, pytest.raises(ConnectionLost):
        client.call(GetConfig(), Config)


def test_a_message_that_is_too_long_ends_the_tunnel() -> None:
    """
    Nobody makes the client hold more than a frame.
    """

    def script(visit: Visit) -> None:
        visit.accept()
        visit.greet()
        visit.websocket.send_binary(bytes(FRAME_BYTES_MAX + 5))
        try:
            visit.flush()
            visit.receive()
        except OSError:
            return

    with GatewayTwin(script) as twin, client_of(twin) as client, pytest.raises(ConnectionLost):
        client.call(GetConfig(), Config)


def test_an_enqueue_is_repeated_over_a_new_tunnel() -> None:
    """
    With the same request id, so that nothing is made twice, and after a restart of the other end,
    which is waited for; and it takes nothing over from here.
    """
    seen: list[Enqueue] = []

    def lose(visit: Visit) -> None:
        visit.accept()
        seen.append(visit.greet())

    def restart(visit: Visit) -> None:
        visit.read_request()
        visit.answer("HTTP/1.1 503 Service Unavailable\nContent-Length: 0\n\n")

    def take(visit: Visit) -> None:
        lose(visit)
        visit.send(Enqueued(call=seen[-1].call, ids=["1"]))

    with GatewayTwin(lose, restart, take) as twin, client_of(twin) as client:
        assert ["1"] == client.enqueue([JobSpec(command="x")]).ids

    assert seen[0] == seen[1]
    assert (pack_variables({}), "~", 0o022) == (seen[0].env, seen[0].cwd, seen[0].umask)
