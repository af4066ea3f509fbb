"""
Answers of the daemon that many pages show: a hundred browsers that load one at the same time must
not ask it a hundred times.

Those who ask at the same time share an answer (Rounds), and what is measured by the minute is kept
for a moment (Answers). Both only among visitors who see exactly the same.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from queuectl.protocol import Message
from queuectl.web.visitor import Visitor

# Answers that are kept, of all visitors.
KEPT_MAX = 64

A = TypeVar("A", bound=Message)
T = TypeVar("T")


class Rounds(Generic[T]):
    """
    One question at a time for each kind of visitor. Who comes while it is on its way waits for the
    next, which is asked once for all who came meanwhile: nobody is shown what was before they came.
    """

    def __init__(self) -> None:
        self._asking: dict[object, asyncio.Task[T]] = {}
        self._next: dict[object, asyncio.Task[T]] = {}

    async def get(self, key: object, ask: Callable[[], Awaitable[T]]) -> T:
        """
        Return what *ask* returns, ours or that of somebody with the same *key* who began no sooner
        than now. Raises what it raises.
        """
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._round(key, ask))
        return await asyncio.shield(task)  # One who leaves takes nobody along.

    async def _round(self, key: object, ask: Callable[[], Awaitable[T]]) -> T:
        before = self._asking.get(key)
        if before is not None:
            await asyncio.wait([before])
        ours = self._asking[key] = self._next.pop(key)
        try:
            return await ask()
        finally:
            if self._asking[key] is ours:
                del self._asking[key]


class Answers:
    """
    The daemon's last answers, by who sees them and what they are called.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, str], tuple[float, Any]] = {}

    async def get(
        self, visitor: Visitor, name: str, request: Message, answer: type[A], keep_ms: int
    ) -> A:
        """
        Return the answer to *request*, of *keep_ms* ago at most. Raises what the link raises.
        """
        key = (visitor.key, name)
        at, kept = self._kept.pop(key, (-math.inf, None))
        if kept is None or (time.monotonic() - at) * 1000 > keep_ms:
            kept = await visitor.link.call(request, answer)
            at = time.monotonic()
        while len(self._kept) >= KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (at, kept)
        assert isinstance(kept, answer)
        return kept
