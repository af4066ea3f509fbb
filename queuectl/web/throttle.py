"""
How often somebody may fail to say who they are.

Secrets have 256 bits: nobody guesses one. What is bounded is the work and the noise that guessing
makes: each try asks the daemon. Each address has an allowance, and all of them together have one,
which a crowd of addresses cannot get around. Who is known already is not counted, so nobody is
locked out by the failures of others while they work.
"""

import asyncio
import ipaddress
from collections import OrderedDict

#: Failures in a row, and then one in so many seconds.
ADDRESS_FAILURES_MAX = 10
ADDRESS_SECONDS = 6.0
ALL_FAILURES_MAX = 100
ALL_SECONDS = 0.1
#: Tokens that are not known yet about which the daemon is asked at once; more wait.
TRIES_MAX = 8
#: Addresses that are remembered; beyond, the one that failed longest ago is forgotten.
ADDRESSES_MAX = 4_096


class Allowance:
    """
    A bucket of *count_max* tries, filled with one more every *seconds*. `now` is in seconds.
    """

    def __init__(self, count_max: int, seconds: float) -> None:
        self._count_max = count_max
        self._seconds = seconds
        self._count = float(count_max)
        self._at = 0.0

    def left(self, now: float) -> float:
        """
        Return how many tries there are now.
        """
        more = max(now - self._at, 0.0) / self._seconds
        return min(self._count + more, float(self._count_max))

    def take(self, now: float) -> bool:
        """
        Use one up, if there is one. Returns whether there was.
        """
        left = self.left(now)
        if left < 1:
            return False
        self._count, self._at = left - 1, now
        return True

    def wait_seconds(self, now: float) -> float:
        """
        Return how long it takes until there is one.
        """
        return max(1 - self.left(now), 0.0) * self._seconds


class Throttle:
    """
    The allowances of all addresses.
    """

    def __init__(self) -> None:
        self.tries = asyncio.Semaphore(TRIES_MAX)
        self._all = Allowance(ALL_FAILURES_MAX, ALL_SECONDS)
        self._by_address: OrderedDict[str, Allowance] = OrderedDict()

    def wait_seconds(self, address: str, now: float) -> float:
        """
        Return how long *address* must wait before it may try; 0 if it may.
        """
        own = self._by_address.get(_network_of(address))
        waits = [self._all.wait_seconds(now), own.wait_seconds(now) if own else 0.0]
        return max(waits)

    def failed(self, address: str, now: float) -> None:
        """
        Count a failure.
        """
        name = _network_of(address)
        own = self._by_address.get(name)
        if own is None:
            own = self._by_address[name] = Allowance(ADDRESS_FAILURES_MAX, ADDRESS_SECONDS)
            if len(self._by_address) > ADDRESSES_MAX:
                self._by_address.popitem(last=False)
        self._by_address.move_to_end(name)
        own.take(now)
        self._all.take(now)


def _network_of(address: str) -> str:
    """
    Return what one sender is counted by: of IPv6 the /64, which one host has all of.
    """
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
