"""
A feed: what one subscription of the daemon brings, for any number of browsers.

The feed's task reads the subscription and adds items. They are numbered and the last of them are
kept, up to `size_max`; every follower has a number of its own, the next item that it wants. So a
thousand followers cost one subscription and one copy of what is kept, a follower costs its number,
and one that is slow holds up neither the feed nor the others: what it wants is gone one day, and it
is told so. Items and whoever follows live in one event loop: nothing changes between two awaits.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

from msgspec import Struct

from queuectl.errors import QueuectlError, RequestRefused
from queuectl.web.log import log

Item = TypeVar("Item")

#: How often those who follow are woken when nothing happens: so they can tell that they are there.
BEAT_SECONDS = 15.0


class End(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    Why nothing more comes. `reason` is `finished` (the job has), `attempt_over` (the only one asked
    for), `stopping` (the gateway is) or the code of a refusal, of which `message` says more.
    """

    reason: str
    message: str | None = None
    attempt: int | None = None
    state: str | None = None
    exit_code: int | None = None
    signal: int | None = None


def end_of(error: QueuectlError) -> End:
    """
    Return what an error means to those who follow.
    """
    return End(reason=error.code, message=str(error))


class Feed(Generic[Item]):
    """
    Base of all feeds. Those who follow count themselves among `followers` while they do.
    """

    #: What is kept for those who follow, in the measure of add().
    size_max: int

    def __init__(self) -> None:
        self.followers = 0
        #: The number of the oldest item that is kept.
        self.first = 0
        self.end: End | None = None
        #: Why it did not even begin.
        self.error: QueuectlError | None = None
        #: Each item, its size, and how much there was with it.
        self._items: deque[tuple[Item, int, int]] = deque()
        self._size = 0
        #: How much there was before the oldest item that is kept, and in all.
        self._gone = self._total = 0
        self._news = asyncio.Event()
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- those who follow -------------------------------------------------------------------

    async def begun(self) -> None:
        """
        Return when the daemon has answered for the first time. Raises what it refused with.
        """
        await self._begun.wait()
        if self.error is not None:
            raise self.error

    @property
    def next(self) -> int:
        """
        The number that the next item will have.
        """
        return self.first + len(self._items)

    def item(self, number: int) -> Item:
        """
        Return an item that is kept.
        """
        return self._items[number - self.first][0]

    def amount_before(self, number: int) -> int:
        """
        Return how much there was in all before an item that is kept, or is the next.
        """
        return self._items[number - self.first - 1][2] if number > self.first else self._gone

    async def news(self, number: int) -> bool:
        """
        Return True when item *number* is there, or was, or none comes any more; False, every
        BEAT_SECONDS, when there is nothing new.
        """
        if number == self.next and self.end is None:
            await self._news.wait()
        return number < self.next or self.end is not None

    # --- the feed's own side ----------------------------------------------------------------

    def start(self) -> None:
        """
        Begin to read the subscription.
        """
        self._task = asyncio.create_task(self._run())
        self._beat()

    def stop(self, end: End) -> None:
        """
        Read no more, and tell everybody who follows why.
        """
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._finish(end)

    def add(self, item: Item, size: int, amount: int) -> None:
        """
        Append an item, and let the oldest go if they are too large together. *amount* is how much
        who misses it has missed.
        """
        self._total += amount
        self._items.append((item, size, self._total))
        self._size += size
        while self._size > self.size_max and len(self._items) > 1:
            _, size, self._gone = self._items.popleft()
            self._size -= size
            self.first += 1
        self._wake()

    def begin(self) -> None:
        """
        The daemon has answered: who follows may look.
        """
        self._begun.set()

    async def read(self) -> End:
        """
        Read the subscription to its end, and return why it ended. Raises QueuectlError.
        """
        raise NotImplementedError

    async def _run(self) -> None:
        try:
            end = await self.read()
        except QueuectlError as error:
            if not self._begun.is_set():
                self.error = error
            end = end_of(error)
        except Exception:
            # A bug must not leave anybody waiting for ever.
            log.exception("web_feed_failed", feed=type(self).__name__)
            self.error = RequestRefused("try_later", "the gateway failed; see its log")
            end = end_of(self.error)
        self._finish(end)

    def _finish(self, end: End) -> None:
        if self.end is None:
            self.end = end
        self._begun.set()
        self._wake()

    def _beat(self) -> None:
        self._wake()
        if self.end is None:
            asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
