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
# The last connections, and how many an account may have to be given one of them.
RESERVED_MAX = 64
ADMIN_RESERVED_MAX = 16
FEW_CONNECTIONS_MAX = 4
# Requests taken from one account in one turn, and bytes of them after which the turn takes no more
# of its frames: others wait no longer than these take. Thousands of jobs fit into these bytes.
# The requests are twice those of one connection, so that it does not keep all others of its
# account waiting.
USER_REQUESTS_PER_TURN_MAX = 128
USER_BYTES_PER_TURN_MAX = 128 << 10


class TooManyConnections(Exception):
    """
    A connection is not served, as the message says. Others may be, and this one later.
    """


class Quota:
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

    def spend(self, request_count: int, size_bytes: int, *, all_of_it: bool) -> None:
        """
        Note what was taken in the turn that requests_left() was asked about. With *all_of_it* it
        is enough for this turn.
        """
        self._requests_left = 0 if all_of_it else self._requests_left - request_count
        self._bytes_left -= size_bytes
        assert self._requests_left >= 0


class Quotas:
    """
    The quotas of all accounts that are connected. *user_connections_max* is asked each time.
    """

    def __init__(self, user_connections_max: Callable[[], int]) -> None:
        self._user_connections_max = user_connections_max
        self._quotas: dict[int | None, Quota] = {}
        self._count = 0

    def check(self, uid: int | None) -> None:
        """
        Refuse one more connection to an account that has all it may have, as far as is known
        without looking it up: that may take long, and is not done for who connects again and again.
        """
        quota = self._quotas.get(uid)
        if quota is not None and not quota.admin:
            self._check_own(quota.connection_count)

    def join(self, peer: Peer) -> Quota:
        """
        Count one more connection of *peer*; return its account's quota. Raises TooManyConnections.
        """
        quota = self._quotas.get(peer.uid) or Quota(peer.uid)
        self._check_room(peer, quota.connection_count)
        quota.admin = peer.admin
        self._add(quota)
        return quota

    def move(self, quota: Quota, peer: Peer) -> Quota:
        """
        Count a connection of *quota* as one of *peer*, who came over it with a token; return that
        account's quota. Raises TooManyConnections, and then it is counted as before.
        """
        if quota.uid == peer.uid:
            return quota
        self.leave(quota)
        try:
            return self.join(peer)
        except TooManyConnections:
            self._add(quota)
            raise

    def _add(self, quota: Quota) -> None:
        quota.connection_count += 1
        self._quotas[quota.uid] = quota
        self._count += 1

    def _check_room(self, peer: Peer, own_count: int) -> None:
        count = self._count
        if count >= CLIENTS_MAX:
            message = f"there are {CLIENTS_MAX} connections already, the most there may be"
            raise TooManyConnections(message)
        if peer.uid is None:
            return
        if not peer.admin:
            self._check_own(own_count)
        if count >= CLIENTS_MAX - RESERVED_MAX and own_count >= FEW_CONNECTIONS_MAX:
            raise TooManyConnections(
                f"there are {count} connections, and the last {RESERVED_MAX} are for accounts "
                f"that have fewer than {FEW_CONNECTIONS_MAX}"
            )
        if count >= CLIENTS_MAX - ADMIN_RESERVED_MAX and not peer.admin:
            raise TooManyConnections(f"there are {count} connections; the last are for admins")

    def _check_own(self, own_count: int) -> None:
        own_max = self._user_connections_max()
        if own_count >= own_max:
            raise TooManyConnections(
                f"your account has {own_count} connections, of at most {own_max} "
                "(user_connections_max); close one"
            )

    def leave(self, quota: Quota) -> None:
        """
        Count one connection less.
        """
        quota.connection_count -= 1
        self._count -= 1
        if not quota.connection_count:
            del self._quotas[quota.uid]
