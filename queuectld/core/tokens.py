"""
Tokens, as the queue knows them: whose they are, what they may do, and until when.

A token is kept as its record, with the digest of its secret; the text is told once, when it is
made. It is forgotten when it is revoked, and some time after it expired: whether one that is known
is still good depends on the time. When a token was last used is not recorded: that would be a
record for each request.

How they are made is in token_requests.py, what they allow in scopes.py, and who brings one in
runtime/greeting.py.
"""

from collections.abc import Iterator

from queuectld.core.records import TokenForgotten, TokenMade
from queuectld.core.timers import Timers


class TokenTable:
    """
    Every token that is known.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, TokenMade] = {}
        self._by_owner: dict[int | None, dict[str, TokenMade]] = {}
        self._expiries = Timers()
        self._used_at: dict[str, int] = {}

    def find(self, token_id: str) -> TokenMade | None:
        """
        Return the token with this id, expired perhaps.
        """
        return self._by_id.get(token_id)

    def is_live(self, token_id: str, now: int) -> bool:
        """
        Whether a token is neither revoked nor expired.
        """
        token = self._by_id.get(token_id)
        return token is not None and not token.is_expired(now)

    def owned_by(self, uid: int | None) -> list[TokenMade]:
        """
        Return an account's tokens, the oldest first.
        """
        return list(self._by_owner.get(uid, {}).values())

    def __iter__(self) -> Iterator[TokenMade]:
        return iter(self._by_id.values())

    def used(self, token_id: str, now: int) -> None:
        """
        Note that a token was used.
        """
        self._used_at[token_id] = now

    def used_at(self, token_id: str) -> int | None:
        """
        Return when a token was last used, as far as this daemon knows.
        """
        return self._used_at.get(token_id)

    def next_expiry(self) -> int | None:
        """
        Return when the next token expires.
        """
        head = self._expiries.head(self._expires)
        return None if head is None else head[0]

    def first_expired(self, now: int) -> TokenMade | None:
        """
        Return a token whose time is over, if there is one.
        """
        head = self._expiries.head(self._expires)
        return None if head is None or head[0] > now else self._by_id[id_text(head[1])]

    def _expires(self, at: int, number: int) -> bool:
        token = self._by_id.get(id_text(number))
        return token is not None and token.expires_at == at

    # --- for State.apply() ------------------------------------------------------------------

    def add(self, record: TokenMade) -> None:
        """
        A token was made.
        """
        token_id = id_text(record.token)
        self._by_id[token_id] = record
        self._by_owner.setdefault(record.uid, {})[token_id] = record
        if record.expires_at:
            self._expiries.push(record.expires_at, record.token)
            if len(self._expiries) > 2 * len(self._by_id) + 1024:
                self._expiries.rebuild(self._expires)

    def remove(self, record: TokenForgotten) -> None:
        """
        A token was forgotten.
        """
        token_id = id_text(record.token)
        token = self._by_id.pop(token_id)
        own = self._by_owner[token.uid]
        del own[token_id]
        if not own:
            del self._by_owner[token.uid]
        self._used_at.pop(token_id, None)

    def validate(self) -> None:
        """
        Assert that every token is an account's, and that those that expire are on the clock.
        """
        owned = {key: token for own in self._by_owner.values() for key, token in own.items()}
        assert owned == self._by_id
        timed = set(self._expiries.entries())
        for token_id, token in self._by_id.items():
            assert id_text(token.token) == token_id
            assert token_id in self._by_owner[token.uid]
            assert not token.expires_at or (token.expires_at, token.token) in timed
        assert set(self._used_at) <= set(self._by_id)


def id_text(number: int) -> str:
    """
    Return a token's id as people see it.
    """
    return f"{number:010x}"
