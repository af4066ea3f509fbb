"""
Who asks: what a route knows of whoever sent a request, and its way to the daemon.

The guard finds it out before any route runs; see guard.py. What a visitor may do is for the daemon
to decide: what stands here is for pages that leave out what would be refused.
"""

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from starlette.requests import HTTPConnection

from queuectl.web.link import Link

if TYPE_CHECKING:
    from queuectl.web.sessions import Session

#: Where in an ASGI scope the visitor is.
VISITOR: Final = "queuectl.visitor"
#: What a daemon that does not say lets everybody do.
ALL_SCOPES = frozenset({"read", "submit", "manage"})


class Visitor(Struct, frozen=True, kw_only=True):
    """
    One request's sender. `session` is there for browsers, which sent a cookie; None with a token.
    """

    link: Link
    address: str
    user: str | None
    uid: int | None
    admin: bool
    scopes: frozenset[str]
    session: "Session | None" = None

    @property
    def key(self) -> object:
        """
        Equal for visitors that see exactly the same, as long as they do: those of one token.
        """
        return self.link.token


def visitor_of(connection: HTTPConnection) -> Visitor:
    """
    Return who sent a request or opened a WebSocket. Not for paths that are open to everybody.
    """
    visitor: Visitor = connection.scope[VISITOR]
    return visitor
