"""
What one account may have of the server: connections, and requests in one turn.

Without this a member could keep everybody else out by connecting often enough, or waiting by asking
on many connections at once. In user mode there is one account, to which the totals alone apply.

Of the CLIENTS_MAX connections the last RESERVED_MAX are for accounts that have few, and the last
ADMIN_RESERVED_MAX of these for admins that have few: whoever fills the rest, the next user and the
admin who comes to look are let in.
"""

from collections.abc import Callable

from queuectld.core.peer import Peer

# Connections at once. Each may hold a frame of 4 MiB, and a descriptor: see listening.py.
CLIENTS_MAX = 512
# Connections of one account, admins excepted: an eighth of all.
USER_CONNECTIONS_MAX = 64
# The last connections, and how many an account may have to be given one of them.
RESERVED_MAX = 64
ADMIN_RESERVED_MAX = 16
FEW_CONNECTIONS_MAX = 4
# Requests taken from one account in one turn, and bytes of them after which the turn takes no more
# of its frames: others wait no longer than these take.
USER_REQUESTS_PER_TURN_MAX = 32
USER_BYTES_PER_TURN_MAX = 1 << 20


class Share:
    """
    One account's part. It lasts as long as the account has a connection.
    """

    def __init__(self, uid: int | None) -> None:
        self.uid = uid
        #: As the last connection found it: who becomes or ceases to be one is known by the next.
        self.admin = False
        self.connection_count = 0
        self._turn = 0
        self._requests_left = 0
        self._bytes_left = 0

    def requests_left(self, turn: int) -> int:
        """
        Return how many requests may be taken in this turn.
        """
        if self._turn != turn:
            self._turn = turn
            self._requests_left = USER_REQUESTS_PER_TURN_MAX
            self._bytes_left = USER_BYTES_PER_TURN_MAX
        return self._requests_left if self._bytes_left > 0 else 0

    def spend(self, request_count: int, size_bytes: int) -> None:
        """
        Note what was taken in the turn that requests_left() was asked about.
        """
        self._requests_left -= request_count
        self._bytes_left -= size_bytes


class Shares:
    """
    The shares of all accounts that are connected. *user_connections_max* is asked each time.
    """

    def __init__(self, user_connections_max: Callable[[], int]) -> None:
        self._user_connections_max = user_connections_max
        self._shares: dict[int | None, Share] = {}
        self._count = 0

    def refusal(self, peer: Peer) -> str | None:
        """
        Return why *peer* may not have one more connection now, in words, or None if it may.
        """
        if self._count >= CLIENTS_MAX:
            return f"there are {CLIENTS_MAX} connections already, the most there may be"
        if peer.uid is None:
            return None
        share = self._shares.get(peer.uid)
        mine = share.connection_count if share is not None else 0
        own_max = self._user_connections_max()
        if not peer.admin and mine >= own_max:
            return f"your account has {mine} connections, the limit is {own_max}; close one"
        if self._count >= CLIENTS_MAX - RESERVED_MAX and mine >= FEW_CONNECTIONS_MAX:
            return (
                f"there are {self._count} connections, and the last {RESERVED_MAX} are for "
                f"accounts that have fewer than {FEW_CONNECTIONS_MAX}"
            )
        if not peer.admin and self._count >= CLIENTS_MAX - ADMIN_RESERVED_MAX:
            return f"there are {self._count} connections, and the last ones are for admins"
        return None

    def is_full(self, uid: int) -> bool:
        """
        Whether an account has all the connections it may have, as far as is known without looking
        it up: that may take long, and is not done for who connects again and again.
        """
        share = self._shares.get(uid)
        return (
            share is not None
            and not share.admin
            and share.connection_count >= self._user_connections_max()
        )

    def join(self, peer: Peer) -> Share:
        """
        Count one more connection of *peer*; return its account's share.
        """
        share = self._shares.setdefault(peer.uid, Share(peer.uid))
        share.admin = peer.admin
        share.connection_count += 1
        self._count += 1
        return share

    def leave(self, share: Share) -> None:
        """
        Count one connection less.
        """
        share.connection_count -= 1
        self._count -= 1
        if not share.connection_count:
            del self._shares[share.uid]
