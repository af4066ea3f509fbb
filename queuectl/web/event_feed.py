"""
What happens to the jobs that one account sees, for all its browsers: the daemon's `watch` of
everything, of which each browser is told what passes its filter.

Events are not stored anywhere, so a gap cannot be filled: who has one is told so, and looks again.
There is a gap when the daemon was away, when more happened than it told, when a browser was slow,
and when one comes back and names an event that is not kept any more.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import Struct
from msgspec.json import encode

from queuectl.errors import DaemonUnreachable, ProtocolError, RequestRefused
from queuectl.protocol import Done
from queuectl.watching import Changed, JobChange, Watch
from queuectl.web.feed import End, Feed
from queuectl.web.link import Link

#: How many changes are kept for browsers that are slow or come back.
KEPT_CHANGES_MAX = 2_000
#: Filters through which a batch's text is made once, for all who have that filter. Who invents many
#: has each made anew: they would fill the memory.
SHARED_FILTERS_MAX = 8
#: How long a daemon that hangs up is left alone.
RETRY_SECONDS = 0.2


class Filter(Struct, frozen=True, kw_only=True):
    """
    Which changes one browser is told. Empty: all.
    """

    queues: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()

    def passes(self, change: JobChange) -> bool:
        """
        Whether a change is to be told.
        """
        return (
            (not self.queues or change.queue in self.queues)
            and (not self.states or change.state in self.states)
            and (not self.users or change.user in self.users)
        )


class ChangedMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Changes as they are told. `tables` names what else changed as a whole: queues, settings,
    workers.
    """

    changes: list[JobChange]
    tables: list[str] = []


class MissedChanges(Struct, frozen=True, kw_only=True):
    """
    So many changes were not told, whether they would have passed the filter or not; None: it is not
    known how many. Look again.
    """

    missed_count: int | None


class Batch:
    """
    What the daemon told at once, and how that is told through each filter, made once.
    """

    __slots__ = ("_told", "changes", "missed", "number", "tables")

    def __init__(self, number: int, changed: Changed, missed: MissedChanges | None) -> None:
        self.number = number
        self.changes = changed.changes
        self.tables = changed.tables
        self.missed = missed
        self._told: dict[Filter, bytes | None] = {}

    def told(self, filtered: Filter) -> bytes | None:
        """
        Return the changes that pass a filter as JSON; None if there is nothing to tell.
        """
        if filtered in self._told:
            return self._told[filtered]
        changes = [change for change in self.changes if filtered.passes(change)]
        message = ChangedMessage(changes=changes, tables=self.tables)
        told = encode(message) if changes or self.tables else None
        if len(self._told) < SHARED_FILTERS_MAX:
            self._told[filtered] = told
        return told


class Changes(Struct, frozen=True, kw_only=True):
    """
    A batch, as one filter shows it.
    """

    number: int
    told: bytes


class EventFeed(Feed[Batch]):
    """
    Everything that the account of *link* is told.
    """

    size_max = KEPT_CHANGES_MAX

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        #: Tells the numbers of this feed from those of any other.
        self.name = secrets.token_hex(4)

    def id_before(self, number: int) -> str:
        """
        Return the id of the event after which batch *number* comes.
        """
        return f"{self.name}:{number}"

    def number_after(self, event_id: str) -> int | None:
        """
        Return the number of what comes after the event of that id; None if that is not kept.
        """
        name, _, number = event_id.partition(":")
        if name != self.name or not number.isascii() or not number.isdecimal() or len(number) > 15:
            return None
        return int(number) if self.first <= int(number) <= self.next else None

    async def follow(
        self, filtered: Filter, number: int
    ) -> AsyncGenerator[Changes | MissedChanges | End | None, None]:
        """
        Yield what passes a filter, from batch *number* on. None: nothing has come for some time.
        """
        seen_count = self.amount_before(number)
        while True:
            if number < self.first:
                number = self.first
                missed_count = self.amount_before(number) - seen_count
                seen_count += missed_count
                yield MissedChanges(missed_count=missed_count)
                continue
            if number == self.next:
                if self.end is not None:
                    yield self.end
                    return
                if not await self.news(number):
                    yield None
                continue
            batch = self.item(number)
            number += 1
            seen_count = self.amount_before(number)
            if batch.missed is not None:
                yield batch.missed
            told = batch.told(filtered)
            if told is not None:
                yield Changes(number=batch.number, told=told)

    async def read(self) -> End:
        """
        Watch the queue, over restarts of the daemon.
        """
        began = False
        while True:
            try:
                async with aclosing(self._link.stream(Watch(), Changed, Done)) as answers:
                    first = True
                    async for answer in answers:
                        assert isinstance(answer, Changed)
                        self._take(answer, away=first and began)
                        first, began = False, True
            except (DaemonUnreachable, RequestRefused) as error:
                refused = isinstance(error, RequestRefused) and error.code != "try_later"
                if isinstance(error, ProtocolError) or refused or not began:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    def _take(self, changed: Changed, *, away: bool) -> None:
        missed = None
        if away:
            missed = MissedChanges(missed_count=None)
        elif changed.missed_count:
            missed = MissedChanges(missed_count=changed.missed_count)
        if missed or changed.changes or changed.tables:
            amount = len(changed.changes) + changed.missed_count
            self.add(Batch(self.next, changed, missed), len(changed.changes) + 1, amount)
        self.begin()
