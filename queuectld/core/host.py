"""
What a request depends on outside of the queue: the runtime looks it up beforehand, so that deciding
asks nobody and rolls no dice.
"""

from msgspec import Struct


class Account(Struct, frozen=True):
    """
    An account of the host. In user mode `uid` is None for the one account that there is.
    """

    uid: int | None
    user: str
    home: str


class Secret(Struct, frozen=True):
    """
    A new token's secret, and the number that becomes its id: random bits.
    """

    number: int
    text: str
    digest: bytes


class Host(Struct, frozen=True):
    """
    What the request being decided needs to know of the host, and nothing beyond that.
    """

    #: Those that its jobs name, by that name; a name that no account has is not there.
    accounts: dict[str, Account] = {}
    #: Whether the system's journal can be written to.
    has_journal: bool = False
    #: For the token that it makes.
    secret: Secret | None = None


#: For the many requests that depend on nothing.
NOTHING = Host()
