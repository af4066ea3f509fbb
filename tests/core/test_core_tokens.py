"""
Tokens in the queue: who makes, sees and revokes them, what they allow, and when they end.
"""

import os
import random
from typing import Any, get_args

import pytest
from conversation import Conversation, replayed

from queuectl.messages import Request
from queuectl.protocol import (
    ID_CHARS_MAX,
    SPAN_MS_MAX,
    Act,
    Done,
    Enqueue,
    Hello,
    JobSpec,
    List,
    Message,
    Refused,
    Selection,
    Show,
)
from queuectl.tokens import (
    TOKEN_CHARS_MAX,
    USER_TOKENS_MAX,
    CreateToken,
    ListTokens,
    RevokeToken,
    TokenCreated,
    Tokens,
    TokenView,
    id_of,
)
from queuectld.core.effects import EndToken
from queuectld.core.host import Account, Host, Secret
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.core.records import TokenForgotten, TokenMade
from queuectld.core.refusal import Refusal
from queuectld.core.scopes import SCOPE_OF, permit

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))
ALICE = Peer(1001, "alice")
BOB = Peer(1002, "bob")
ROOT = Peer(0, "root", admin=True)
ACCOUNTS = {
    "alice": Account(1001, "alice", "/home/alice"),
    "bob": Account(1002, "bob", "/"),
    "root": Account(0, "root", "/root"),
}
DAY_MS = 86_400_000
ENDED = "denied: the token was revoked or has expired"


class Talk(Conversation):
    """
    A conversation about tokens: each gets the next number, and a secret that tells which it is.
    """

    made_count = 0

    def create(self, peer: Peer = EVERYBODY, **fields: Any) -> TokenCreated:
        created = self.try_create(peer, **fields)
        assert isinstance(created, TokenCreated), created
        return created

    def try_create(self, peer: Peer = EVERYBODY, **fields: Any) -> Any:
        self.made_count += 1
        number = fields.pop("number", self.made_count)
        secret = Secret(number, f"secret-{self.made_count}", b"%064d" % self.made_count)
        request = CreateToken(**{"scopes": ["read"], **fields})
        return self.request(request, peer, Host(ACCOUNTS, secret=secret))

    def tokens(self, peer: Peer = EVERYBODY, user: str | None = None) -> list[TokenView]:
        answer = self.request(ListTokens(user=user), peer)
        assert isinstance(answer, Tokens)
        return answer.tokens

    def ids(self, peer: Peer = EVERYBODY, user: str | None = None) -> list[str]:
        return [token.id for token in self.tokens(peer, user)]

    def revoke(self, token_id: str, peer: Peer = EVERYBODY) -> Any:
        # The answer, and then the end of the connections that brought it.
        return self.request(RevokeToken(id=token_id), peer)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_a_token_is_told_once_and_kept_as_a_digest(talk: Talk) -> None:
    """
    Its text is in the answer alone; what is recorded is the digest, never the secret.
    """
    created = talk.create(name="laptop", scopes=["manage", "read"], lifetime_ms=DAY_MS)

    assert created.text == f"qctl_{created.token.id}_secret-1"
    assert created.token == TokenView(
        id="0000000001",
        name="laptop",
        scopes=["read", "manage"],
        created_at=talk.now,
        expires_at=talk.now + DAY_MS,
    )
    (record,) = talk.records
    assert isinstance(record, TokenMade)
    assert record.digest == b"%064d" % 1
    assert not any(b"secret-1" in each.body for each in talk.stored)
    assert [created.token] == talk.tokens()


def test_tokens_survive_restarts(talk: Talk) -> None:
    """
    From all records and from a snapshot; one that was revoked does not come back.
    """
    kept, revoked = talk.create().token.id, talk.create().token.id
    assert talk.revoke(revoked) == Done(call=0)
    for snapshot in (False, True):
        talk.restart(snapshot=snapshot)
        assert [kept] == talk.ids()


def test_each_account_has_its_own(talk: Talk) -> None:
    """
    Members see and revoke theirs; others' do not exist for them. Admins see and revoke all.
    """
    alices, bobs = talk.create(ALICE).token.id, talk.create(BOB).token.id

    assert [alices] == talk.ids(ALICE)
    assert [bobs] == talk.ids(BOB)
    assert [] == talk.ids(BOB, user="alice")
    assert [bobs, alices] == talk.ids(ROOT)
    assert [alices] == talk.ids(ROOT, user="alice")
    refused = talk.revoke(alices, BOB)
    never = talk.revoke("ffffffffff", BOB)
    assert (refused.code, refused.message) == (
        "not_found",
        never.message.replace("ffffffffff", alices),
    )
    assert talk.revoke(bobs, ROOT) == Done(call=0)
    assert [] == talk.ids(BOB)


def test_admins_make_tokens_for_others(talk: Talk) -> None:
    """
    Such a token is that account's, and says who made it. Members make theirs alone.
    """
    token = talk.create(ROOT, user="bob").token
    assert ("bob", "root") == (token.user, token.created_by)
    assert [token.id] == talk.ids(BOB)
    assert talk.create(BOB, user="bob").token.created_by is None
    dave = Peer(1004, "dave", admin=True)
    assert talk.create(dave, user="alice").token.created_by == "dave"
    for peer, user, code in (
        (BOB, "alice", "denied"),
        (ROOT, "nobody-here", "usage"),
        (dave, "root", "denied"),
    ):
        refused = talk.try_create(peer, user=user)
        assert (code, "user") == (refused.code, refused.field)


def test_where_there_is_one_account(talk: Talk) -> None:
    """
    All tokens are that account's; its own name may be said, another one's may not.
    """
    own = Host({"me": Account(None, "me", "/")}, secret=Secret(7, "s", b"d"))
    created = talk.request(CreateToken(scopes=["read"], user="me"), EVERYBODY, own)
    assert isinstance(created, TokenCreated)
    assert (created.token.user, created.token.created_by) == (None, None)
    assert talk.try_create(user="bob").code == "denied"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * (ID_CHARS_MAX + 1)}, "name"),
        ({"lifetime_ms": 0}, "lifetime_ms"),
        ({"lifetime_ms": -1}, "lifetime_ms"),
        ({"lifetime_ms": SPAN_MS_MAX + 1}, "lifetime_ms"),
    ],
)
def test_a_token_that_breaks_a_rule(talk: Talk, fields: dict[str, Any], field: str) -> None:
    """
    It is refused with the field, and nothing is made.
    """
    refused = talk.try_create(**fields)
    assert ("usage", field) == (refused.code, refused.field)
    assert [] == talk.ids()


def test_an_account_has_so_many(talk: Talk) -> None:
    """
    One more is refused until one is revoked; other accounts have room, and a full disk has none.
    """
    talk.replay_every = 0
    first = talk.create(ALICE).token.id
    for _ in range(USER_TOKENS_MAX - 1):
        talk.create(ALICE)
    assert talk.try_create(ALICE).code == "try_later"
    assert talk.try_create(ROOT, user="alice").code == "try_later"
    talk.create(BOB)
    talk.revoke(first, ALICE)
    talk.create(ALICE)
    talk.check_replay()
    talk.storage(full=True)
    assert talk.try_create(BOB).code == "try_later"


def test_a_number_is_given_once(talk: Talk) -> None:
    """
    Random numbers may repeat: the next free one is taken, at the end of their range the first.
    """
    last = (1 << 40) - 1
    given = [talk.create(number=last).token.id for _ in range(3)]
    assert ["ffffffffff", "0000000000", "0000000001"] == given
    prefix, token_id, _ = talk.create(number=last).text.split("_", 2)
    text = f"{prefix}_{token_id}_{'s' * 43}"
    assert (len(text), id_of(text)) == (TOKEN_CHARS_MAX, "0000000002")


def test_a_token_expires_at_its_time(talk: Talk) -> None:
    """
    To the millisecond; it is forgotten then, by a record, and those without a time stay.
    """
    short, stays = talk.create(lifetime_ms=1000).token.id, talk.create().token.id
    tokens = talk.queue.state.tokens
    talk.advance(999)
    assert tokens.is_live(short, talk.now)
    assert [stays, short] == talk.ids()
    talk.now += 1
    assert not tokens.is_live(short, talk.now)
    assert [stays] == talk.ids()
    talk.advance(0)
    assert tokens.find(short) is None
    assert [TokenForgotten(1, talk.now, "expired")] == talk.records
    talk.restart(snapshot=True)
    assert [stays] == talk.ids()


def test_many_that_expire_at_once_take_several_turns(talk: Talk) -> None:
    """
    A turn forgets so many, and the next follows at once.
    """
    talk.replay_every = 0
    for uid in range(1100):
        talk.create(Peer(uid, f"u{uid}"), lifetime_ms=1000)
    talk.advance(1000)
    assert [] == talk.ids(ROOT)
    assert [] == list(talk.queue.state.tokens)
    talk.check_replay()


def test_revoking_ends_connections(talk: Talk) -> None:
    """
    Once the record is on disk: whoever brought the token is sent away.
    """
    token_id = talk.create(ALICE).token.id
    talk.revoke(token_id, ALICE)
    assert [EndToken(token_id)] == [e for e in talk.effects if isinstance(e, EndToken)]
    assert [TokenForgotten(1, talk.now, "revoked", "alice", "alice")] == talk.records
    assert talk.revoke(token_id, ALICE).code == "not_found"


# --- scopes -----------------------------------------------------------------------------------

REQUESTS: list[type[Message]] = [each for each in get_args(Request) if each is not Hello]


def refusal_of(talk: Talk, peer: Peer, kind: type[Message], now: int | None = None) -> str | None:
    """
    Return why a request of this type is not permitted.
    """
    try:
        permit(talk.queue.state, peer, kind, talk.now if now is None else now)
    except Refusal as refusal:
        return f"{refusal.code}: {refusal.message}"
    return None


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("scopes", [(), ("read",), ("submit",), ("manage",), ("read", "manage")])
def test_a_token_allows_what_its_scopes_say(
    talk: Talk, kind: type[Message], scopes: tuple[str, ...]
) -> None:
    """
    A request is permitted if the token has the scope that it needs, whoever the account is; making
    tokens never is.
    """
    token_id = talk.create(ALICE, scopes=["read"]).token.id
    needed = SCOPE_OF[kind]
    for account in (ALICE, ROOT, EVERYBODY):
        peer = Peer(account.uid, account.user, account.admin, frozenset(scopes), token_id)
        message = refusal_of(talk, peer, kind)
        assert (message is None) == (needed in scopes), message
        assert message is None or message.startswith("denied: ")
        assert message is None or needed is None or f"the scope {needed}," in message


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda each: each.__name__)
def test_without_a_token_everything_is_permitted(talk: Talk, kind: type[Message]) -> None:
    """
    Scopes are of tokens; what the account may do is decided later.
    """
    assert refusal_of(talk, ALICE, kind) is None


def test_a_token_that_ended_permits_nothing(talk: Talk) -> None:
    """
    From the moment of its expiry, and once it is revoked, whatever connections are still there.
    """
    token = talk.create(ALICE, lifetime_ms=1000).token
    peer = Peer(1001, "alice", token=token.id)
    assert refusal_of(talk, peer, List, talk.now + 999) is None
    assert refusal_of(talk, peer, List, talk.now + 1000) == ENDED
    talk.revoke(token.id, ALICE)
    assert refusal_of(talk, peer, List) == ENDED


def test_when_a_token_was_last_used(talk: Talk) -> None:
    """
    It is known as long as the daemon lives, and never written down.
    """
    token_id = talk.create(ALICE).token.id
    peer = Peer(1001, "alice", scopes=frozenset({"read"}), token=token_id)
    assert refusal_of(talk, peer, List, talk.now + 5) is None
    assert refusal_of(talk, peer, Enqueue, talk.now + 6) is not None
    assert [talk.now + 5] == [token.last_used_at for token in talk.tokens(ALICE)]
    talk.restart()
    assert [None] == [token.last_used_at for token in talk.tokens(ALICE)]
    assert refusal_of(talk, peer, List) is None
    talk.revoke(token_id, ALICE)
    talk.queue.validate()


def test_a_token_shows_its_accounts_jobs_alone(talk: Talk) -> None:
    """
    Two users' tokens never see each other's jobs, by list, by id, or by what they do to them.
    """
    peers = [Peer(each.uid, each.user, token=talk.create(each).token.id) for each in (ALICE, BOB)]
    for peer in peers:
        answer = talk.request(Enqueue(jobs=[JobSpec(command="true", id="mine")]), peer)
        assert ["mine"] == answer.ids
    for number, peer in enumerate(peers, 1):
        listed = talk.request(List(), peer)
        assert [(number, peer.user)] == [(job.number, job.user) for job in listed.jobs]
        other = str(3 - number)
        assert isinstance(talk.request(Show(id=other), peer), Refused)
        acted = talk.request(Act(action="cancel", select=Selection(ids=[other])), peer)
        assert ([], ["not_found"]) == (acted.ids, [error.code for error in acted.errors])


# --- anything ----------------------------------------------------------------------------------


@pytest.mark.parametrize("round_number", range(5))
def test_any_history_of_tokens(talk: Talk, round_number: int) -> None:
    """
    Whatever is made, revoked and expires, by whomever: a model that is a list knows what is left,
    and so does every replay.
    """
    print(f"QUEUECTL_SEED={SEED}")
    rng = random.Random(SEED + round_number)
    talk.replay_every = 7
    model: list[tuple[str, Peer, int]] = []
    for _ in range(150):
        peer = rng.choice([ALICE, BOB, ROOT])
        what = rng.random()
        if what < 0.45:
            lifetime_ms = rng.choice([None, 1, 10, 1000, DAY_MS])
            token = talk.create(peer, lifetime_ms=lifetime_ms, number=rng.randrange(8)).token
            model.append((token.id, peer, talk.now + lifetime_ms if lifetime_ms else 0))
        elif what < 0.65 and model:
            token_id, owner, _ = rng.choice(model)
            answer = talk.revoke(token_id, peer)
            assert isinstance(answer, Done) == (peer.admin or owner is peer)
            if isinstance(answer, Done):
                model = [each for each in model if each[0] != token_id]
        elif what < 0.85:
            talk.advance(rng.choice([1, 9, 500, 1000]))
        else:
            talk.restart(snapshot=rng.random() < 0.5)
        model = [each for each in model if not 0 < each[2] <= talk.now]
        expected = [each[0] for each in model if peer.admin or each[1] is peer]
        assert expected == talk.ids(peer)[::-1]
    assert list(replayed(talk.stored).state.tokens) == list(talk.queue.state.tokens)
