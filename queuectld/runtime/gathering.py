"""
What was decided and is not on disk: the next batch of the journal, and what to do after it.
"""

from collections.abc import Sequence
from itertools import starmap

from msgspec import Struct

from queuectl.measures import GetHistory, GetMetrics, History, Metrics
from queuectl.protocol import JobDetail, Jobs, List, Refused, Show, Status, StatusReport
from queuectld.core.effects import Effect, Reply
from queuectld.core.records import Record, Stored
from queuectld.journal.frames import RECORD_HEADER_BYTES, pack_record

# The requests that only look, which are all that is taken when too much waits for room.
LOOKS = (Status, List, Show, GetMetrics, GetHistory)
# Answers that confirm nothing: they are given while a full disk holds everything else back.
_LOOKING = (Refused, StatusReport, Jobs, JobDetail, Metrics, History)

# What a record in a batch takes beside its body at most: it is padded to a multiple of 8.
_RECORD_BYTES_MAX = RECORD_HEADER_BYTES + 7


class Gathering(Struct):
    """
    Records, as they are and as they are stored, and the effects that wait for them.
    """

    records: list[Record] = []
    stored: list[Stored] = []
    packed_bytes: int = 0  # at most
    effects: list[Effect] = []

    def add(self, records: Sequence[Record], stored: Sequence[Stored]) -> None:
        """
        Add records, and the same as they are stored.
        """
        self.records += records
        self.stored += stored
        for each in stored:
            self.packed_bytes += _RECORD_BYTES_MAX + len(each.body)

    def packed(self) -> list[bytes]:
        """
        Return the records as the journal takes them.
        """
        return list(starmap(pack_record, self.stored))

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
