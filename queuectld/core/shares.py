"""
Fair shares: what each account has in the queue, and whose job is next when a slot is free.

In system mode many accounts share the slots. Priority comes first; among the jobs of the highest
priority that may start, this file says whose is next, and of one account it is the oldest. In user
mode there is one account, None, and what is left is first in, first out.

Theory. What an account uses is its running jobs by its weight. Two rules choose, in this order:

1. Slots. Nobody takes a slot who already uses as much as another one would after taking it: with
   weights 2 and 1 that is 2 slots to 1. Running jobs are what counts, not past ones, so who has
   long jobs cannot gather slots, and who was alone for a day owes nothing for it.
2. Turns. Slots do not always divide by weights; there may be only one. Who is left by the first
   rule takes turns, start-time fair queueing: a start moves the account's turn on by 1 / weight,
   and the earliest turn is next. The queue's own turn follows: it is the earliest among those who
   compete, but never more than a whole turn behind the last that was given. Nobody's turn counts
   as earlier than that, so that a time without jobs, or behind a limit, earns nothing.

So the first job of an account that comes, or comes back after the others' turns, is next, whatever
they have waiting: its use is the least, its turn is the queue's own, and of equal turns that of the
account which started a job longest ago comes first.

Turns are not recorded: they begin anew with each daemon. What a restart forgets is at most the lead
that the queue's own turn allows, about as many jobs of an account as its weight says. All the rest,
the counts and the lines, are indices over the jobs and change in State.apply().

Choosing looks at the lines that have pending jobs, one for each account and named queue, and at the
head of each: never at the jobs.
"""

import math
from collections.abc import Callable
from typing import Any

from queuectl.settings import SETTINGS, parse_weights
from queuectl.views import JOB_STATES, JobState
from queuectld.core.job import NamedQueue
from queuectld.core.ready import Ready, unpack

# What one turn of weight 1 is, and one running job. Every weight divides it, so that shares are
# exact, and equal where they should be.
_UNIT = math.lcm(*range(1, int(SETTINGS["user_weights"].maximum) + 1))
# Stale entries that a line may hold on top of twice its jobs.
_STALE_MAX = 1024


class Line:
    """
    The pending jobs of one account in one named queue. There is a line as long as there is a job.
    """

    __slots__ = ("count", "queue", "ready")

    def __init__(self, queue: NamedQueue) -> None:
        self.queue = queue
        self.ready = Ready()
        self.count = 0


class Share:
    """
    One account. `owner` is its uid, None in user mode; `user` its name when it last enqueued.
    """

    __slots__ = ("counts", "lines", "owner", "size_bytes", "started", "turn", "user")

    def __init__(self, owner: int | None) -> None:
        self.owner = owner
        self.user = ""
        #: How many of its jobs are in each state.
        self.counts: dict[JobState, int] = dict.fromkeys(JOB_STATES, 0)
        #: What is kept in memory of all its jobs: their records, and the environments they share.
        self.size_bytes = 0
        #: By the name of the queue.
        self.lines: dict[str, Line] = {}
        #: When its next turn is, and the ordinal of its last start; 0 before the first.
        self.turn = 0
        self.started = 0

    @property
    def running(self) -> int:
        """
        How many of its jobs are processing.
        """
        return self.counts["processing"]

    @property
    def kept(self) -> int:
        """
        How many of its jobs wait, run or are dead: those that time alone does not forget.
        """
        ended = self.counts["completed"] + self.counts["cancelled"]
        return sum(self.counts.values()) - ended

    def may_start(self, running_max: int | None) -> bool:
        """
        Whether one more of its jobs may run. In user mode there is no limit.
        """
        return running_max is None or self.owner is None or self.running < running_max

    def head(self, is_ready: Callable[[int, int], bool]) -> int | None:
        """
        Return the entry of its next job in all queues that may start one.
        """
        best = None
        for line in self.lines.values():
            if line.queue.may_start:
                head = line.ready.head(is_ready)
                if head is not None and (best is None or head < best):
                    best = head
        return best


class Shares:
    """
    All accounts that have had jobs. They stay, as few as people are: who forgets the only job, and
    makes another, has had a turn all the same. *is_ready* says whether an entry of a line, priority
    and number, is live.
    """

    def __init__(self, is_ready: Callable[[int, int], bool]) -> None:
        self._is_ready = is_ready
        self.by_owner: dict[int | None, Share] = {}
        #: Those with pending jobs.
        self.waiting: dict[int | None, Share] = {}
        #: The queue's own turn, and the starts so far.
        self.turn = 0
        self._started = 0
        #: The setting user_weights, and what it says.
        self._weights_text: str | None = None
        self._weights: dict[str, int] = {}

    # --- indices, changed by State.apply() --------------------------------------------------

    def of(self, owner: int | None) -> Share:
        """
        Return an account's share, made if it is not there.
        """
        share = self.by_owner.get(owner)
        if share is None:
            share = self.by_owner[owner] = Share(owner)
        return share

    def owners_called(self, user: str) -> set[int | None]:
        """
        Return the uids of the accounts that had this name when they last enqueued.
        """
        return {owner for owner, share in self.by_owner.items() if share.user == user}

    def join(self, share: Share, queue: NamedQueue, priority: int, number: int) -> None:
        """
        Put a pending job into its line.
        """
        line = share.lines.get(queue.name)
        if line is None:
            line = share.lines[queue.name] = Line(queue)
            self.waiting[share.owner] = share
        line.count += 1
        if line.ready.push(priority, number) > 2 * line.count + _STALE_MAX:
            live = [entry for entry in set(line.ready.entries()) if self._is_ready(*entry)]
            line.ready.rebuild(live)

    def leave(self, share: Share, queue: NamedQueue) -> None:
        """
        Take a job that is no longer pending out of its line. Its entry stays there, stale.
        """
        line = share.lines[queue.name]
        line.count -= 1
        if not line.count:
            del share.lines[queue.name]
            if not share.lines:
                del self.waiting[share.owner]

    # --- choosing ---------------------------------------------------------------------------

    def take_turn(self, setting: Callable[[str], Any]) -> int | None:
        """
        Return the number of the job that is to start now, None if none may: its account's turn.
        """
        running_max = setting("user_running_max")
        first = None
        rivals: list[tuple[int, int, int, Share]] = []
        for share in self.waiting.values():
            if not share.may_start(running_max):
                continue
            head = share.head(self._is_ready)
            if head is None:
                continue
            priority, number = unpack(head)
            if first is None or priority > first:
                first = priority
                rivals.clear()
            if priority == first:
                rivals.append((max(share.turn, self.turn), share.started, number, share))
        if not rivals:
            return None
        self._weigh(setting("user_weights"))
        if len(rivals) == 1:
            turn, _, number, share = rivals[0]
            self.turn = turn
        else:
            limit = min(self._use(share, share.running + 1) for *_, share in rivals)
            turn, _, number, share = min(
                each for each in rivals if self._use(each[3], each[3].running) < limit
            )
            self.turn = max(min(rivals)[0], turn - _UNIT)
        self._started += 1
        share.started = self._started
        share.turn = turn + self._use(share, 1)
        return number

    def _weigh(self, text: str | None) -> None:
        if text != self._weights_text:
            self._weights = {} if text is None else parse_weights(text)
            self._weights_text = text

    def _use(self, share: Share, running_count: int) -> int:
        """
        Return what so many running jobs of an account are by its weight.
        """
        return running_count * _UNIT // self._weights.get(share.user, 1)
