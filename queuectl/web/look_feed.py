"""
When the open pages of one account look anew, and what they then share.

A page needs to know that something happened, not what. So it is not told each change but when to
look: at once, and then at most every GAP_SECONDS. Pages look one after the other: a hundred that
look in the same instant are a load that everybody else waits behind, TURN_SECONDS apart they are a
trickle. Where there are more pages than turns in a gap, the gap is as long as all their turns.

What a look shows is made once for all: by the first page that wants it, and kept until they are
told to look again, GAP_SECONDS at most. It holds what was before the last change only if the pages
are about to be told of that one. A whole page is made anew for whoever loads it, and what is kept
is forgotten then: nobody who has seen the new is shown the old.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from msgspec import Struct

from queuectl.web.event_feed import EventFeed
from queuectl.web.feed import End, Feed

#: The shortest time between two looks of one page.
GAP_SECONDS = 1.0
#: Between the looks of two pages.
TURN_SECONDS = 0.005


class Look(Struct, frozen=True):
    """
    There is something new to be seen.
    """


class LookFeed(Feed[Look]):
    """
    The looks of one account's pages. *events* enters what the account is told.
    """

    size_max = 1

    def __init__(self, events: Callable[[], AbstractAsyncContextManager[EventFeed]]) -> None:
        super().__init__()
        self._events = events
        #: When the next page may look.
        self._turn_at = 0.0
        #: By name: when it was begun, and what is made.
        self._kept: dict[str, tuple[float, asyncio.Task[bytes]]] = {}

    async def follow(self, number: int) -> AsyncGenerator[Look | End | None, None]:
        """
        Yield each look, from *number* on, when it is this page's turn. None: nothing has come for
        some time.
        """
        while True:
            if number < self.next:
                number = self.next
                await self._turn()
                yield Look()
            elif self.end is not None:
                yield self.end
                return
            elif not await self.news(number):
                yield None

    async def share(self, name: str, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """
        Return what *make* makes, or has made for another page under the same name. Raises what it
        raises.
        """
        now = asyncio.get_running_loop().time()
        begun_at, task = self._kept.get(name, (0.0, None))
        if task is None or now - begun_at >= GAP_SECONDS:
            task = asyncio.create_task(make())
            self._kept[name] = (now, task)
        return await asyncio.shield(task)  # One who leaves takes nobody along.

    def forget(self) -> None:
        """
        Have the next look made anew.
        """
        self._kept.clear()

    async def read(self) -> End:
        """
        Have the pages look whenever something has happened.
        """
        async with self._events() as events:
            self.begin()
            number = events.next
            while True:
                while not await events.news(number):
                    pass
                if events.end is not None:
                    return events.end
                number = events.next
                self.forget()
                self.add(Look(), 1, 1)
                await asyncio.sleep(max(GAP_SECONDS, self.followers * TURN_SECONDS))

    async def _turn(self) -> None:
        now = asyncio.get_running_loop().time()
        ours_at = max(self._turn_at, now)
        self._turn_at = ours_at + TURN_SECONDS
        await asyncio.sleep(ours_at - now)
