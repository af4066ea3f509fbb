"""
What one gateway process has: its configuration, its ways to the daemon, its sessions.

Everything here belongs to one event loop. Routes find it at `request.app.state.gateway`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from queuectl.errors import RequestRefused, UsageError
from queuectl.tokens import id_of
from queuectl.web.configuration import Configuration
from queuectl.web.hub import Hub
from queuectl.web.link import Link
from queuectl.web.log import log
from queuectl.web.sessions import Sessions
from queuectl.web.throttle import Throttle
from queuectl.web.traffic import Traffic

#: Identities that have a connection to the daemon at once. Beyond, the one that was used longest
#: ago loses it; it comes back with its next request.
LINKS_MAX = 256
SWEEP_SECONDS = 30.0


class TooManyVisitors(Exception):
    """
    Every link is held by a request that is being served.
    """


class Gateway:
    """
    One gateway. *clock* is a monotonic clock in seconds.
    """

    def __init__(
        self, configuration: Configuration, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.configuration = configuration
        self.clock = clock
        self.sessions = Sessions()
        self.hub = Hub()
        self.throttle = Throttle()
        self.traffic = Traffic()
        #: Set when the process is told to stop: streams say so and end.
        self.stopping = asyncio.Event()
        #: What a Host header may be. Set when the port is known: 0 is configured for any.
        self.hosts: frozenset[str] = frozenset()
        #: token (None: this process's own account) -> link, the one used longest ago first.
        self._links: OrderedDict[str | None, Link] = OrderedDict()

    async def open_link(self, token: str | None) -> Link:
        """
        Return the link of *token*, connected; without one, of this process's own account. The
        caller counts itself among its `holders` while it uses it. What is refused is forgotten.

        Raises RequestRefused (code `denied` for a token that is none), DaemonUnreachable,
        AccessDenied, ProtocolError, TooManyVisitors.
        """
        assert token is not None or not self.configuration.tokens_only
        link = self._links.get(token)
        if link is None:
            denied = partial(self.forget, token)
            link = Link(self.configuration.socket, token, on_denied=denied)
        try:
            await link.open()
        except RequestRefused as error:
            if error.code == "denied":
                self.forget(token)
            raise
        return self._keep(link)

    @property
    def link_count(self) -> int:
        """
        Links that are kept.
        """
        return len(self._links)

    def knows(self, token: str | None) -> bool:
        """
        Whether the daemon has taken *token*, and not refused it since.
        """
        return token in self._links

    def forget(self, token: str | None) -> None:
        """
        Drop the link and the sessions of a token that the daemon refuses.
        """
        link = self._links.pop(token, None)
        if link is not None:
            link.close()
        count = self.sessions.end_of_token(token)
        if count:
            log.info("web_sessions_ended", token=token_id(token), count=count)

    def stop(self) -> None:
        """
        Tell everything that goes on for long to end.
        """
        self.stopping.set()
        self.hub.stop()

    async def sweep_for_ever(self) -> None:
        """
        End what has expired, every SWEEP_SECONDS.
        """
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sessions.sweep(self.clock())

    def close(self) -> None:
        """
        Close the connections to the daemon.
        """
        while self._links:
            self._links.popitem()[1].close()

    def _keep(self, link: Link) -> Link:
        """
        Return the link that is kept for the token of *link*: that one, or one that came before.
        """
        kept = self._links.get(link.token)
        if kept is None:
            if len(self._links) >= LINKS_MAX:
                self._drop_one()
            kept = self._links[link.token] = link
        elif kept is not link:
            link.close()
        self._links.move_to_end(link.token)
        return kept

    def _drop_one(self) -> None:
        for token, link in self._links.items():
            if not link.holders:
                link.close()
                del self._links[token]
                return
        raise TooManyVisitors


def token_id(token: str | None) -> str | None:
    """
    Return the part of a token that names it and is no secret; None of what is no token.
    """
    try:
        return None if token is None else id_of(token)
    except UsageError:
        return None
