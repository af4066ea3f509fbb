"""
Random lives of a journal on a disk in memory, cut short at any call, against a naive model.
"""

import os
import random
from typing import Literal

import pytest
from journal_twins import MemoryFiles, PowerCutError, make_journal, pack, record, reduce

from queuectld.journal.compaction import write_snapshot
from queuectld.journal.directory import Directory
from queuectld.journal.errors import JournalFailed
from queuectld.journal.files import Files
from queuectld.journal.frames import RECORD_FORGET, Record
from queuectld.journal.journal import Journal

SEED = int(os.environ.get("QUEUECTL_SEED", "0"))
HISTORIES = 1 if SEED else 800
FIRST_SEEDS = [SEED] if SEED else [1, 1001]


class Life:
    """
    A workload on one disk. *history* is certain; *unsure* may have survived from its front.
    """

    def __init__(self, seed: int, durability: Literal["always", "interval"]) -> None:
        self.rng = random.Random(seed)
        self.disk = MemoryFiles(self.rng)
        self.durability = durability
        self.history: list[list[Record]] = []
        self.unsure: list[list[Record]] = []
        self.serial = 0
        self.epoch = 0

    def batch(self) -> list[Record]:
        records = []
        for _ in range(self.rng.choice([1, 1, 2, 5])):
            self.serial += 1
            body = b"%d " % self.serial + bytes(self.rng.choice([0, 10, 300, 1100]))
            forget = RECORD_FORGET if self.rng.random() < 0.15 else 0
            part = self.rng.randrange(2)
            records.append(record(self.rng.randrange(6), body, part=part, flags=forget))
        return records

    def open(self) -> Journal:
        found: list[Record] = []
        journal = make_journal(
            "/state",
            self.disk,
            durability=self.durability,
            random_bytes=self.rng.randbytes,
            segment_bytes=self.rng.choice([1024, 4096]),
        )
        journal.open(found.append)
        assert journal.epoch > self.epoch
        self.epoch = journal.epoch
        self.settle(found)
        return journal

    def settle(self, found: list[Record]) -> None:
        """All that was acknowledged is there, then as many of the unsure batches as may be."""
        for kept in range(len(self.unsure), -1, -1):
            history = self.history + self.unsure[:kept]
            records = [r for batch in history for r in batch]
            if reduce(records) == reduce(found):
                every = iter(records)
                assert all(r in every for r in found), "not a subsequence of history"
                self.history, self.unsure = history, []
                return
        expected = reduce(r for batch in self.history for r in batch)
        raise AssertionError(f"expected at least {expected}, found {reduce(found)}")

    def step(self, journal: Journal) -> None:
        choice = self.rng.random()
        if choice < 0.7:
            batch = self.batch()
            self.unsure.append(batch)
            journal.commit(pack(batch))
            if self.durability == "always":
                self.certain()
        elif choice < 0.8:
            journal.seal()
            self.certain()
        elif choice < 0.83:
            journal.sync()
            self.certain()
        elif choice < 0.9:
            journal.rotate()
        else:
            self.snapshot(journal)

    def certain(self) -> None:
        self.history += self.unsure
        self.unsure = []

    def snapshot(self, journal: Journal) -> None:
        journal.rotate()
        if journal.segment_count < 2:
            return
        number = int(journal.snapshot_command()[-1])
        fd = self.disk.open_directory("/state")
        write_snapshot(Directory(self.disk, "/state", fd), number, self.rng.randbytes)
        self.disk.close(fd)
        if self.rng.random() < 0.2:
            journal.abandon_snapshot()
        else:
            journal.finish_snapshot()

    def run(self) -> None:
        for _ in range(self.rng.randint(2, 6)):
            # Most of the danger is in opening, which takes about 20 changes.
            self.disk.cut_at = self.rng.choice(
                [0, self.rng.randint(1, 25), self.rng.randint(1, 90)]
            )
            self.disk.failing_syncs = self.rng.choice([0.0, 0.0, 0.05])
            try:
                journal = self.open()
                for _ in range(self.rng.randint(0, 12)):
                    self.step(journal)
                if self.rng.random() < 0.3:
                    journal.close()
                    self.certain()
            except (PowerCutError, JournalFailed):
                pass
            except OSError:
                # The snapshot's process met the failing sync; the daemon would carry on.
                assert self.disk.failing_syncs
            self.disk.restart(power_lost=self.rng.random() < 0.6)
        self.disk.failing_syncs = 0
        self.open().close()


@pytest.mark.parametrize("first", FIRST_SEEDS)
@pytest.mark.parametrize("durability", ["always", "interval"])
def test_no_crash_loses_an_acknowledged_batch(
    durability: Literal["always", "interval"], first: int
) -> None:
    """
    After any crash: all acknowledged batches, whole and in order, no others, no refusal.
    """
    for seed in range(first, first + HISTORIES):
        try:
            Life(seed, durability).run()
        except BaseException:
            print(f"QUEUECTL_SEED={seed} durability={durability}")
            raise


def test_twin_has_every_call() -> None:
    """
    A call that the twin does not have would reach the real disk unseen.
    """
    calls = {name for name in vars(Files) if not name.startswith("_")}

    assert calls == calls & set(vars(MemoryFiles))
