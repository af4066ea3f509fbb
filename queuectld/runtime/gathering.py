"""
What was decided and is not on disk: the next batch of the journal, and what to do after it.
"""

from collections.abc import Sequence

from msgspec import Struct

from queuectl.measures import GetHistory, GetMetrics, History, Metrics
from queuectl.protocol import JobDetail, Jobs, List, Refused, Show, Status, StatusReport
from queuectld.core.effects import Effect, Reply
from queuectld.core.records import Record

# The requests that only look, which are all that is taken when too much waits for room.
LOOKS = (Status, List, Show, GetMetrics, GetHistory)
# Answers that confirm nothing: they are given while a full disk holds everything else back.
_LOOKING = (Refused, StatusReport, Jobs, JobDetail, Metrics, History)


class Gathering(Struct):
    """
    Records, packed and as they are, and the effects that wait for them.
    """

    packed: list[bytes] = []
    packed_bytes: int = 0
    records: list[Record] = []
    effects: list[Effect] = []

    def add(self, records: Sequence[Record], packed: Sequence[bytes], packed_bytes: int) -> None:
        """
        Add records, and the same packed, *packed_bytes* in all.
        """
        self.records += records
        self.packed += packed
        self.packed_bytes += packed_bytes

    def take_looks(self) -> list[Effect]:
        """
        Take out the answers to those who only look.
        """
        looks = [effect for effect in self.effects if is_look(effect)]
        self.effects = [effect for effect in self.effects if not is_look(effect)]
        return looks


def is_look(effect: Effect) -> bool:
    """
    Whether an effect shows the state and confirms nothing.
    """
    return isinstance(effect, Reply) and isinstance(effect.response, _LOOKING)
