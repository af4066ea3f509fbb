"""
The journal's slow calls, one at a time: on a thread of their own, off the loop.

The loop hands over one task and goes on; an eventfd wakes it when the task is done. There is never
more than one task, so never more than one batch in flight: what gathers meanwhile is the next
batch. That rule is also what lets recovery tell a torn tail from corruption.

Two threads that wake each other cost more than a quick disk takes to sync. So as long as it is
quick, and the loop has nothing else to do meanwhile, a task is run where it is.
"""

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

# A disk that did its last task within this time is not worth a thread: two hand-overs and a turn of
# the loop take about a tenth of it, and nobody minds to wait that long for the loop.
QUICK_S_MAX = 0.002


class Committer:
    """
    Runs tasks in order, on a thread of its own or not. All methods are for the loop's thread.
    """

    def __init__(self) -> None:
        #: Readable when the task is done.
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = False
        #: When the task was handed over, monotonic seconds.
        self.busy_since_s = 0.0
        #: How long the last task took, and whether that was no longer than QUICK_S_MAX.
        self.span_s = 0.0
        self.is_quick = False
        self._tasks: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="committer", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], Any]) -> None:
        """
        Run *task* on the thread. The one before must have been collected.
        """
        assert not self.busy
        self.busy = True
        self.busy_since_s = time.monotonic()
        self._tasks.put(task)

    def run(self, task: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """
        Run *task* here and now; return (result, error).
        """
        assert not self.busy
        return self._perform(task)

    def collect(self, *, wait: bool = False) -> tuple[Any, BaseException | None] | None:
        """
        Return (result, error) of the task if it is done, or with *wait* when it is; else None.
        """
        if not self.busy or (not wait and self._results.empty()):
            return None
        outcome = self._results.get()
        self.busy = False
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            pass  # The thread has not written it yet; the loop then wakes once for nothing.
        return outcome

    def close(self) -> None:
        """
        End the thread. No task may be under way.
        """
        assert not self.busy
        self._tasks.put(None)
        self._thread.join()
        os.close(self.wake_fd)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._results.put(self._perform(task))
            os.eventfd_write(self.wake_fd, 1)

    def _perform(self, task: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        begun_s = time.monotonic()
        try:
            return task(), None
        except BaseException as error:
            return None, error
        finally:
            self.span_s = time.monotonic() - begun_s
            self.is_quick = self.span_s <= QUICK_S_MAX
