"""
How long a client may take: to greet, to finish a frame, to take what it is owed, to say anything.

A connection costs a descriptor and perhaps a frame's memory, so one that does nothing with it ends.
Each of the four spans is one constant, so connections run out of time in the order in which their
time began: every question here is answered by the first of an ordered table, however many
connections there are. Times are the queue's, ms; they come as arguments, once a turn.

A token may end the connections that brought it at a time of its own.

The clock of a frame stands still while the daemon itself does not read from the connection, and no
connection is idle that waits for an answer: `wait` and `logs -f` may take days.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator

from queuectl.protocol import Refused
from queuectld.core.timers import earliest
from queuectld.runtime.connection import Connection

# From the connection's begin to a whole hello. Clients say it with their first request.
HELLO_MS_MAX = 10_000
# From the first byte of a frame to its last, which may be 4 MiB later.
FRAME_MS_MAX = 60_000
# How long a client may take nothing of what it is owed: its reader may be a pager that stands open.
WRITE_MS_MAX = 3_600_000
# From the last answer to the next request.
IDLE_MS_MAX = 3_600_000


class _Span:
    """
    The connections whose time of one kind runs, in the order in which it runs out.
    """

    def __init__(self, span_ms: int) -> None:
        self._span_ms = span_ms
        self._ends_at: OrderedDict[Connection, int] = OrderedDict()

    def start(self, connection: Connection, now: int) -> None:
        """
        Let the time begin now, unless it runs.
        """
        self._ends_at.setdefault(connection, now + self._span_ms)

    def restart(self, connection: Connection, now: int) -> None:
        """
        Let the time begin now, whether it runs or not.
        """
        self._ends_at[connection] = now + self._span_ms
        self._ends_at.move_to_end(connection)

    def stop(self, connection: Connection) -> None:
        """
        Let no time run.
        """
        self._ends_at.pop(connection, None)

    def next(self) -> int | None:
        """
        Return when the first one's time is over.
        """
        return next(iter(self._ends_at.values()), None)

    def expire(self, now: int) -> Iterator[Connection]:
        """
        Take out and yield those whose time is over.
        """
        while (ends_at := self.next()) is not None and ends_at <= now:
            yield self._ends_at.popitem(last=False)[0]


class Deadlines:
    """
    The times of all connections.
    """

    def __init__(self) -> None:
        self._hello = _Span(HELLO_MS_MAX)
        self._frame = _Span(FRAME_MS_MAX)
        self._write = _Span(WRITE_MS_MAX)
        self._idle = _Span(IDLE_MS_MAX)
        self._spans = (self._hello, self._frame, self._write, self._idle)
        #: When connections end for their token's sake, with their number: in order.
        self._ends: list[tuple[int, int, Connection]] = []
        #: The earliest of all these times, and whether one of them may have changed since: most
        #: turns are not about connections, and the loop asks in each.
        self._next_at: int | None = None
        self._changed = False

    def note(self, connection: Connection, now: int) -> None:
        """
        Look at a connection to which something happened in this turn.
        """
        self._changed = True
        spoke, took = connection.spoke, connection.took
        connection.spoke = connection.took = False
        if not connection.outgoing_bytes:
            self._write.stop(connection)
        elif took:
            self._write.restart(connection, now)
        else:
            self._write.start(connection, now)
        if not connection.greeted and not connection.closing:
            self._hello.start(connection, now)
            return
        self._hello.stop(connection)
        begun = connection.reader.pending_bytes > 0 and not connection.backlogged
        if not begun or not connection.may_ask:
            self._frame.stop(connection)
        elif spoke:
            self._frame.restart(connection, now)
        else:
            self._frame.start(connection, now)
        if begun or connection.backlogged or connection.unanswered or connection.outgoing_bytes:
            self._idle.stop(connection)
        else:
            self._idle.restart(connection, now)

    def end_at(self, connection: Connection, at: int) -> None:
        """
        A connection is not to last beyond this time.
        """
        self._changed = True
        insort(self._ends, (at, connection.client, connection))

    def forget(self, connection: Connection) -> None:
        """
        A connection has ended.
        """
        self._changed = True
        for span in self._spans:
            span.stop(connection)
        if any(each is connection for _, _, each in self._ends):
            self._ends = [end for end in self._ends if end[2] is not connection]

    def next(self) -> int | None:
        """
        Return when the time of a connection is over, the first of all.
        """
        if self._changed:
            self._changed = False
            token_at = self._ends[0][0] if self._ends else None
            self._next_at = earliest(token_at, *[span.next() for span in self._spans])
        return self._next_at

    def is_due(self, now: int) -> bool:
        """
        Whether ended() or expire() yields anything. Nearly never.
        """
        at = self.next()
        return at is not None and at <= now

    def ended(self, now: int) -> Iterator[Connection]:
        """
        Take out and yield the connections that are not to last any longer.
        """
        self._changed = True
        while self._ends and self._ends[0][0] <= now:
            yield self._ends.pop(0)[2]

    def expire(self, now: int) -> Iterator[tuple[Connection, Refused | None]]:
        """
        Yield connections whose time is over, with what to tell them; None: they do not listen.
        """
        self._changed = True
        for connection in self._hello.expire(now):
            message = f"no hello came within {HELLO_MS_MAX // 1000} s; connect again"
            yield connection, Refused(code="idle", message=message)
        for connection in self._idle.expire(now):
            message = f"nothing was asked for {IDLE_MS_MAX // 60_000} minutes; connect again"
            yield connection, Refused(code="idle", message=message)
        for connection in self._frame.expire(now):
            message = f"a frame was not whole within {FRAME_MS_MAX // 1000} s; send it faster"
            yield connection, Refused(code="try_later", message=message)
        for connection in self._write.expire(now):
            yield connection, None
