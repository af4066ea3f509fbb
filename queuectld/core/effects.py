"""
What to do: the outputs of the queue, imperative. None is performed before the records that were
decided with it, and all before them, are synced.
"""

from typing import Any

from msgspec import Struct

from queuectld.core.job import Job
from queuectld.core.peer import Peer


class Effect(Struct, frozen=True, gc=False):
    """
    Base of all effects.
    """


class Reply(Effect, frozen=True):
    """
    Send a response to a client.
    """

    client: int
    response: Any  # protocol.Response


class StartRun(Effect, frozen=True):
    """
    Have the runner start an attempt. With a script, argv are its parameters.
    """

    number: int
    attempt: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    umask: int
    script: str | None = None
    uid: int | None = None  # the account to run it as; None: the runner's own
    user: str = ""


class SignalRun(Effect, frozen=True):
    """
    Send a signal to an attempt's whole process group.
    """

    number: int
    attempt: int
    signal: int


class AckExit(Effect, frozen=True):
    """
    Tell the runner that an attempt's end is on disk.
    """

    number: int
    attempt: int


class StreamLogs(Effect, frozen=True):
    """
    Send a job's output to a client, from `attempt` on.
    """

    client: int
    number: int
    attempt: int  # the one to begin with, 1 or more
    only: bool  # this attempt alone, not the ones after it
    request: Any  # protocol.Logs
    peer: Peer


class AwaitJobs(Effect, frozen=True):
    """
    Answer a client when these jobs have finished.
    """

    client: int
    call: int
    numbers: list[int]  # all that were asked for
    waiting: list[int]  # those of them that have not finished
    any: bool
    peer: Peer


class EndToken(Effect, frozen=True):
    """
    End every connection that brought this token.
    """

    token: str


class WatchJobs(Effect, frozen=True):
    """
    Tell a client what happens to jobs from now on.
    """

    client: int
    numbers: frozenset[int] | None  # the jobs that are meant; None: all that pass the filters
    request: Any  # watching.Watch
    peer: Peer


class TellForgotten(Effect, frozen=True):
    """
    Tell those who watch that these jobs left the history. Nobody else knows them any more.
    """

    jobs: list[Job]


class DeleteOutput(Effect, frozen=True):
    """
    Delete the output of every attempt of a job.
    """

    number: int
    attempts: list[int]


class StopDaemon(Effect, frozen=True):
    """
    End the daemon.
    """
