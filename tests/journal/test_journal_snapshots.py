"""
Snapshots replay to the same state as the history they replace, and never stand in its way.
"""

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_twins import MemoryFiles, make_journal, pack, read_back, record, reduce

from queuectld.journal.compaction import live_records, removable
from queuectld.journal.directory import Listing, segment_name, snapshot_name
from queuectld.journal.errors import JournalCorrupt
from queuectld.journal.frames import RECORD_FORGET, Record, pack_record
from queuectld.journal.journal import Journal

SEED = int(os.environ.get("QUEUECTL_SEED", "5"))

RECORDS = st.builds(
    record,
    key=st.integers(0, 4),
    body=st.binary(max_size=4),
    part=st.integers(0, 2),
    flags=st.sampled_from([0, 0, 0, 1, RECORD_FORGET]),
)


def snapshot(journal: Journal) -> str:
    assert journal.rotate()
    subprocess.run(journal.snapshot_command(), check=True, cwd="/")
    return journal.finish_snapshot()


def random_records(rng: random.Random, count: int) -> list[Record]:
    return [
        record(
            rng.randrange(50),
            rng.randbytes(rng.randrange(60)),
            part=rng.randrange(3),
            flags=RECORD_FORGET if rng.random() < 0.1 else 0,
        )
        for _ in range(count)
    ]


@given(st.lists(RECORDS, max_size=40))
@settings(deadline=None, database=None, derandomize=True)
def test_live_records_are_the_naive_models(records: list[Record]) -> None:
    """
    Last record of each name, nothing that was forgotten, in the order of the journal.
    """
    live = list(live_records(lambda: iter([records[:7], records[7:]])))

    assert pack(reduce(records)) == live


def test_replay_after_any_number_of_snapshots_is_the_same(tmp_path: Path) -> None:
    """
    However often snapshots are taken, a start finds the state of the whole history.
    """
    print(f"QUEUECTL_SEED={SEED}")
    rng = random.Random(SEED)
    history: list[Record] = []
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    for turn in range(6):
        for _ in range(20):
            batch = random_records(rng, rng.randint(1, 6))
            journal.commit(pack(batch))
            history += batch
        name = snapshot(journal)
        if turn % 2:
            journal.close()
            found: list[Record] = []
            journal = make_journal(tmp_path / "j")
            assert name == journal.open(found.append).snapshot
            assert reduce(history) == found
    journal.close()

    assert reduce(history) == read_back(tmp_path / "j")


def test_records_of_the_largest_size_survive(tmp_path: Path) -> None:
    """
    A record larger than a snapshot's usual frame gets a frame of its own.
    """
    records = [record(n, bytes([n]) * size) for n, size in enumerate([9, 8_388_592, 9, 2_000_000])]
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    for r in records:
        journal.commit(pack([r]))
    snapshot(journal)
    journal.close()

    assert records == read_back(tmp_path / "j")


def test_two_generations_are_kept(tmp_path: Path) -> None:
    """
    The newest snapshot, the one before it, and every segment since; nothing older.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    names = []
    for key in range(3):
        journal.commit(pack([record(key)]))
        names.append(snapshot(journal))
        journal.commit(pack([record(key, b"more")]))

    present = sorted(os.listdir(tmp_path / "j"))
    segments = [segment_name(3), segment_name(4)]
    assert ["FORMAT", *segments, *names[1:]] == present
    assert 2 == journal.segment_count
    sizes = [os.path.getsize(tmp_path / "j" / name) for name in [*names[1:], segments[0]]]
    before = journal.size_bytes
    journal.rotate()
    assert before + 160 == journal.size_bytes
    sealed = os.path.getsize(tmp_path / "j" / segments[1])
    assert sum(sizes) + sealed + 160 == journal.size_bytes


def test_removable_is_nothing_before_the_second_snapshot() -> None:
    """
    The first snapshot's other generation is the whole journal.
    """
    assert [] == removable(Listing([1, 2, 3], [], [], True))
    assert [] == removable(Listing([1, 2, 3], [3], [], True))
    assert [snapshot_name(2), segment_name(1), segment_name(2)] == removable(
        Listing([1, 2, 3, 4, 5], [2, 3, 5], [], True)
    )


def test_every_damaged_byte_of_the_newest_snapshot(tmp_path: Path) -> None:
    """
    A snapshot with any byte changed or missing is set aside loudly; nothing is lost.
    """
    path = tmp_path / "j"
    journal = make_journal(path)
    journal.open(lambda _: None)
    history = []
    for key in range(3):
        batch = [record(key, b"%d" % key * 9), record(key + 1, b"old")]
        journal.commit(pack(batch))
        history += batch
        name = snapshot(journal)
    journal.close()
    contents = {file.name: file.read_bytes() for file in path.iterdir()}
    size_bytes = len(contents[name])
    damages = [(offset, None) for offset in range(size_bytes)] + [
        (offset, 1) for offset in range(0, size_bytes, 3)
    ]
    for offset, flip in damages:
        damaged = bytearray(contents[name])
        if flip is None:
            del damaged[offset:]
        else:
            damaged[offset] ^= flip
        disk = MemoryFiles.holding(contents | {name: bytes(damaged)})
        found: list[Record] = []
        recovered = make_journal("/state", disk).open(found.append)
        assert recovered.snapshot is not None
        assert recovered.snapshot < name
        assert reduce(history) == reduce(found)
        assert "generation before it was used" in recovered.notes[0]
        assert bytes(damaged) == disk.contents()[f"{name}.broken"]


def test_a_damaged_only_snapshot_falls_back_to_the_whole_journal(tmp_path: Path) -> None:
    """
    Before the second snapshot the segments still tell everything.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    journal.commit(pack([record(1, b"all")]))
    name = snapshot(journal)
    journal.close()
    os.truncate(tmp_path / "j" / name, 200)

    assert [record(1, b"all")] == read_back(tmp_path / "j")


def test_two_damaged_generations_are_refused(tmp_path: Path) -> None:
    """
    Without any whole generation the start is refused, naming the newest snapshot.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    for key in range(3):
        journal.commit(pack([record(key)]))
        name = snapshot(journal)
    journal.close()
    for file in (tmp_path / "j").glob("snap-*"):
        os.truncate(file, 200)
    with pytest.raises(JournalCorrupt, match=name):
        read_back(tmp_path / "j")


def test_snapshot_process_refuses_damage(tmp_path: Path) -> None:
    """
    The process reads as recovery does: it refuses what it would refuse, and says so.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    journal.commit(pack([record(1, b"x" * 40)]))
    journal.rotate()
    path = tmp_path / "j" / segment_name(1)
    damaged = bytearray(path.read_bytes())
    damaged[250] ^= 1
    path.write_bytes(damaged)
    done = subprocess.run(journal.snapshot_command(), capture_output=True, text=True)
    journal.abandon_snapshot()

    assert 65 == done.returncode
    assert f"{path} is damaged at byte 160" in done.stderr
    assert [] == list((tmp_path / "j").glob("snap-*"))


def test_snapshot_process_killed_at_any_write(tmp_path: Path) -> None:
    """
    Whatever a killed process leaves is not a snapshot, and the next one starts afresh.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    history = [record(key, bytes(100)) for key in range(30)]
    journal.commit(pack(history))
    journal.rotate()
    command = journal.snapshot_command()
    whole = tmp_path / "j" / f"{snapshot_name(2)}.tmp"
    subprocess.run(command, check=True)
    content = whole.read_bytes()
    for length in range(0, len(content), 41):
        whole.write_bytes(content[:length])
        with pytest.raises(JournalCorrupt, match="snap-"):
            journal.finish_snapshot()
        assert not whole.exists()
        assert command == journal.snapshot_command()
    whole.write_bytes(content[:300])
    subprocess.run(command, check=True)
    assert snapshot_name(2) == journal.finish_snapshot()
    journal.close()

    assert history == read_back(tmp_path / "j")


def test_killed_snapshot_process(tmp_path: Path) -> None:
    """
    A process killed in the middle leaves an unfinished file, which is abandoned.
    """
    journal = make_journal(tmp_path / "j", durability="off", segment_bytes=1 << 22)
    journal.open(lambda _: None)
    history = [record(key, bytes(500)) for key in range(20_000)]
    for start in range(0, len(history), 1000):
        journal.commit(pack(history[start : start + 1000]))
    journal.rotate()
    unfinished = f"{snapshot_name(journal.segment_count)}.tmp"
    process = subprocess.Popen(journal.snapshot_command())
    while unfinished not in os.listdir(tmp_path / "j"):
        assert process.poll() is None
    process.kill()
    assert process.wait() != 0
    journal.abandon_snapshot()
    assert unfinished not in os.listdir(tmp_path / "j")
    snapshot(journal)
    journal.close()

    assert history == read_back(tmp_path / "j")


def test_when_a_snapshot_is_wanted(tmp_path: Path) -> None:
    """
    More than four sealed segments, or more than twice the snapshot and a megabyte.
    """
    journal = make_journal(tmp_path / "j", segment_bytes=1 << 24)
    journal.open(lambda _: None)
    for key in range(4):
        journal.commit(pack([record(key)]))
        journal.rotate()
        assert not journal.wants_snapshot()
    journal.commit(pack([record(5)]))
    journal.rotate()
    assert journal.wants_snapshot()
    journal.snapshot_command()
    assert not journal.wants_snapshot()
    journal.abandon_snapshot()
    snapshot(journal)
    assert not journal.wants_snapshot()
    journal.commit([pack_record(1, 0, 0, 9, bytes(1 << 20))])
    journal.rotate()
    assert journal.wants_snapshot()
    snapshot(journal)
    assert not journal.wants_snapshot()
    journal.commit([pack_record(1, 0, 0, 10, bytes(3 << 19))])
    journal.rotate()
    assert not journal.wants_snapshot()


def test_commits_go_on_beside_the_snapshot_process(tmp_path: Path) -> None:
    """
    What is committed and rotated while the process runs stays where it is.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    journal.commit(pack([record(1, b"before")]))
    journal.rotate()
    process = subprocess.Popen(journal.snapshot_command())
    history = [record(1, b"before")]
    while process.poll() is None:
        history.append(record(2, b"%d" % len(history) * 30))
        journal.commit(pack(history[-1:]))
    assert 0 == process.returncode
    journal.finish_snapshot()
    journal.close()

    assert reduce(history) == reduce(read_back(tmp_path / "j"))
