"""
What a start finds after damage: torn tails are ignored, corruption is refused.
"""

import contextlib
import copy
import re
from zlib import crc32

import pytest
from journal_twins import MemoryFiles, PowerCutError, make_journal, pack, read_back, record

from queuectld.journal.errors import JournalCorrupt, JournalTooNew
from queuectld.journal.frames import FRAME_AFTER_SYNC, Position, Record, pack_frame
from queuectld.journal.header import SEGMENT_MAGIC, unpack_header

LAST = "seg-0000000000000002.qj"
BATCHES = [
    [record(1, b"first")],
    [record(2, b"second"), record(3, b"x" * 50)],
    [record(1, b"third", part=1)],
    [record(4, b"fourth")],
    [record(5, b"fifth" * 9), record(6, b"")],
]
RECORDS = [r for batch in BATCHES for r in batch]


def history(*, seal: bool = False) -> tuple[dict[str, bytes], list[int]]:
    """The files of a killed journal with two segments, and where the last one's batches end."""
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk)
    journal.open(lambda _: None)
    journal.commit(pack(BATCHES[0]))
    journal.commit(pack(BATCHES[1]))
    journal.rotate()
    ends = [160]
    for batch in BATCHES[2:]:
        before = journal.size_bytes
        journal.commit(pack(batch))
        ends.append(ends[-1] + journal.size_bytes - before)
    if seal:
        journal.seal()
    return disk.contents(), ends


def find(contents: dict[str, bytes]) -> list[Record]:
    return read_back("/state", MemoryFiles.holding(contents))


def test_unharmed() -> None:
    """
    The sample reads back whole.
    """
    contents, ends = history()

    assert find(contents) == RECORDS
    assert contents[LAST][ends[-1] :].strip(b"\0") == b""


def test_cut_at_every_byte() -> None:
    """
    A last segment cut anywhere gives exactly the batches that are whole before the cut.
    """
    contents, ends = history()
    for cut in range(160, ends[-1] + 1):
        for filler in (b"", bytes(500)):
            torn = contents | {LAST: contents[LAST][:cut] + filler}
            whole = sum(end <= cut for end in ends) - 1
            # Zeros in place of a batch's own trailing zeros are no damage.
            if filler and (contents[LAST][:cut] + filler)[: ends[-1]] == contents[LAST][: ends[-1]]:
                continue
            found = find(torn)
            at_least = [r for batch in BATCHES[: 2 + whole] for r in batch]
            assert at_least == found[: len(at_least)]
            assert RECORDS[: len(found)] == found
            if not filler:
                assert at_least == found


def try_find(contents: dict[str, bytes]) -> tuple[JournalCorrupt | None, list[Record]]:
    try:
        return None, find(contents)
    except JournalCorrupt as error:
        return error, []


@pytest.mark.parametrize("seal", [False, True])
def test_flip_of_every_byte(seal: bool) -> None:
    """
    A changed byte is refused, or harmless, or in the last batch; never silently lost.

    With a seal behind it, the last batch is protected too.
    """
    contents, ends = history(seal=seal)
    protected = ends[-1] if seal else ends[-2]
    for name, content in contents.items():
        for offset in range(len(content)):
            damaged = bytearray(content)
            damaged[offset] ^= 0x41
            refusal, found = try_find(contents | {name: bytes(damaged)})
            if refusal is not None:
                assert name in refusal.path
                assert refusal.offset <= offset
                continue
            if name == LAST and protected <= offset < ends[-1]:
                assert RECORDS[:5] == found
            else:
                assert found == RECORDS, (name, offset)
                assert name != "FORMAT"
                assert name != LAST or offset >= protected


def test_bit_flips_outside_the_last_batch_name_the_place() -> None:
    """
    A refusal names file, offset, last good batch and the command that could repair it.
    """
    contents, ends = history()
    damaged = bytearray(contents[LAST])
    damaged[ends[0] + 50] ^= 1
    with pytest.raises(JournalCorrupt) as caught:
        find(contents | {LAST: bytes(damaged)})

    assert ("/state/" + LAST, ends[0], 2) == (
        caught.value.path,
        caught.value.offset,
        caught.value.batch_seq,
    )
    for part in (LAST, f"byte {ends[0]}", "last good batch is 2", "queuectl journal repair"):
        assert part in str(caught.value)


def test_refusal_changes_nothing() -> None:
    """
    After a refusal every file is as it was.
    """
    contents, ends = history()
    damaged = bytearray(contents[LAST])
    damaged[ends[0] + 50] ^= 1
    contents[LAST] = bytes(damaged)
    disk = MemoryFiles.holding(contents)
    with pytest.raises(JournalCorrupt):
        read_back("/state", disk)

    assert contents == disk.contents()


def test_zeroed_and_swapped_sectors() -> None:
    """
    A sector of zeros or one from elsewhere inside acknowledged bytes is refused.
    """
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk, segment_bytes=1 << 16, runway_bytes=1 << 14)
    journal.open(lambda _: None)
    for n in range(60):
        journal.commit(pack([record(n, b"%d" % n * 60)]))
    contents = disk.contents()
    name = "seg-0000000000000001.qj"
    sectors = (journal.size_bytes - 300) // 512
    for sector in range(1, sectors):
        at = slice(sector * 512, (sector + 1) * 512)
        for source in (bytes(512), contents[name][512:1024]):
            damaged = bytearray(contents[name])
            damaged[at] = source
            if damaged != contents[name]:
                with pytest.raises(JournalCorrupt):
                    find({**contents, name: bytes(damaged)})


def test_forged_frame_in_a_torn_payload() -> None:
    """
    A later frame pasted into a command is not taken for one: the tail is torn, not corrupt.
    """
    guesses = []
    for seed in (0, crc32(b""), crc32(bytes(8))):
        forged, _ = pack_frame(b"", 0, Position(0, 1_000, 1_000, 0), 1, FRAME_AFTER_SYNC, seed)
        guesses.append(forged)
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk)
    journal.open(lambda _: None)
    journal.commit(pack([record(1, b"whole")]))
    start = journal.size_bytes
    journal.commit(pack([record(2, b"x" * 512 + b"".join(guesses))]))
    contents = disk.contents()
    torn = bytearray(contents["seg-0000000000000001.qj"])
    torn[start + 80 : start + 90] = bytes(10)

    assert [record(1, b"whole")] == find(contents | {"seg-0000000000000001.qj": bytes(torn)})


def test_a_later_frame_with_the_salt_is_corruption() -> None:
    """
    The same frame with the right salt proves that something before it is gone.
    """
    contents, ends = history()
    header = unpack_header(contents[LAST], SEGMENT_MAGIC)
    later, _ = pack_frame(b"", 0, Position(0, 99, 99, 0), 1, FRAME_AFTER_SYNC, header.seed())
    content = bytearray(contents[LAST])
    content[ends[-1] + 64 : ends[-1] + 64 + len(later)] = later
    with pytest.raises(JournalCorrupt, match="batch 99"):
        find(contents | {LAST: bytes(content)})


def test_unsynced_frames_behind_a_hole_are_a_torn_tail() -> None:
    """
    Without a sync in between, a later frame proves nothing: power loss may reorder.
    """
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk, durability="off")
    journal.open(lambda _: None)
    journal.commit(pack(BATCHES[0]))
    start = journal.size_bytes
    journal.commit(pack(BATCHES[1]))
    journal.commit(pack(BATCHES[2]))
    contents = disk.contents()
    torn = bytearray(contents["seg-0000000000000001.qj"])
    torn[start : start + 48] = bytes(48)

    assert BATCHES[0] == find(contents | {"seg-0000000000000001.qj": bytes(torn)})


@pytest.mark.parametrize("name", ["FORMAT", "seg-0000000000000001.qj"])
def test_a_missing_file_is_corruption(name: str) -> None:
    """
    A file that is gone is refused by name.
    """
    contents, _ = history()
    del contents[name]
    with pytest.raises(JournalCorrupt, match=re.escape(name)):
        find(contents)


def test_segments_of_another_journal_are_refused() -> None:
    """
    Files copied in from another directory are noticed by its uuid.
    """
    contents, _ = history()
    contents["FORMAT"] = b"queuectl-state 1 " + b"ab" * 16 + b"\n"
    with pytest.raises(JournalCorrupt, match="another journal"):
        find(contents)


def test_files_from_the_future_are_refused() -> None:
    """
    Unknown formats and features are refused, with the way out, and nothing is changed.
    """
    contents, _ = history()
    uuid = contents["FORMAT"].split()[-1]
    header = unpack_header(contents[LAST], SEGMENT_MAGIC)
    unreadable = header._replace(incompatible_bits=1).pack() + contents[LAST][160:]
    futures = {"FORMAT": b"queuectl-state 2 " + uuid + b"\n", LAST: unreadable}
    for name, content in futures.items():
        disk = MemoryFiles.holding(contents | {name: content})
        with pytest.raises(JournalTooNew, match="version"):
            read_back("/state", disk)
        assert contents | {name: content} == disk.contents()


def test_read_only_features_allow_no_writing() -> None:
    """
    A feature that only readers may ignore keeps the daemon from opening.
    """
    disk = MemoryFiles.holding({})
    make_journal("/state", disk).open(lambda _: None)
    contents = disk.contents()
    name = "seg-0000000000000001.qj"
    header = unpack_header(contents[name], SEGMENT_MAGIC)._replace(readonly_bits=2)
    with pytest.raises(JournalTooNew, match="features 0x2"):
        find(contents | {name: header.pack() + contents[name][160:]})


def test_recovered_tells_what_happened() -> None:
    """
    Clean, torn and sealed ends are told apart, and each start has the next epoch.
    """
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk)
    first = journal.open(lambda _: None)
    assert (first.epoch, first.clean, first.record_count) == (1, True, 0)
    journal.commit(pack(BATCHES[1]))
    journal.close()

    recovered = make_journal("/state", disk).open(lambda _: None)
    assert (
        recovered.epoch,
        recovered.clean,
        recovered.record_count,
        recovered.torn_bytes,
    ) == (2, True, 2, 0)
    disk.restart(power_lost=False)

    journal = make_journal("/state", disk)
    assert not journal.open(lambda _: None).clean
    journal.commit(pack(BATCHES[2]))
    disk.restart(power_lost=False)
    tail = disk.names["seg-0000000000000003.qj"].cache
    tail[300:305] = b"trash"

    recovered = make_journal("/state", disk).open(lambda _: None)
    assert (
        recovered.epoch,
        recovered.record_count,
        recovered.torn_bytes,
        recovered.clean,
    ) == (4, 3, 305 - 232, False)
    assert "73 bytes" in recovered.notes[0]


def test_an_unsealed_tail_is_copied_and_a_sealed_one_is_not() -> None:
    """
    Records that no seal vouches for move to a new file; the old one is not trusted.
    """
    for seal in (False, True):
        contents, ends = history(seal=seal)
        disk = MemoryFiles.holding(contents)
        before = disk.names[LAST]
        assert read_back("/state", disk) == RECORDS
        assert seal == (disk.names[LAST] is before)
        size_bytes = ends[-1] + (48 if seal else 0)
        assert contents[LAST][:size_bytes] == bytes(disk.names[LAST].cache)


def test_names_are_durable_before_they_are_built_upon() -> None:
    """
    A segment whose name only the page cache knows is not left behind by its successor.
    """
    disk = MemoryFiles.holding({})
    journal = make_journal("/state", disk)
    journal.open(lambda _: None)
    journal.commit(pack(BATCHES[0]))
    rotating = (disk, journal)
    for step in range(1, 20):
        disk, journal = copy.deepcopy(rotating)
        disk.cut_at = disk.change_count + step
        with pytest.raises(PowerCutError):
            journal.rotate()
        if LAST in disk.names:
            break
    disk.restart(power_lost=False)
    assert LAST not in disk.durable_names
    for cut_at in range(1, 30):
        unlucky = copy.deepcopy(disk)
        unlucky.cut_at = cut_at
        with contextlib.suppress(PowerCutError):
            make_journal("/state", unlucky).open(lambda _: None)
        unlucky.restart(power_lost=True, names="last")
        assert BATCHES[0] == read_back("/state", unlucky), cut_at


def test_set_up_interrupted_at_any_call() -> None:
    """
    A first start that was cut off anywhere can be started again.
    """
    for cut_at in range(1, 40):
        disk = MemoryFiles.holding({})
        disk.cut_at = cut_at
        try:
            make_journal("/state", disk).open(lambda _: None)
            finished = True
        except BaseException:
            finished = False
        disk.restart(power_lost=cut_at % 2 == 0)
        assert read_back("/state", disk) == []
        if finished:
            return
    raise AssertionError("never finished")
