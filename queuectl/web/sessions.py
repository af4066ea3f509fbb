"""
Browsers that are logged in, and the one-time links by which some of them do.

A session is known by a cookie of 256 random bits, of which only the SHA-256 is kept here. Behind it
stands a token, or this process's own account; the daemon checks that at every connection, so a
session is never worth more than its token. It ends when it is not used for long, when it is old,
when its browser logs out, and when the daemon refuses its token. Sessions live in memory: a gateway
that restarts knows none.

Each session has a CSRF token. A request that changes something must repeat it, which only a page of
ours can: other origins can make a browser send the cookie at most, not read a page.

Times are seconds of a monotonic clock, given by the caller.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict

#: A session that nobody uses ends after twelve hours, and any after seven days.
IDLE_SECONDS_MAX = 12 * 3600.0
AGE_SECONDS_MAX = 7 * 86_400.0
#: Sessions in all, and of one account: beyond, the one that was used longest ago ends.
SESSIONS_MAX = 1_000
USER_SESSIONS_MAX = 50
#: A one-time link opens a session once, within ten minutes. Few are good at the same time.
LINK_SECONDS_MAX = 600.0
LINKS_MAX = 16

_SECRET_BYTES = 32


class Session:
    """
    One browser. `token` is None for this process's own account; `uid` is the account's.
    """

    def __init__(self, digest: bytes, token: str | None, uid: int | None, now: float) -> None:
        self.digest = digest
        self.token = token
        self.uid = uid
        self.csrf_token = secrets.token_urlsafe(_SECRET_BYTES)
        self.began_at = now
        self.used_at = now
        #: The requests of it that are being served: they end with it.
        self.tasks: set[asyncio.Task[object]] = set()
        self.ended = False

    def is_over(self, now: float) -> bool:
        """
        Whether its time is up.
        """
        return now - self.used_at > IDLE_SECONDS_MAX or now - self.began_at > AGE_SECONDS_MAX

    def has_csrf_token(self, text: str) -> bool:
        """
        Compare in constant time.
        """
        return hmac.compare_digest(text.encode(), self.csrf_token.encode())


class Sessions:
    """
    All sessions, the one used longest ago first, and all one-time links that are still good.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        #: SHA-256 of a one-time link's key, and when it stops being good.
        self._links: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, token: str | None, uid: int | None, now: float) -> tuple[str, Session]:
        """
        Begin a session for *token* of the account *uid*; return what its cookie holds, and the
        session.
        """
        own = [each for each in self._sessions.values() if each.uid == uid]
        if len(own) >= USER_SESSIONS_MAX:
            self.end(own[0])
        if len(self._sessions) >= SESSIONS_MAX:
            self.end(next(iter(self._sessions.values())))
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        session = Session(_digest(secret), token, uid, now)
        self._sessions[session.digest] = session
        return secret, session

    def find(self, secret: str, now: float) -> Session | None:
        """
        Return the session whose cookie holds *secret*, used now; None if there is none.
        """
        session = self._sessions.get(_digest(secret))
        if session is None:
            return None
        if session.is_over(now):
            self.end(session)
            return None
        session.used_at = now
        self._sessions.move_to_end(session.digest)
        return session

    def end(self, session: Session) -> None:
        """
        End a session, and the requests of it that are being served. May be called again.
        """
        session.ended = True
        self._sessions.pop(session.digest, None)
        for task in session.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def end_of_token(self, token: str | None) -> int:
        """
        End every session of *token*; return how many there were.
        """
        found = [each for each in self._sessions.values() if each.token == token]
        for session in found:
            self.end(session)
        return len(found)

    def sweep(self, now: float) -> None:
        """
        End the sessions and forget the links whose time is up.
        """
        for session in [each for each in self._sessions.values() if each.is_over(now)]:
            self.end(session)
        for digest in [each for each, until in self._links.items() if until < now]:
            del self._links[digest]

    # --- one-time links -------------------------------------------------------------------------

    def make_link(self, now: float) -> str:
        """
        Return the key of a new one-time link to this process's own account.
        """
        key = secrets.token_urlsafe(_SECRET_BYTES)
        self._links[_digest(key)] = now + LINK_SECONDS_MAX
        if len(self._links) > LINKS_MAX:
            self._links.popitem(last=False)
        return key

    def use_link(self, key: str, now: float) -> bool:
        """
        Return whether *key* is that of a good link. It is good no more.
        """
        until = self._links.pop(_digest(key), None)
        return until is not None and now <= until


def _digest(secret: str) -> bytes:
    # A look-up by digest takes no time that tells how much of a secret was right.
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
