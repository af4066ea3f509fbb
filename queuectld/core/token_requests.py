"""
What is asked for about tokens: to make one, to list them, to revoke one.

A token is its account's: who asks makes it for itself, admins for any account. Others' tokens do
not exist for members, as their jobs do not.
"""

from typing import TYPE_CHECKING

from queuectl.protocol import ID_CHARS_MAX, SCOPES, SPAN_MS_MAX, Done
from queuectl.tokens import (
    PREFIX,
    USER_TOKENS_MAX,
    CreateToken,
    ListTokens,
    RevokeToken,
    TokenCreated,
    Tokens,
    TokenView,
)
from queuectld.core.admission import shorten
from queuectld.core.effects import EndToken, Reply
from queuectld.core.host import Account
from queuectld.core.peer import Peer
from queuectld.core.records import TOKEN_NUMBER_MAX, TokenForgotten, TokenMade
from queuectld.core.refusal import Refusal
from queuectld.core.tokens import id_text

if TYPE_CHECKING:
    from queuectld.core.queue import Queue

# Tokens forgotten in one turn because their time is over.
EXPIRE_MAX = 1_000


def create(queue: "Queue", client: int, request: CreateToken, now: int) -> None:
    """
    Make a token for the account that asks, or for another one.
    """
    if queue.storage_full:
        raise Refusal("try_later", "the disk of the journal is full; make room, then try again")
    owner = _owner(queue, request.user)
    _check(request)
    tokens = queue.state.tokens
    if len(tokens.owned_by(owner.uid)) >= USER_TOKENS_MAX:
        raise Refusal(
            "try_later",
            f"the account has {USER_TOKENS_MAX} tokens, the most it may; revoke one: "
            "queuectl web token revoke ID",
        )
    secret = queue.host.secret
    assert secret is not None
    number = secret.number % TOKEN_NUMBER_MAX
    while tokens.find(id_text(number)) is not None:
        number = (number + 1) % TOKEN_NUMBER_MAX
    by_other = owner.uid != queue.peer.uid
    record = TokenMade(
        number,
        now,
        secret.digest,
        [scope for scope in SCOPES if scope in request.scopes],
        request.name,
        now + request.lifetime_ms if request.lifetime_ms else 0,
        owner.uid,
        None if owner.uid is None else owner.user,
        queue.peer.user if by_other else None,
    )
    queue.record(record)
    text = f"{PREFIX}{id_text(number)}_{secret.text}"
    view = _view(queue, record)
    response = TokenCreated(call=request.call, text=text, token=view, durable=queue.durable)
    queue.do(Reply(client, response))


def _owner(queue: "Queue", user: str | None) -> Peer | Account:
    """
    Return whose a new token is to be. Raises Refusal.
    """
    peer = queue.peer
    if user is None or (peer.user and user == peer.user):
        return peer
    if not peer.admin:
        raise Refusal(
            "denied",
            "user is for root and members of the group queuectl-admin; "
            "leave it out: the token is your own",
            "user",
        )
    account = queue.host.accounts.get(user)
    if account is None:
        raise Refusal("usage", f"user must be an account of this host, not {shorten(user)}", "user")
    if peer.uid is None and account.uid is not None:
        raise Refusal("denied", "this queue is one account's, and so are its tokens", "user")
    if account.uid == 0 and peer.uid != 0:
        # What runs as root, and with what variables, an admin is not shown.
        raise Refusal("denied", "a token of root's is root's alone to make", "user")
    return account


def _check(request: CreateToken) -> None:
    if not request.scopes:
        raise Refusal("usage", f"scopes must be some of {', '.join(SCOPES)}", "scopes")
    name = request.name
    if len(name) > ID_CHARS_MAX or not name.isprintable():
        raise Refusal(
            "usage",
            f"name must be at most {ID_CHARS_MAX} characters that can be printed, like laptop; "
            f"got {shorten(name)}",
            "name",
        )
    lifetime_ms = request.lifetime_ms
    if lifetime_ms is not None and not 0 < lifetime_ms <= SPAN_MS_MAX:
        raise Refusal(
            "usage",
            f"lifetime_ms must be between 1 and {SPAN_MS_MAX}; leave it out for a token that "
            "is good until it is revoked",
            "lifetime_ms",
        )


def show(queue: "Queue", client: int, request: ListTokens, now: int) -> None:
    """
    List the account's tokens; for admins everybody's, or one account's.
    """
    peer = queue.peer
    tokens = list(queue.state.tokens) if peer.admin else queue.state.tokens.owned_by(peer.uid)
    if request.user is not None:
        tokens = [each for each in tokens if each.user == request.user]
    views = [_view(queue, each) for each in reversed(tokens) if not each.is_expired(now)]
    queue.do(Reply(client, Tokens(call=request.call, tokens=views)))


def revoke(queue: "Queue", client: int, request: RevokeToken, now: int) -> None:
    """
    Forget a token, and end the connections that brought it.
    """
    peer = queue.peer
    token = queue.state.tokens.find(request.id)
    if token is None or not (peer.admin or token.uid == peer.uid):
        raise Refusal(
            "not_found", f"no token {shorten(request.id)}; see queuectl web token list", "id"
        )
    by = peer.user or None
    queue.record(TokenForgotten(token.token, now, "revoked", token.user, by))
    queue.do(Reply(client, Done(call=request.call, durable=queue.durable)))
    queue.do(EndToken(request.id))


def expire(queue: "Queue", now: int) -> None:
    """
    Forget tokens whose time is over. Their connections end by themselves: see the server.
    """
    for _ in range(EXPIRE_MAX):
        token = queue.state.tokens.first_expired(now)
        if token is None:
            return
        queue.record(TokenForgotten(token.token, now, "expired", token.user))


def _view(queue: "Queue", token: TokenMade) -> TokenView:
    return TokenView(
        id=id_text(token.token),
        name=token.name,
        scopes=token.scopes,
        created_at=token.at,
        expires_at=token.expires_at or None,
        last_used_at=queue.state.tokens.used_at(id_text(token.token)),
        user=token.user,
        created_by=token.by_user,
    )
