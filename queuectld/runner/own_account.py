"""
What a job of the runner's own account finds when its request left it out: who the account is, and
where it is at home. A request from another machine knows neither.

What the request said wins, unlike for other accounts (accounts.py): whoever asks here is the
account itself.
"""

import os
from collections.abc import Callable

from queuectld.runner.accounts import CACHE_MS_MAX, PATH, Database, directory_of, variables_of
from queuectld.runner.clock import monotonic_ms
from queuectld.runner.messages import Body


class OwnAccount:
    """
    The account that this process runs under. It need not be in the database: then jobs are told of
    a PATH alone, and none can begin at home.
    """

    def __init__(
        self, database: Database | None = None, clock: Callable[[], int] = monotonic_ms
    ) -> None:
        self._database = database or Database()
        self._clock = clock
        self._env: dict[bytes, bytes] = {}
        #: Until when it is taken to be as it is, in monotonic ms.
        self._until: int | None = None

    def complete(self, body: Body) -> Body:
        """
        Return `body` with what it does not say. Raises `OSError`.
        """
        now = self._clock()
        if self._until is None or now >= self._until:
            entry = self._database.entry(os.geteuid())
            self._env = {b"PATH": PATH} | ({} if entry is None else variables_of(entry))
            self._until = now + CACHE_MS_MAX
        cwd = directory_of(body.cwd, self._env.get(b"HOME"))
        return Body(cwd, body.argv, {**self._env, **body.env}, body.script, body.user)
