"""
Tokens: what stands for an account where the kernel cannot say who asks, over the web.

A token is text, `qctl_ID_SECRET`. ID is public and names it in lists and in the log; SECRET is 256
random bits that the daemon shows once and keeps only the SHA-256 of. Whoever brings the text in
Hello is served as the account that the token was made for, within its scopes:

    read    look at jobs, their output, workers, queues, settings and figures
    submit  enqueue
    manage  everything else that changes something

A token is made over a connection that brought none: a token that leaked makes no others.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from queuectl.errors import ProtocolError, UsageError
from queuectl.protocol import Message, Welcome

Scope = Literal["read", "submit", "manage"]

PREFIX = "qctl_"
#: Longer text is no token: 5 of the prefix, 10 of the id, 1, and 43 of the secret.
TOKEN_CHARS_MAX = 59
# Tokens of one account: each is in memory and in the journal until it expires or is revoked.
USER_TOKENS_MAX = 100

Scopes = Annotated[list[Scope], Meta(max_length=3)]


class TokenView(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A token as lists show it: everything but its secret.
    """

    id: str
    name: str
    scopes: list[str]
    created_at: int
    expires_at: int | None = None  # None: never
    last_used_at: int | None = None  # None: not since the daemon started
    user: str | None = None  # whose it is; None where there is one account only
    created_by: str | None = None  # the admin who made it for that account


# --- requests ---------------------------------------------------------------------------------


class CreateToken(Message, frozen=True, tag="token_create"):
    """
    Make a token, for oneself or, for admins, for another account. Answered by TokenCreated.

    Refused over a connection that brought a token.
    """

    scopes: Scopes
    name: str = ""
    lifetime_ms: int | None = None  # None: until it is revoked
    user: str | None = None


class ListTokens(Message, frozen=True, tag="token_list"):
    """
    The account's tokens; for admins everybody's, or one account's. Answered by Tokens.
    """

    user: str | None = None


class RevokeToken(Message, frozen=True, tag="token_revoke"):
    """
    Forget a token and end the connections that brought it. Answered by Done.
    """

    id: str


# --- responses --------------------------------------------------------------------------------


class TokenCreated(Message, frozen=True, tag="token_created"):
    """
    A new token. Its text is told this once.
    """

    text: str
    token: TokenView
    durable: bool = True


class Tokens(Message, frozen=True, tag="tokens"):
    """
    Tokens, the newest first.
    """

    tokens: list[TokenView]


def id_of(text: str) -> str:
    """
    Return the id in a token's text. Raises UsageError, which repeats nothing of it.
    """
    token_id, mark, secret = text.removeprefix(PREFIX).partition("_")
    known = text.startswith(PREFIX) and len(text) <= TOKEN_CHARS_MAX
    if not known or not token_id or not mark or not secret or not text.isascii():
        raise UsageError("this is no token: one looks like qctl_0a1b2c3d4e_ and 43 more characters")
    return token_id


def check_taken(text: str, welcome: Welcome) -> None:
    """
    Make sure that the daemon serves us as the token's account, not as who opened the connection.
    Raises ProtocolError.
    """
    if welcome.token != id_of(text):
        raise ProtocolError(
            f"the daemon, {welcome.version}, does not know tokens; upgrade and restart it"
        )
