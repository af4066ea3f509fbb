"""
A hello with a token: whom the server takes the connection for, what it counts as, and how it ends.
"""

import hashlib
import os
import pwd
import random
import socket
from collections.abc import Iterator

import pytest
from stepped_server import HELLO, Stepped, ended, received, refusal, statuses

from queuectl.framing import pack_frame
from queuectl.protocol import PROTOCOL_VERSION, SCOPES, Done, Hello, Refused, Welcome, encode
from queuectl.tokens import PREFIX, TOKEN_CHARS_MAX
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.core.records import TokenForgotten, TokenMade
from queuectld.core.tokens import id_text
from queuectld.runtime.greeting import TELL_REFUSED_MS
from queuectld.runtime.quotas import Quotas, TooManyConnections
from queuectld.runtime.token_text import make_secret

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))
GATEWAY = Peer(990, "gateway")
DAEMON, BIN = pwd.getpwnam("daemon"), pwd.getpwnam("bin")
NOT_VALID = "the token is not valid here: unknown, revoked or expired"


class TokenServer(Stepped):
    """
    A server of the machine's queue, at a socket that everybody may open, and tokens for it.
    """

    def __init__(self, path: str, *, system: bool = True) -> None:
        super().__init__(path, system=system)
        os.chmod(path, 0o666)
        self.peer = GATEWAY if system else EVERYBODY

    def make(
        self,
        uid: int | None = DAEMON.pw_uid,
        user: str | None = "daemon",
        *,
        scopes: tuple[str, ...] = SCOPES,
        expires_at: int = 0,
    ) -> str:
        """
        Make a token and return its text.
        """
        secret = make_secret()
        made = TokenMade(
            secret.number, self.now, secret.digest, list(scopes), "", expires_at, uid, user
        )
        self.tokens.add(made)
        return f"{PREFIX}{id_text(secret.number)}_{secret.text}"

    def revoke(self, text: str) -> None:
        token_id = text.split("_")[1]
        self.tokens.remove(TokenForgotten(int(token_id, 16), self.now, "revoked"))
        self.server.end_token(token_id)

    def greet(self, text: str, more: bytes = b"") -> socket.socket:
        client = self.connect()
        client.sendall(hello(text) + more)
        self.turns()
        return client

    def refused(self, text: str) -> Refused:
        """
        Return what a client with this token is told before it is hung up on.
        """
        with self.greet(text) as client:
            return refusal(client)


def hello(text: str) -> bytes:
    return pack_frame(encode(Hello(protocol=PROTOCOL_VERSION, token=text)))


@pytest.fixture
def server(tmp_path: os.PathLike[str]) -> Iterator[TokenServer]:
    server = TokenServer(f"{tmp_path}/q.sock")
    yield server
    server.close()


def test_a_connection_is_its_tokens(server: TokenServer) -> None:
    """
    Who opened it does not count any more: requests are the account's, within the token's scopes.
    """
    text = server.make(scopes=("submit", "read"))
    with server.greet(text, statuses(1, 1)) as client:
        (welcome,) = received(client)
        assert isinstance(welcome, Welcome)
        assert (DAEMON.pw_uid, "daemon", False) == (welcome.uid, welcome.user, welcome.admin)
        assert ["read", "submit"] == welcome.scopes
        assert text.split("_")[1] == welcome.token
        scopes = frozenset({"read", "submit"})
        assert [Peer(DAEMON.pw_uid, "daemon", False, scopes, welcome.token)] == server.askers


def test_in_user_mode_a_token_is_the_one_accounts(tmp_path: os.PathLike[str]) -> None:
    """
    The daemon's own; a token of another mode, from a state directory that was moved, is none.
    """
    server = TokenServer(f"{tmp_path}/q.sock", system=False)
    with server.greet(server.make(None, None, scopes=("read",))) as client:
        (welcome,) = received(client)
        own = (os.geteuid(), pwd.getpwuid(os.geteuid()).pw_name, True, ["read"])
        assert own == (welcome.uid, welcome.user, welcome.admin, welcome.scopes)
    assert server.refused(server.make()).message == NOT_VALID
    server.close()
    server = TokenServer(f"{tmp_path}/r.sock")
    assert server.refused(server.make(None, None)).message == NOT_VALID
    server.close()


def test_who_guesses_learns_nothing(server: TokenServer) -> None:
    """
    Whatever is wrong with a token, it is the same refusal and the end of the connection.
    """
    good, revoked = server.make(), server.make()
    expired = server.make(expires_at=server.now)
    server.revoke(revoked)
    # A secret may hold the mark that is before it.
    secret = good.split("_", 2)[2]
    head = good[: -len(f"_{secret}")]
    other = "x" if secret[-1] != "x" else "y"
    wrong = ["", "x", PREFIX, f"{head}_{secret[:-1]}{other}", f"{head}_", f"{head}_{secret}{other}"]
    wrong += [good.upper(), good[1:], f"{PREFIX}{'0' * 10}_{secret}", f"qctl_{secret}_{head}"]
    wrong += [revoked, expired, "\0" * TOKEN_CHARS_MAX, "ß" * TOKEN_CHARS_MAX, "x" * 100_000]
    for text in wrong:
        assert server.refused(text) == Refused(code="denied", message=NOT_VALID), text[:80]
    with server.greet(good) as client:
        assert isinstance(received(client)[0], Welcome)


@pytest.mark.parametrize("round_number", range(5))
def test_no_damaged_token_is_good(server: TokenServer, round_number: int) -> None:
    """
    Text with one character changed, left out, doubled or swapped with the next is no token, unless
    that changed nothing; and whatever comes, the next client is served.
    """
    print(f"QUEUECTL_SEED={SEED}")
    rng = random.Random(SEED + round_number)
    good = [server.make() for _ in range(3)]
    for _ in range(40):
        text = list(rng.choice(good))
        at = rng.randrange(len(text) - 1)
        match rng.randrange(4):
            case 0:
                text[at] = chr(rng.randrange(1, 0x3000))
            case 1:
                del text[at]
            case 2:
                text.insert(at, text[at])
            case _:
                text[at], text[at + 1] = text[at + 1], text[at]
        damaged = "".join(text)
        if damaged not in good:
            assert server.refused(damaged).code == "denied", damaged
    with server.greet(good[0]) as client:
        assert isinstance(received(client)[0], Welcome)


def test_secrets_are_random_and_kept_as_digests() -> None:
    """
    256 bits each, no two the same; the digest is that of the text's last part.
    """
    made = [make_secret() for _ in range(100)]
    assert len({each.text for each in made}) == len({each.number for each in made}) == 100
    assert {43} == {len(each.text) for each in made}
    for each in made:
        assert each.digest == hashlib.sha256(each.text.encode()).digest()
        assert 0 <= each.number < 1 << 40


def test_an_account_that_is_gone_or_another(server: TokenServer) -> None:
    """
    Its name and its uid must be as they were, and it must be let in by the socket's mode.
    """
    gone = server.make(54321, "ghost")
    assert "no account with the id 54321" in server.refused(gone).message
    recycled = server.make(DAEMON.pw_uid, "predecessor")
    assert "predecessor has another name now" in server.refused(recycled).message
    good = server.make()
    os.chmod(server.path, 0o660)
    assert "daemon is not in the group" in server.refused(good).message
    with server.connect() as client:
        os.unlink(server.path)
        client.sendall(hello(good))
        server.turns()
        assert "daemon is not in the group" in refusal(client).message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives the socket to a group")
def test_the_sockets_group_is_let_in(server: TokenServer) -> None:
    """
    A member's token is good, another's is not.
    """
    os.chown(server.path, -1, DAEMON.pw_gid)
    os.chmod(server.path, 0o660)
    with server.greet(server.make()) as client:
        assert isinstance(received(client)[0], Welcome)
    assert "bin is not in the group" in server.refused(server.make(BIN.pw_uid, "bin")).message


def test_a_gateway_is_no_bottleneck(server: TokenServer) -> None:
    """
    A connection with a token counts as its account's: one account comes over many connections
    of account that has few, and each token's account has its own limit.
    """
    server.user_connections_max = 3
    first, second = server.make(), server.make(BIN.pw_uid, "bin")
    connections = [server.greet(text) for text in (first, second) for _ in range(3)]
    for client in connections:
        assert isinstance(received(client)[0], Welcome)
    refused = server.refused(first)
    assert ("try_later", True) == (refused.code, "has 3 connections" in refused.message)
    assert server.identified_count == 7
    # Those that bring nothing are the gateway's own, of which there are none so far.
    unknown = [server.connect() for _ in range(3)]
    with server.connect() as late:
        assert refusal(late).code == "try_later"
    for client in (*connections, *unknown):
        client.close()
    server.turns()
    assert server.server.connection_count == 0
    with server.greet(first) as client:
        assert isinstance(received(client)[0], Welcome)


def test_accounts_that_come_over_one_do_not_wait_for_each_other(server: TokenServer) -> None:
    """
    What follows a token is its account's turn, not that of whoever opened the connection: another
    account waits for the hellos of those before it, and not for what they ask.
    """
    server.user_connections_max = 10
    many = [server.connect() for _ in range(8)]
    busy, other = server.make(), server.make(BIN.pw_uid, "bin")
    for client in many[:-1]:
        client.sendall(hello(busy) + statuses(1, 60))
    many[-1].sendall(hello(other) + statuses(1, 1))
    server.turn()
    assert BIN.pw_uid in {peer.uid for peer in server.askers}
    server.turns()
    assert len(server.asked) == 7 * 60 + 1
    for client in many:
        client.close()


def test_a_connection_that_is_not_let_in_counts_as_before() -> None:
    """
    Whose account has no room is still one of those who opened it, until it is closed.
    """
    quotas = Quotas(lambda: 1)
    gateway, own = quotas.join(GATEWAY), quotas.join(Peer(1001, "alice"))
    with pytest.raises(TooManyConnections):
        quotas.move(gateway, Peer(1001, "alice"))
    assert (gateway.connection_count, own.connection_count) == (1, 1)
    with pytest.raises(TooManyConnections):
        quotas.join(GATEWAY)
    quotas.leave(own)
    assert quotas.move(gateway, Peer(1001, "alice")).connection_count == 1
    assert quotas.join(GATEWAY).connection_count == 1


def test_what_follows_a_token_is_its_accounts_turn(server: TokenServer) -> None:
    """
    Requests sent together with the hello are answered, and as the account.
    """
    text = server.make()
    with server.greet(text, statuses(1, 50)) as client:
        assert [*range(1, 51)] == [request.call for _, request in server.asked]
        assert {text.split("_")[1]} == {peer.token for peer in server.askers}
        assert isinstance(received(client)[0], Welcome)


def test_a_token_comes_with_the_first_hello(server: TokenServer) -> None:
    """
    A connection that was greeted stays who it is: a second token ends it.
    """
    with server.greet(server.make(), HELLO) as client:
        again = received(client)
        assert [DAEMON.pw_uid] * 2 == [each.uid for each in again]
        client.setblocking(True)
        client.sendall(hello(server.make(BIN.pw_uid, "bin")))
        server.turns()
        assert refusal(client) == Refused(
            code="usage", message="a token comes with the first hello"
        )


def test_revoking_ends_what_it_let_in(server: TokenServer) -> None:
    """
    At once, whatever is under way, and nothing more is sent; other tokens' connections go on.
    """
    revoked, other = server.make(), server.make()
    idle, waiting, kept = server.greet(revoked), server.greet(revoked), server.greet(other)
    waiting.setblocking(True)
    waiting.sendall(statuses(1, 1))
    server.turns()
    ((client, _),) = server.asked
    server.revoke(revoked)
    server.server.reply(client, Done(call=1))
    server.turns()
    for each in (idle, waiting):
        assert refusal(each) == Refused(code="denied", message="the token was revoked")
        each.close()
    assert [1, 2] == sorted(server.gone)
    assert isinstance(received(kept)[-1], Welcome)
    assert not ended(kept)
    kept.close()


def test_a_revoked_client_that_does_not_read_is_gone_too(server: TokenServer) -> None:
    """
    What it is owed is not waited for.
    """
    text = server.make()
    client = server.greet(text, statuses(1, 200))
    for number, request in server.asked:
        server.server.reply(number, Refused(call=request.call, code="x", message="x" * 4000))
    server.turn()
    server.revoke(text)
    assert server.server.connection_count == 0
    client.close()


def test_an_expired_token_ends_what_it_let_in(server: TokenServer) -> None:
    """
    To the millisecond, the earliest first, and the server says beforehand when that will be.
    """
    server.user_connections_max = 4
    at = server.now + 1000
    later = server.greet(server.make(expires_at=at + 500))
    first = server.greet(server.make(expires_at=at))
    closed = server.greet(server.make(expires_at=at - 500))
    stays = server.greet(server.make())
    closed.close()
    server.turns()
    assert server.server.next_deadline() == at
    server.now = at - 1
    server.turn()
    assert isinstance(received(first)[-1], Welcome)
    server.now = at
    server.turn()
    assert refusal(first) == Refused(code="denied", message="the token has expired")
    assert server.server.next_deadline() == at + 500
    server.now = at + 500
    server.turn()
    assert refusal(later).code == "denied"
    assert isinstance(received(stays)[-1], Welcome)
    assert server.server.connection_count == 1
    for each in (first, later, stays):
        each.close()


def test_the_log_tells_of_refused_tokens_but_not_of_each(server: TokenServer) -> None:
    """
    The first at once, the others in a sum a second later at the earliest.
    """
    for _ in range(5):
        server.refused("nonsense")
    assert [("token_refused", {"uid": GATEWAY.uid, "count": 1})] == server.log.events
    server.now += TELL_REFUSED_MS
    server.refused("nonsense")
    assert ("token_refused", {"uid": GATEWAY.uid, "count": 5}) == server.log.events[-1]
    assert len(server.log.events) == 2
