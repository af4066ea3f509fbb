"""
What happened: the inputs of the queue, past tense. They are free to change with the code.
"""

from typing import Any

from msgspec import Struct

from queuectl.views import SettingValue
from queuectld.core.host import NOTHING, Host
from queuectld.core.peer import EVERYBODY, Peer


class Event(Struct, frozen=True, gc=False):
    """
    Base of all events.
    """


class DaemonBegan(Event, frozen=True):
    """
    Recovery is over, the first event of a daemon's life.
    """

    epoch: int
    version: str
    cpu_count: int


class Configured(Event, frozen=True):
    """
    Files, environment or options give settings values: at the start, before DaemonBegan, and at
    each reload. All of them each time. `sources` has for each key where its value comes from.
    """

    values: dict[str, SettingValue]
    sources: dict[str, str]


class Requested(Event, frozen=True):
    """
    A client asked for something. `client` is the server's name for the connection.
    """

    client: int
    request: Any  # protocol.Request; dispatched by its type
    peer: Peer = EVERYBODY
    host: Host = NOTHING


class RunSpawned(Event, frozen=True):
    """
    An attempt runs: told some time after its start, and again after a reconnection. One that ends
    soon is heard of by RunExited alone.
    """

    number: int
    attempt: int
    pid: int


class RunExited(Event, frozen=True):
    """
    An attempt ended. Neither code nor signal: nobody saw how (`lost`).
    """

    number: int
    attempt: int
    exit_code: int | None = None
    signal: int | None = None
    user_ms: int | None = None
    system_ms: int | None = None
    memory_max_bytes: int | None = None


class StartRefused(Event, frozen=True):
    """
    An attempt could not be started. `passing`: for want of something that comes back (memory,
    processes, disk), which is not the job's fault and does not count against it. `final`: the
    next attempt would be refused too, until somebody changes an account or the policy.
    """

    number: int
    attempt: int
    error: str
    exit_code: int | None = None
    passing: bool = False
    final: bool = False


class RunnerReady(Event, frozen=True):
    """
    The runner told all it knows: which attempts run or ended unacknowledged.

    Every attempt started since `ledger_epoch` is among them; 0: it can promise nothing. `unsent`
    are the attempts whose start never left this daemon, so that no runner can know them.
    """

    known: frozenset[tuple[int, int]]
    ledger_epoch: int
    unsent: frozenset[tuple[int, int]] = frozenset()


class RunnerGone(Event, frozen=True):
    """
    The connection to the runner is lost. Nothing can be started until it is ready again.
    """


class TimerFired(Event, frozen=True):
    """
    next_deadline() has come.
    """


class ClockStepped(Event, frozen=True):
    """
    The wall clock was set. `offset_ms` is how far it is ahead of the queue's time now.
    """

    offset_ms: int


class StorageChanged(Event, frozen=True):
    """
    The disk became full, or has room again.
    """

    full: bool
