"""
Who looks at what live: one feed for all visitors that see the same, and how many streams there may
be. A feed begins with the first stream that wants it. An output feed ends with its last stream; an
event feed lingers, so that a browser that comes back finds what it has missed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from queuectl.errors import RequestRefused
from queuectl.views import JobView
from queuectl.web.event_feed import EventFeed
from queuectl.web.feed import End, Feed
from queuectl.web.output_feed import OutputFeed
from queuectl.web.visitor import Visitor

#: Streams at once: each holds a socket and up to some 400 kB that its browser has not taken.
STREAMS_MAX = 1_024
#: Of one account or token: it leaves room for others.
VISITOR_STREAMS_MAX = 512
#: Streams that read what lies behind their feed at the same time, each over a connection of its own
#: for a moment; the daemon lets one account have 64.
READING_MAX = 8
#: How long an event feed that nobody follows goes on.
LINGER_SECONDS = 30.0


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

    @asynccontextmanager
    async def output(self, visitor: Visitor, job: JobView) -> AsyncIterator[OutputFeed]:
        """
        Enter the feed of a job's output. Raises what the daemon refuses with.
        """
        key = ("output", visitor.key, job.number)
        feed = self._feeds.get(key)
        if not isinstance(feed, OutputFeed) or feed.end is not None:
            feed = OutputFeed(visitor.link, job, self._reading)
            self._begin(key, feed)
        feed.followers += 1
        try:
            await feed.begun()
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                self._close(key, feed)

    @asynccontextmanager
    async def events(self, visitor: Visitor) -> AsyncIterator[EventFeed]:
        """
        Enter the feed of what happens. Raises what the daemon refuses with.
        """
        key = ("events", visitor.key)
        feed = self._feeds.get(key)
        if not isinstance(feed, EventFeed) or feed.end is not None:
            feed = EventFeed(visitor.link)
            self._begin(key, feed)
        feed.followers += 1
        try:
            await feed.begun()
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                loop = asyncio.get_running_loop()
                loop.call_later(LINGER_SECONDS, self._close_unused, key, feed)

    def stop(self) -> None:
        """
        End every feed: the gateway stops.
        """
        while self._feeds:
            self._feeds.popitem()[1].stop(End(reason="stopping"))

    def _begin(self, key: Hashable, feed: Feed[Any]) -> None:
        self._feeds[key] = feed
        feed.start()

    def _close_unused(self, key: Hashable, feed: Feed[Any]) -> None:
        if not feed.followers:
            self._close(key, feed)

    def _close(self, key: Hashable, feed: Feed[Any]) -> None:
        feed.stop(End(reason="unused"))
        if self._feeds.get(key) is feed:
            del self._feeds[key]
