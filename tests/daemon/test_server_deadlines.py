"""
What happens to a client that does not greet, finish, take or ask in time.
"""

import socket

from stepped_server import HELLO, Stepped, ended, received, refusal, statuses

from queuectl.framing import pack_frame
from queuectl.protocol import Done, Output, Refused, Status, Welcome, encode
from queuectld.core.peer import EVERYBODY
from queuectld.runtime.connection import UNANSWERED_MAX, Connection
from queuectld.runtime.deadlines import (
    FRAME_MS_MAX,
    HELLO_MS_MAX,
    IDLE_MS_MAX,
    WRITE_MS_MAX,
    Deadlines,
)
from queuectld.runtime.quotas import Quota


def test_a_hello_comes_in_time(stepped: Stepped) -> None:
    """
    Who has not greeted in time is told so, however many bytes of the greeting came meanwhile.
    """
    with stepped.connect() as silent, stepped.connect() as slow:
        begun_at = stepped.now
        assert stepped.server.next_deadline() == begun_at + HELLO_MS_MAX
        slow.send(HELLO[:1])
        stepped.now = begun_at + HELLO_MS_MAX - 1
        stepped.turn()
        slow.send(HELLO[1:2])
        stepped.turn()
        assert not ended(silent)
        assert not ended(slow)
        stepped.now += 1
        stepped.turn()
        assert {("idle", 0)} == {(each.code, each.call) for each in map(refusal, (silent, slow))}
    assert stepped.server.connection_count == 0


def test_a_frame_is_whole_in_time(stepped: Stepped) -> None:
    """
    A byte now and then does not make a frame: its time runs from its first one.
    """
    frame = pack_frame(encode(Status(call=1)))
    with stepped.connect() as client:
        client.sendall(HELLO + frame[:3])
        stepped.turn()
        begun_at = stepped.now
        for n in (1, 2):
            stepped.now = begun_at + n * FRAME_MS_MAX // 3
            client.send(frame[2 + n : 3 + n])
            stepped.turn()
        assert stepped.server.next_deadline() == begun_at + FRAME_MS_MAX
        stepped.now = begun_at + FRAME_MS_MAX
        stepped.turn()
        refused = refusal(client)
        assert refused.code == "try_later"
        assert "not whole within 60 s" in refused.message
    assert stepped.asked == []


def test_each_frame_has_its_own_time(stepped: Stepped) -> None:
    """
    Who is always in the middle of a frame, but of another one, is served on.
    """
    frame = pack_frame(encode(Status(call=1)))
    with stepped.connect() as client:
        client.sendall(HELLO + frame[:3])
        for n in range(1, 5):
            stepped.turn()
            stepped.now += FRAME_MS_MAX - 1
            client.send(frame[3:] + frame[:3])
            stepped.turn()
            assert len(stepped.asked) == n
            stepped.server.reply(1, Done(call=1))
        assert not any(isinstance(each, Refused) for each in received(client))


def test_the_time_of_a_frame_stands_still_while_it_is_not_read(stepped: Stepped) -> None:
    """
    A client whose requests all wait for answers is not blamed for the frame behind them.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, UNANSWERED_MAX) + b"\0\0")
        stepped.turns()
        assert len(stepped.asked) == UNANSWERED_MAX
        stepped.now += 10 * FRAME_MS_MAX
        stepped.turn()
        assert not any(isinstance(each, Refused) for each in received(client))
        stepped.server.reply(1, Done(call=1))
        stepped.turns()
        assert stepped.server.next_deadline() == stepped.now + FRAME_MS_MAX


def test_nor_does_it_run_while_output_waits_to_be_taken(stepped: Stepped) -> None:
    """
    The same where the daemon does not read because the client does not.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1) + b"\0\0")
        stepped.turn()
        while stepped.server.may_stream(1):
            stepped.server.reply(1, Output(call=1, attempt=1, offset=0, data=b"x" * 65536))
            stepped.server.flush(stepped.now)
        stepped.now += 10 * FRAME_MS_MAX
        stepped.turn()
        assert stepped.server.connection_count == 1
        assert not any(isinstance(each, Refused) for each in received(client))


def test_what_came_in_time_is_read_before_time_is_up(stepped: Stepped) -> None:
    """
    A daemon that was held up for longer than a client may take blames nobody for it.
    """
    with stepped.connect() as new, stepped.connect() as used:
        used.sendall(HELLO)
        stepped.turn()
        new.sendall(HELLO)
        used.sendall(statuses(1, 1))
        stepped.now += IDLE_MS_MAX
        stepped.turn()
        for client in (new, used):
            assert [Welcome] == [type(each) for each in received(client)]
        assert len(stepped.asked) == 1


def test_who_asks_nothing_for_long_is_told_to_come_again(stepped: Stepped) -> None:
    """
    The time runs from the last answer; who waits for one, or for output, is not idle.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        stepped.now += 2 * IDLE_MS_MAX
        stepped.server.reply(1, Output(call=1, attempt=1, offset=0, data=b"x"))
        stepped.turn()
        stepped.now += 2 * IDLE_MS_MAX
        stepped.turn()
        assert stepped.server.next_deadline() is None
        stepped.server.reply(1, Done(call=1))
        stepped.turn()
        assert [type(each) for each in received(client)] == [Welcome, Output, Done]
        assert stepped.server.next_deadline() == stepped.now + IDLE_MS_MAX
        stepped.now += IDLE_MS_MAX
        stepped.turn()
        refused = refusal(client)
    assert (refused.code, refused.call) == ("idle", 0)
    assert "60 minutes" in refused.message


def test_who_takes_nothing_for_long_is_dropped(stepped: Stepped) -> None:
    """
    Taking a part of what one is owed begins the time anew.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        while stepped.server.may_stream(1):
            stepped.server.reply(1, Output(call=1, attempt=1, offset=0, data=b"x" * 65536))
            stepped.server.flush(stepped.now)
        for _ in range(2):
            stepped.now += WRITE_MS_MAX - 1
            # The kernel has room for more once most of what it holds was taken.
            for _ in range(4):
                assert client.recv(1 << 16)
            stepped.turn()
        assert stepped.gone == []
        stepped.now += WRITE_MS_MAX
        stepped.turn()
        assert stepped.gone == [1]


def test_the_earliest_time_is_known_after_every_change() -> None:
    """
    Whatever is noted, taken out or forgotten, the loop hears the earliest time that is left.
    """
    deadlines = Deadlines()
    assert deadlines.next() is None
    first_sock, second_sock = socket.socketpair()
    with first_sock, second_sock:
        first = Connection(first_sock, 1, EVERYBODY, Quota(None))
        second = Connection(second_sock, 2, EVERYBODY, Quota(None))
        deadlines.note(first, 1_000)
        assert 1_000 + HELLO_MS_MAX == deadlines.next()
        deadlines.end_at(first, 2_000)
        assert 2_000 == deadlines.next()
        assert not deadlines.is_due(1_999)
        assert deadlines.is_due(2_000)
        assert [first] == list(deadlines.ended(2_000))
        assert 1_000 + HELLO_MS_MAX == deadlines.next()
        deadlines.note(second, 5_000)
        assert 1_000 + HELLO_MS_MAX == deadlines.next()
        assert [first] == [each for each, _ in deadlines.expire(1_000 + HELLO_MS_MAX)]
        assert 5_000 + HELLO_MS_MAX == deadlines.next()
        deadlines.forget(second)
        assert deadlines.next() is None
