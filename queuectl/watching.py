"""
Watching the queue: one request, and a stream of what happens to jobs for as long as it lasts.

The first `Changed` comes at once and holds nothing: from then on everything is told. So whoever
wants to show the queue watches first and looks (List, Status) after that first answer: nothing
falls between the two. What was not told for want of room is counted; the answer then is to look
again. What is told is on disk.
"""

from msgspec import Struct, field

from queuectl.protocol import Ids, Message
from queuectl.views import JobState


class Watch(Message, frozen=True, tag="watch"):
    """
    What happens to jobs from now on, those that pass all filters. Answered by Changed again and
    again until the connection closes.

    `states` are those after the change: who follows a state must also hear of what leaves it, and
    does not filter by states.
    """

    queue: str | None = None
    states: list[JobState] = field(default_factory=list)
    user: str | None = None
    ids: Ids = field(default_factory=list)


class JobChange(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    One thing that happened to a job. What there is not, or did not change, is None.
    """

    number: int
    id: str
    what: str  # "enqueued", "moved", "started", "stopping", "ended", "forgotten"
    state: str  # a JobState: after it
    queue: str
    at: int
    user: str | None = None
    priority: int | None = None
    next_run_at: int | None = None
    attempt: int | None = None
    worker: int | None = None
    end: str | None = None  # a RunEnd; of "stopping": what it will be
    exit_code: int | None = None
    signal: int | None = None


class Changed(Message, frozen=True, tag="changed"):
    """
    What happened since the answer before, in order.

    `missed_count` changes are not among these, because there were too many or the connection was
    slow; whether they would have passed the filters is not known. `tables` names what else changed
    as a whole: "queues", "settings", "workers".
    """

    changes: list[JobChange] = field(default_factory=list)
    missed_count: int = 0
    tables: list[str] = field(default_factory=list)
