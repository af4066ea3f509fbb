"""
The output of one job, attempt after attempt, for all who look at it.

A position is (attempt, offset). Every item goes from one position to another and begins where the
one before ended, so nothing is told twice or left out by whoever keeps to positions. The feed
begins near the end of what there is. Who wants to begin before that reads the rest from the daemon,
a piece at a time, until its position is within what the feed keeps, and goes on there: the look at
where the feed begins and the step into it are not interrupted by anything.

A piece never ends within a character, unless the job does. It is told as text where it is UTF-8 as
a whole and holds no NUL (JSON would make six bytes of each), else in base64.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import encode

from queuectl.errors import DaemonUnreachable, ProtocolError, RequestRefused
from queuectl.protocol import JobDetail, LogEnd, Logs, Output, Show
from queuectl.selection import id_to_ask
from queuectl.views import FINISHED_STATES, JobView
from queuectl.web.feed import End, Feed
from queuectl.web.link import Link

#: A piece is one message. The daemon reads more at once, but each reader who is slow holds messages
#: of its own: one that is being sent, and the next.
PIECE_BYTES_MAX = 16 << 10
#: How much of the end a feed begins with, and how much it keeps.
TAIL_BYTES = 64 << 10
KEPT_BYTES_MAX = 256 << 10
#: How much is read at once for who is behind what is kept.
BEHIND_BYTES_MAX = 128 << 10
#: What an item costs apart from its data: output that comes a character at a time.
ITEM_BYTES = 256
#: A job that floods is read no faster: nobody reads so much, and others want to be served.
FLOOD_BYTES_MAX = 1 << 20
FLOOD_SECONDS = 0.1
#: How long a daemon that hangs up, or has no room, is left alone.
RETRY_SECONDS = 0.5

#: Refusals after which the same may be asked again.
_PASSING = ("try_later", "not_found")

#: How the first byte of a character of so many bytes begins.
_LEADS = {2: 0b110, 3: 0b1110, 4: 0b11110}

Position = tuple[int, int]


class OutputMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A piece of output as it is told. `at` is when it was written, ms since the epoch, where that was
    seen; `dropped_bytes` before `offset` are gone: over the output limit.
    """

    stream: str  # "output": both of the job's streams, in the order written
    attempt: int
    offset: int
    next_offset: int
    text: str | UnsetType = UNSET
    base64: str | UnsetType = UNSET
    dropped_bytes: int = 0
    at: int | None = None


class Piece:
    """
    Bytes of output, and how they are told, made once for everybody.
    """

    __slots__ = ("_told", "at", "attempt", "data", "dropped_bytes", "offset")

    def __init__(
        self, attempt: int, offset: int, data: bytes, dropped_bytes: int = 0, at: int | None = None
    ) -> None:
        self.attempt = attempt
        self.offset = offset
        self.data = data
        self.dropped_bytes = dropped_bytes
        self.at = at
        self._told: bytes | None = None

    @property
    def begin(self) -> Position:
        """
        Where it begins, with what was dropped.
        """
        return self.attempt, self.offset - self.dropped_bytes

    @property
    def end(self) -> Position:
        """
        Where the next one begins.
        """
        return self.attempt, self.offset + len(self.data)

    def between(self, begin: Position, end: Position) -> "Piece":
        """
        Return the part of it from *begin* up to *end*; either may be beyond it.
        """
        low = max(begin, self.begin)[1]
        high = min(end, self.end)[1] if end[0] == self.attempt else self.end[1]
        if (low, high) == (self.begin[1], self.end[1]):
            return self
        start = min(max(self.offset, low), high)
        data = self.data[max(start - self.offset, 0) : max(high - self.offset, 0)]
        return Piece(self.attempt, start, data, start - low, self.at)

    @property
    def told(self) -> bytes:
        """
        The piece as JSON.
        """
        if self._told is None:
            text: str | UnsetType = UNSET
            coded: str | UnsetType = UNSET
            try:
                if b"\0" not in self.data:
                    text = self.data.decode()
            except UnicodeDecodeError:
                pass
            if text is UNSET:
                coded = base64.b64encode(self.data).decode()
            message = OutputMessage(
                stream="output",
                attempt=self.attempt,
                offset=self.offset,
                next_offset=self.offset + len(self.data),
                text=text,
                base64=coded,
                dropped_bytes=self.dropped_bytes,
                at=self.at,
            )
            self._told = encode(message)
        return self._told


class Cutter:
    """
    Cuts what follows a position into pieces that do not end within a character.
    """

    def __init__(self, position: Position) -> None:
        #: Up to where pieces were returned.
        self.position = position
        #: The beginning of a character whose end has not come yet.
        self._rest = b""

    def take(self, piece: Piece) -> list[Piece]:
        """
        Return what is whole with the bytes of *piece*, which follow those before.
        """
        pieces = self.rest() if piece.dropped_bytes else []
        dropped_bytes = piece.dropped_bytes
        self._rest += piece.data
        while True:
            data = self._rest[:PIECE_BYTES_MAX]
            whole = len(data) - incomplete_bytes(data)
            if not whole and not dropped_bytes:
                return pieces
            pieces.append(self._piece(data[:whole], dropped_bytes, piece.at))
            self._rest = self._rest[whole:]
            dropped_bytes = 0

    def rest(self) -> list[Piece]:
        """
        Return what is left: nothing more comes that would make it whole.
        """
        data, self._rest = self._rest, b""
        return [self._piece(data)] if data else []

    def _piece(self, data: bytes, dropped_bytes: int = 0, at: int | None = None) -> Piece:
        attempt, offset = self.position
        piece = Piece(attempt, offset + dropped_bytes, data, dropped_bytes, at)
        self.position = piece.end
        return piece


def incomplete_bytes(data: bytes) -> int:
    """
    Return how many bytes at the end of *data* begin a character of UTF-8 and do not end it.
    """
    for back in range(1, min(len(data), 3) + 1):
        byte = data[-back]
        if byte >> 6 != 0b10:  # Not in the middle of a character.
            length = next((n for n, lead in _LEADS.items() if byte >> 7 - n == lead), 1)
            return back if length > back else 0
    return 0


class AttemptEnd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    An attempt is over; the next may follow. How it ended, and when the next one is due, is left out
    where the job has gone on since.
    """

    attempt: int
    offset: int  # the length of its output
    state: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    next_run_at: int | None = None

    @property
    def begin(self) -> Position:
        """
        Behind its last byte.
        """
        return self.attempt, self.offset

    @property
    def end(self) -> Position:
        """
        Where the next attempt begins.
        """
        return self.attempt + 1, 0


class Missed(Struct, frozen=True, kw_only=True):
    """
    So many bytes from here on were not told: whoever follows was too slow. They can be read.
    """

    attempt: int
    offset: int
    missed_bytes: int


Told = Piece | AttemptEnd | Missed | End | None


class OutputFeed(Feed[Piece | AttemptEnd]):
    """
    The output of *job*. *reading* bounds how many read what lies behind at the same time.
    """

    size_max = KEPT_BYTES_MAX

    def __init__(self, link: Link, job: JobView, reading: asyncio.Semaphore) -> None:
        super().__init__()
        self._link = link
        self._id = id_to_ask(job)
        self._reading = reading
        self._cutter = Cutter((job.attempt or 1, 0))
        #: Whether the daemon has said where the feed begins.
        self._placed = False
        #: What was read since it last paused.
        self._burst_bytes = 0

    # --- those who follow -------------------------------------------------------------------

    @property
    def begin_of_kept(self) -> Position:
        """
        Where what is kept begins.
        """
        return self.item(self.first).begin if self.next > self.first else self._cutter.position

    def near_end(self, size_bytes: int) -> Position:
        """
        Return a position that so many bytes of the last attempt follow, or fewer.
        """
        attempt, offset = self._cutter.position
        begin = self.begin_of_kept
        offset = max(offset - size_bytes, begin[1] if begin[0] == attempt else 0)
        return attempt, offset

    async def follow(
        self, position: Position, only: int | None = None
    ) -> AsyncGenerator[Told, None]:
        """
        Yield what there is from *position* on, then what comes; with *only*, of that attempt. None:
        nothing has come for some time.

        Raises QueuectlError if what lies behind cannot be read.
        """
        over = (only + 1, 0) if only is not None else None
        while position < self.begin_of_kept and (over is None or position < over):
            pieces, position = await self._read_behind(position)
            pieces.reverse()
            while pieces:
                yield pieces.pop()  # Nothing of what is told already is held for who is slow.
        number, seen_bytes = self.first, self.amount_before(self.first)
        while True:
            if number < self.first:
                attempt, offset = position
                number, position = self.first, self.begin_of_kept
                missed_bytes = self.amount_before(number) - seen_bytes
                seen_bytes += missed_bytes
                yield Missed(attempt=attempt, offset=offset, missed_bytes=missed_bytes)
                continue
            if over is not None and position >= over:
                yield End(reason="attempt_over", attempt=only)
                return
            if number == self.next:
                if self.end is not None:
                    yield self.end
                    return
                if not await self.news(number):
                    yield None
                continue
            item = self.item(number)
            number += 1
            seen_bytes = self.amount_before(number)
            if item.end <= position or (over is not None and item.begin >= over):
                position = max(position, item.end)
                continue
            if isinstance(item, Piece):
                item = item.between(position, item.end)
            position = item.end
            yield item

    async def _read_behind(self, position: Position) -> tuple[list[Piece], Position]:
        """
        Read what follows *position*, before what is kept begins; return it and where it ends.
        """
        attempt, offset = position
        request = Logs(id=self._id, attempt=attempt, offset=offset)
        cutter = Cutter(position)
        pieces: list[Piece] = []
        size = 0
        try:
            stream = self._link.stream(request, Output, LogEnd)
            async with self._reading, aclosing(stream) as answers:
                async for answer in answers:
                    until = self.begin_of_kept
                    if isinstance(answer, LogEnd):
                        over = (attempt + 1, 0) if attempt < until[0] else until
                        return pieces + cutter.rest(), over
                    assert isinstance(answer, Output)
                    piece = Piece(attempt, answer.offset, answer.data, answer.dropped_bytes)
                    piece = piece.between(piece.begin, until)
                    pieces += cutter.take(piece)
                    size += len(piece.data)
                    if piece.end >= until:
                        return pieces + cutter.rest(), until
                    if size >= BEHIND_BYTES_MAX:
                        break
        except (DaemonUnreachable, RequestRefused) as error:
            passing = isinstance(error, DaemonUnreachable) or error.code == "try_later"
            if isinstance(error, ProtocolError) or not passing:
                raise
            if not pieces:
                await asyncio.sleep(RETRY_SECONDS)
        return pieces, cutter.position

    # --- the feed's own side ----------------------------------------------------------------

    async def read(self) -> End:
        """
        Read attempt after attempt until the job has finished.
        """
        while True:
            job = await self._read_attempt()
            self._add(self._cutter.rest())
            attempt = self._cutter.position[0]
            went_on = (job.attempt or 0) > attempt
            if (job.attempt or 0) >= attempt:
                self._end_attempt(job, went_on=went_on)
            if job.state in FINISHED_STATES and not went_on:
                return End(
                    reason="finished",
                    attempt=job.attempt,
                    state=job.state,
                    exit_code=job.exit_code,
                    signal=job.signal,
                )
            self._cutter = Cutter((attempt + 1, 0))

    async def _read_attempt(self) -> JobView:
        """
        Read one attempt to its end, over restarts of the daemon; return the job as it is then.
        """
        while True:
            attempt, offset = self._cutter.position
            request = Logs(
                id=self._id,
                attempt=attempt,
                offset=offset,
                follow=True,
                tail_bytes=None if self._placed else TAIL_BYTES,
            )
            try:
                async with aclosing(self._link.stream(request, Output, LogEnd)) as answers:
                    async for answer in answers:
                        if isinstance(answer, LogEnd):
                            return answer.job
                        assert isinstance(answer, Output)
                        await self._take(answer)
            except (DaemonUnreachable, RequestRefused) as error:
                if isinstance(error, RequestRefused) and error.code == "not_found":
                    # This attempt will not be made, or not yet; or the job is forgotten: then this
                    # raises.
                    detail = await self._link.call(Show(id=self._id), JobDetail)
                    if detail.job.state in FINISHED_STATES:
                        return detail.job
                passing = isinstance(error, DaemonUnreachable) or error.code in _PASSING
                if isinstance(error, ProtocolError) or not (self._placed and passing):
                    raise
            # Of a character that was not read to its end, the beginning is read again.
            self._cutter = Cutter(self._cutter.position)
            await asyncio.sleep(RETRY_SECONDS)

    async def _take(self, output: Output) -> None:
        if not self._placed:
            self._placed = True
            self._cutter = Cutter((output.attempt, output.offset))
            self.begin()
        piece = Piece(output.attempt, output.offset, output.data, output.dropped_bytes, output.at)
        self._add(self._cutter.take(piece))
        self._burst_bytes += len(output.data)
        if self._burst_bytes > FLOOD_BYTES_MAX:
            self._burst_bytes = 0
            await asyncio.sleep(FLOOD_SECONDS)

    def _add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self.add(piece, len(piece.data) + ITEM_BYTES, len(piece.data))

    def _end_attempt(self, job: JobView, *, went_on: bool) -> None:
        attempt, offset = self._cutter.position
        end = AttemptEnd(attempt=attempt, offset=offset)
        if not went_on:
            end = AttemptEnd(
                attempt=attempt,
                offset=offset,
                state=job.state,
                exit_code=job.exit_code,
                signal=job.signal,
                error=job.last_error,
                next_run_at=job.next_run_at,
            )
        self.add(end, ITEM_BYTES, 0)
