"""
Who looks at what live: one feed for all visitors that see the same, and how many streams there may
be. A feed begins with the first stream that wants it and ends with its last one; an event feed
lingers, so that a browser that comes back finds what it has missed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

from queuectl.errors import RequestRefused
from queuectl.views import JobView
from queuectl.web.event_feed import EventFeed
from queuectl.web.feed import End, Feed
from queuectl.web.look_feed import LookFeed
from queuectl.web.output_feed import OutputFeed
from queuectl.web.visitor import Visitor

#: Streams at once: each holds a socket and up to some 200 kB that its browser has not taken.
STREAMS_MAX = 1_024
#: Of one account or token: it leaves room for others.
VISITOR_STREAMS_MAX = 512
#: Streams that read what lies behind their feed at the same time, each over a connection of its own
#: for a moment; the daemon lets one account have 64.
READING_MAX = 8
#: How long an event feed that nobody follows goes on.
LINGER_SECONDS = 30.0

F = TypeVar("F", bound=Feed[Any])


class TooManyStreams(RequestRefused):
    """
    A stream has no room now.
    """

    def __init__(self, message: str) -> None:
        super().__init__("try_later", message)


class Hub:
    """
    All feeds of one gateway.
    """

    def __init__(self) -> None:
        self._feeds: dict[Hashable, Feed[Any]] = {}
        self._streams: Counter[object] = Counter()
        self._reading = asyncio.Semaphore(READING_MAX)

    @property
    def stream_count(self) -> int:
        """
        Streams at the moment.
        """
        return self._streams.total()

    @contextmanager
    def place(self, visitor: Visitor) -> Iterator[None]:
        """
        Count one more stream of a visitor. Raises TooManyStreams.
        """
        if self.stream_count >= STREAMS_MAX:
            raise TooManyStreams(f"there are {STREAMS_MAX} live streams, the most there may be")
        if self._streams[visitor.key] >= VISITOR_STREAMS_MAX:
            raise TooManyStreams(f"you have {VISITOR_STREAMS_MAX} live streams, the most you may")
        self._streams[visitor.key] += 1
        try:
            yield
        finally:
            self._streams[visitor.key] -= 1
            if not self._streams[visitor.key]:
                del self._streams[visitor.key]

    def output(self, visitor: Visitor, job: JobView) -> AbstractAsyncContextManager[OutputFeed]:
        """
        Enter the feed of a job's output. Raises what the daemon refuses with.
        """
        key = ("output", visitor.key, job.number)
        make = partial(OutputFeed, visitor.link, job, self._reading)
        return self._enter(key, OutputFeed, make)

    def events(self, visitor: Visitor) -> AbstractAsyncContextManager[EventFeed]:
        """
        Enter the feed of what happens. Raises what the daemon refuses with.
        """
        make = partial(EventFeed, visitor.link)
        return self._enter(("events", visitor.key), EventFeed, make, LINGER_SECONDS)

    def looks(self, visitor: Visitor) -> AbstractAsyncContextManager[LookFeed]:
        """
        Enter the feed of when pages look. Raises what the daemon refuses with.
        """
        make = partial(LookFeed, partial(self.events, visitor))
        return self._enter(("looks", visitor.key), LookFeed, make)

    def looks_of(self, visitor: Visitor) -> LookFeed | None:
        """
        Return that feed if it goes on: if pages of those who see the same are open.
        """
        feed = self._feeds.get(("looks", visitor.key))
        return feed if isinstance(feed, LookFeed) and feed.end is None else None

    def stop(self) -> None:
        """
        End every feed: the gateway stops.
        """
        while self._feeds:
            self._feeds.popitem()[1].stop(End(reason="stopping"))

    @asynccontextmanager
    async def _enter(
        self, key: Hashable, kind: type[F], make: Callable[[], F], linger_seconds: float = 0
    ) -> AsyncIterator[F]:
        """
        Enter the feed at *key*, which is made if there is none that goes on. It ends some time
        after the last one who entered it has left.
        """
        feed = self._feeds.get(key)
        if not isinstance(feed, kind) or feed.end is not None:
            feed = self._feeds[key] = make()
            feed.start()
        feed.followers += 1
        try:
            await feed.begun()
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                loop = asyncio.get_running_loop()
                loop.call_later(linger_seconds, self._close_unused, key, feed)

    def _close_unused(self, key: Hashable, feed: Feed[Any]) -> None:
        if not feed.followers:
            feed.stop(End(reason="unused"))
            if self._feeds.get(key) is feed:
                del self._feeds[key]
