"""
The writer thread: the journal's slow calls, one at a time, off the loop.

The loop hands over one task and goes on; an eventfd wakes it when the task is done. There is never
more than one task, so never more than one batch in flight: what gathers meanwhile is the next
batch. That rule is also what lets recovery tell a torn tail from corruption.
"""

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Committer:
    """
    Runs tasks in order on a thread of its own. All methods are for the loop's thread.
    """

    def __init__(self) -> None:
        #: Readable when the task is done.
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = False
        #: When the task was handed over, monotonic seconds.
        self.busy_since_s = 0.0
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
            try:
                outcome: tuple[Any, BaseException | None] = (task(), None)
            except BaseException as error:
                outcome = (None, error)
            self._results.put(outcome)
            os.eventfd_write(self.wake_fd, 1)
