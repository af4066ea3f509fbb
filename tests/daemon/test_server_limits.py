"""
What a client and an account cannot take from the others: turns and connections; and what the
server does when a call of the kernel fails.
"""

import contextlib
import errno
import os
import resource
import socket

import pytest
from msgspec.structs import replace
from stepped_server import HELLO, Stepped, received, refusal, statuses

from queuectl.framing import pack_frame
from queuectl.protocol import Done, List, Logs, Message, Refused, Show, Status, Welcome, encode
from queuectld.core.peer import Peer
from queuectld.runtime.listening import OWN_DESCRIPTORS_MAX
from queuectld.runtime.quotas import (
    ADMIN_RESERVED_MAX,
    CLIENTS_MAX,
    FEW_CONNECTIONS_MAX,
    RESERVED_MAX,
    USER_BYTES_PER_TURN_MAX,
    USER_REQUESTS_PER_TURN_MAX,
    Quotas,
    TooManyConnections,
)
from queuectld.runtime.server import ACCEPT_RETRY_MS, ACCEPTS_PER_TURN_MAX
from queuectld.runtime.streams import STREAMS_MAX

ALICE, BOB, ROOT = Peer(1001, "alice"), Peer(1002, "bob"), Peer(0, "root", admin=True)


# --- turns --------------------------------------------------------------------------------------


def test_many_connections_of_one_account_have_one_quota(stepped: Stepped) -> None:
    """
    They are served in turn, none is forgotten, and another account waits for one quota at most.
    """
    stepped.user_connections_max = 10
    stepped.peer = ALICE
    many = [stepped.connect() for _ in range(10)]
    stepped.peer = BOB
    one = stepped.connect()
    for client in many:
        client.sendall(HELLO + statuses(1, 50))
    one.sendall(HELLO + statuses(1, 1))
    stepped.turn()
    clients = [client for client, _ in stepped.asked]
    assert clients.count(11) == 1
    assert len(clients) <= 2 * USER_REQUESTS_PER_TURN_MAX + 1
    stepped.turns()
    asked = [(client, request.call) for client, request in stepped.asked]
    for client in range(1, 11):
        assert [*range(1, 51)] == [call for each, call in asked if each == client]
    for each in (*many, one):
        each.close()


@pytest.mark.parametrize("long", [List(), Logs(id="1"), Show(id="1")], ids=["list", "logs", "show"])
def test_a_long_request_is_a_quota(stepped: Stepped, long: Message) -> None:
    """
    Of an account that asks for much on all of its connections, one answer is made in a turn:
    another account does not wait for the others, and no more is made than is read.
    """
    stepped.user_connections_max = 5
    stepped.peer = ALICE
    many = [stepped.connect() for _ in range(5)]
    stepped.peer = BOB
    one = stepped.connect()
    asked_for = b"".join(pack_frame(encode(replace(long, call=n))) for n in range(1, 4))
    for client in many:
        client.sendall(HELLO + asked_for)
    one.sendall(HELLO)
    stepped.turn()
    for n in range(1, 6):
        asked_count = len(stepped.asked)
        one.sendall(statuses(n, n))
        stepped.turn()
        asked = stepped.asked[asked_count:]
        assert [n] == [request.call for client, request in asked if client == 6]
        assert 1 == len([client for client, _ in asked if client != 6])
    stepped.turns()
    assert 15 == len([client for client, _ in stepped.asked if client != 6])
    for each in (*many, one):
        each.close()


def test_connections_of_one_account_have_their_turn(stepped: Stepped) -> None:
    """
    One that always has more to ask does not keep the account's others waiting.
    """
    with stepped.connect() as first, stepped.connect() as second:
        lists = b"".join(pack_frame(encode(List(call=n))) for n in range(1, 20))
        first.sendall(HELLO + lists)
        second.sendall(HELLO + lists)
        for _ in range(9):
            stepped.turn()
        clients = [client for client, _ in stepped.asked]
        assert abs(clients.count(1) - clients.count(2)) <= 2


def test_a_long_frame_is_a_quota(stepped: Stepped) -> None:
    """
    Of an account that sends frame after frame of megabytes, one is looked at in a turn.
    """
    stepped.user_connections_max = 10
    stepped.peer = ALICE
    many = [stepped.connect() for _ in range(4)]
    long = pack_frame(encode(Status(call=1)) + b"\xc0" * (USER_BYTES_PER_TURN_MAX + 1))
    for client in many:
        client.setblocking(False)
        client.sendall(HELLO)
    stepped.turns()
    rest = {client: memoryview(long) for client in many}
    refused_counts = []
    while any(rest.values()):
        for client, data in rest.items():
            if data:
                try:
                    rest[client] = data[client.send(data) :]
                except BlockingIOError:
                    pass
        stepped.turn()
    for _ in range(6):
        refused_counts.append(
            sum(isinstance(each, Refused) for client in many for each in received(client))
        )
        stepped.turn()
    assert max(refused_counts) <= 2
    for client in many:
        client.close()


# --- connections --------------------------------------------------------------------------------


def test_an_account_has_only_so_many_connections(stepped: Stepped) -> None:
    """
    One more is told so; others, and admins, are let in; who closes one may open another.
    """
    stepped.peer = ALICE
    mine = [stepped.connect() for _ in range(3)]
    with stepped.connect() as fourth:
        assert "your account has 3 connections, of at most 3" in refusal(fourth).message
    stepped.peer = BOB
    others = [stepped.connect()]
    stepped.peer = ROOT
    others += [stepped.connect() for _ in range(5)]
    stepped.peer = ALICE
    mine.pop().close()
    stepped.turn()
    mine.append(stepped.connect())
    stepped.user_connections_max = 4
    mine.append(stepped.connect())
    for client in (*mine, *others):
        client.sendall(HELLO)
    stepped.turns()
    for client in (*mine, *others):
        assert [Welcome] == [type(each) for each in received(client)]
        client.close()


def test_an_account_with_all_its_connections_is_not_looked_up(stepped: Stepped) -> None:
    """
    Looking up its groups may take long: who is over the limit anyway costs no more than a refusal.
    """
    stepped.peer = Peer(os.getuid(), "me")
    mine = [stepped.connect() for _ in range(3)]
    looked_up_count = stepped.identified_count
    with stepped.connect() as fourth:
        assert "your account has 3" in refusal(fourth).message
    assert stepped.identified_count == looked_up_count
    for client in mine:
        client.close()


def test_the_last_connections_are_kept_for_who_has_few() -> None:
    """
    However many accounts fill the rest: the next one is let in, then only admins, then nobody.
    """
    quotas = Quotas(lambda: 64)
    count = 0

    def fill(peer: Peer) -> int:
        joined_count = 0
        with contextlib.suppress(TooManyConnections):
            while quotas.join(peer):
                joined_count += 1
        return joined_count

    uid = 5000
    while count < CLIENTS_MAX - RESERVED_MAX:
        count += fill(Peer(uid))
        uid += 1
    assert count == CLIENTS_MAX - RESERVED_MAX
    assert fill(ROOT) == FEW_CONNECTIONS_MAX
    count += FEW_CONNECTIONS_MAX
    while count < CLIENTS_MAX - ADMIN_RESERVED_MAX:
        count += fill(Peer(uid))
        uid += 1
    with pytest.raises(TooManyConnections, match="the last are for admins"):
        quotas.join(Peer(uid))
    for admin in range(ADMIN_RESERVED_MAX // FEW_CONNECTIONS_MAX):
        assert fill(Peer(admin + 100, admin=True)) == FEW_CONNECTIONS_MAX
    with pytest.raises(TooManyConnections, match=f"{CLIENTS_MAX} connections already"):
        quotas.join(Peer(99, admin=True))


def test_a_quota_ends_with_its_last_connection() -> None:
    """
    Nothing is kept of accounts that are gone.
    """
    quotas = Quotas(lambda: 1)
    first = quotas.join(ALICE)
    with pytest.raises(TooManyConnections):
        quotas.join(ALICE)
    quotas.leave(first)
    assert quotas.join(ALICE) is not first


def test_descriptors_suffice() -> None:
    """
    What the limits allow fits into the 1,024 descriptors that a process usually has.
    """
    assert CLIENTS_MAX + STREAMS_MAX + OWN_DESCRIPTORS_MAX <= 1024 - 128


# --- calls that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_a_descriptor_a_client_is_told_so(stepped: Stepped, number: int) -> None:
    """
    The one held in reserve is given up for it and taken back: the next client is told so too.
    """
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        stepped.faults["accept"] = [number]
        with stepped.connect() as client:
            refused = refusal(client)
            assert refused.code == "try_later"
            assert "no descriptor" in refused.message
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with stepped.connect() as client:
        client.sendall(HELLO)
        stepped.turn()
        assert isinstance(received(client)[0], Welcome)


@pytest.mark.parametrize("numbers", [[errno.EMFILE, errno.EMFILE], [errno.ENOBUFS], [errno.ENOMEM]])
def test_who_cannot_even_be_told_waits(stepped: Stepped, numbers: list[int]) -> None:
    """
    Others are served meanwhile, and it is accepted by itself a little later.
    """
    with stepped.connect() as served:
        served.sendall(HELLO)
        stepped.turn()
        assert isinstance(received(served)[0], Welcome)
        stepped.faults["accept"] = numbers
        with stepped.connect() as client:
            client.sendall(HELLO)
            stepped.turn()
            assert received(client) == []
            served.sendall(statuses(1, 1))
            stepped.turn()
            assert len(stepped.asked) == 1
            assert stepped.server.next_deadline() == stepped.now + ACCEPT_RETRY_MS
            stepped.now += ACCEPT_RETRY_MS
            stepped.turns()
            assert isinstance(received(client)[0], Welcome)


def test_a_reserve_that_was_lost_is_taken_back_later(stepped: Stepped) -> None:
    """
    With no descriptor for it there is none; when there are some again, there is one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    stepped.faults["accept"] = [errno.EMFILE, errno.EMFILE]
    with stepped.connect() as first:
        assert received(first) == []
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(stepped.path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            stepped.now += ACCEPT_RETRY_MS
            stepped.turns()
            stepped.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert received(first) == []
        stepped.now += ACCEPT_RETRY_MS
        stepped.turns()
        stepped.faults["accept"] = [errno.EMFILE]
        with stepped.connect() as third:
            assert refusal(third).code == "try_later"
        client.close()


def test_accepting_has_its_share_of_a_turn_too(stepped: Stepped) -> None:
    """
    Who connects again and again does not keep those who are connected waiting.
    """
    with stepped.connect() as served:
        crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(40)]
        for client in crowd:
            client.connect(stepped.path)
        before = stepped.server.connection_count
        stepped.turn()
        assert stepped.server.connection_count == before + ACCEPTS_PER_TURN_MAX
        served.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        assert len(stepped.asked) == 1
        for client in crowd:
            client.close()


@pytest.mark.parametrize("call", ["recv", "send"])
@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE, errno.ENOBUFS])
def test_a_connection_that_fails_ends_alone(stepped: Stepped, call: str, number: int) -> None:
    """
    Whatever reading from it or writing to it ends in.
    """
    with stepped.connect() as other, stepped.connect() as client:
        stepped.faults[call] = [number]
        client.sendall(HELLO + statuses(1, 1))
        stepped.turns()
        assert stepped.gone == [2]
        other.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        stepped.server.reply(1, Done(call=1))
        stepped.turn()
        assert [Welcome, Done] == [type(each) for each in received(other)]


def test_a_call_that_is_interrupted_is_none(stepped: Stepped) -> None:
    """
    A connection that is gone before it was accepted, and one that would block, are no errors.
    """
    stepped.faults["accept"] = [errno.ECONNABORTED]
    with stepped.connect() as client:
        stepped.faults.update(recv=[errno.EAGAIN], send=[errno.EAGAIN])
        client.sendall(HELLO + statuses(1, 1))
        stepped.turns()
        assert stepped.gone == []
        assert isinstance(received(client)[0], Welcome)
        assert len(stepped.asked) == 1


def test_one_that_cannot_be_watched_is_turned_away(stepped: Stepped) -> None:
    """
    The kernel has a limit on watched descriptors; nothing is kept of the connection.
    """
    stepped.peer = ALICE
    stepped.epoll.full = True
    for _ in range(5):
        with stepped.connect() as client:
            assert "cannot watch" in refusal(client).message
    stepped.epoll.full = False
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        stepped.server.reply(stepped.asked[0][0], Done(call=1))
        stepped.turn()
        assert [Welcome, Done] == [type(each) for each in received(client)]
