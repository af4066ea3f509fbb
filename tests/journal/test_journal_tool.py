"""
verify tells clean, torn and corrupt apart; repair cuts before the damage and keeps a copy.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from journal_twins import make_journal, pack, read_back, record

from queuectld.journal.directory import segment_name, snapshot_name
from queuectld.journal.errors import JournalCorrupt
from queuectld.journal.frames import Record
from queuectld.journal.journal import Journal
from queuectld.journal.tool import main, verify

HISTORY = [record(key, b"command %d" % key * 3) for key in range(12)]
ROOT = Path(__file__).parents[2]


def make_state(path: Path) -> Journal:
    """Four segments of three batches, the last one open."""
    journal = make_journal(path)
    journal.open(lambda _: None)
    for index, r in enumerate(HISTORY):
        if index and index % 3 == 0:
            journal.rotate()
        journal.commit(pack([r]))
    return journal


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_verify_clean_and_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A good directory is clean, also beside the process that has it open; nothing is changed.
    """
    journal = make_state(tmp_path / "j")
    before = {file.name: file.read_bytes() for file in (tmp_path / "j").iterdir()}

    assert 0 == main(["verify", str(tmp_path / "j")])
    said = capsys.readouterr().out
    assert "clean: epoch 1, last batch 12, live records 12, segments 4, snapshots 0\n" == said
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "j").iterdir()}
    journal.close()


def test_verify_beside_a_busy_writer(tmp_path: Path) -> None:
    """
    A writer in full flight is never mistaken for damage.
    """
    path = tmp_path / "j"
    make_journal(path).open(lambda _: None)
    script = (
        "import sys, time; sys.path[:0] = sys.argv[1:3]\n"
        "from journal_twins import make_journal, pack, record\n"
        "journal = make_journal(sys.argv[3], segment_bytes=1 << 16, runway_bytes=1 << 14)\n"
        "journal.open(lambda _: None)\n"
        "print(flush=True)\n"
        "while True: journal.commit(pack([record(1, bytes(3000))] * 3))\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT), str(Path(__file__).parent), str(path)],
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(15):
            report = verify(str(path))
            assert "corrupt" != report.state, report.problems
    finally:
        writer.kill()
        writer.communicate()


def test_verify_torn_tail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A torn tail is status 1 and says how many bytes.
    """
    journal = make_state(tmp_path / "j")
    with open(tmp_path / "j" / segment_name(4), "r+b") as file:
        file.seek(160 + 3 * 96 + 10)
        file.write(b"torn")
    journal._release()

    assert 1 == main(["verify", str(tmp_path / "j"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert ("torn", 14, 12) == (report["state"], report["torn_bytes"], report["last_batch_seq"])


def test_verify_corrupt_in_either_generation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Damage is status 65, also in what only the older generation would need.
    """
    journal = make_state(tmp_path / "j")
    subprocess.run(journal.snapshot_command(), check=True)
    journal.finish_snapshot()
    journal.close()
    assert 0 == main(["verify", str(tmp_path / "j")])
    flip(tmp_path / "j" / segment_name(2), 200)

    assert 65 == main(["verify", str(tmp_path / "j")])
    assert f"{segment_name(2)} is damaged at byte 160" in capsys.readouterr().out
    assert HISTORY == read_back(tmp_path / "j")


def test_verify_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A directory that is not there, or not a journal, is not clean.
    """
    assert 74 == main(["verify", str(tmp_path / "missing")])
    assert 65 == main(["verify", str(tmp_path)])
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("segment", [1, 2, 3, 4])
@pytest.mark.parametrize("place", ["header", "first", "second", "missing"])
def test_repair_cuts_before_the_damage(tmp_path: Path, segment: int, place: str) -> None:
    """
    Everything before the damage stays, everything else is in the copy, and it starts again.
    """
    path = tmp_path / "j"
    make_state(path)._release()
    file = path / segment_name(segment)
    kept = 3 * (segment - 1)
    if place == "missing":
        file.unlink()
    else:
        flip(file, {"header": 40, "first": 170, "second": 160 + 96 + 10}[place])
        kept += place == "second"
    if (segment, place) == (4, "missing"):
        # Nothing tells of a segment that nothing follows; the directory sync prevents it.
        assert HISTORY[:9] == read_back(path)
        return
    with pytest.raises(JournalCorrupt):
        read_back(path)
    before = {entry.name: entry.read_bytes() for entry in path.iterdir()}

    assert 0 == main(["repair", str(path), "--truncate"])
    assert before == {entry.name: entry.read_bytes() for entry in path.iterdir()}
    assert 0 == main(["repair", str(path), "--truncate", "--yes"])

    (copy,) = (path / "broken").iterdir()
    assert before == {entry.name: entry.read_bytes() for entry in copy.iterdir()}
    assert 0 == main(["verify", str(path)])
    found: list[Record] = []
    journal = make_journal(path)
    recovered = journal.open(found.append)
    journal.close()
    assert HISTORY[:kept] == found
    # Each segment that went may have been a start of its own.
    last = segment if place == "second" or place == "first" else segment - 1
    assert recovered.epoch == min(last, 1) + max(1, 4 - last) + 1


def test_repair_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The keys behind the damage are named as far as they can be read.
    """
    make_state(tmp_path / "j")._release()
    flip(tmp_path / "j" / segment_name(3), 160 + 96 + 60)

    assert 0 == main(["repair", str(tmp_path / "j"), "--truncate"])
    out = capsys.readouterr().out
    assert "Kept: everything up to batch 7." in out
    assert "5 batches with 5 records" in out
    assert "Keys of the lost records: 8, 9, 10, 11." in out
    assert "Removed: segments 4." in out
    assert "Nothing was changed. Repeat with --yes" in out


def test_repair_behind_a_snapshot(tmp_path: Path) -> None:
    """
    When the first segment after a snapshot is useless, the snapshot is what stays.
    """
    path = tmp_path / "j"
    journal = make_state(path)
    journal.rotate()
    for _ in range(2):
        subprocess.run(journal.snapshot_command(), check=True)
        journal.finish_snapshot()
        journal.commit(pack([record(99)]))
        journal.rotate()
    journal._release()
    flip(path / segment_name(6), 3)

    assert 0 == main(["repair", str(path), "--truncate", "--yes"])
    assert [*HISTORY, record(99)] == read_back(path)


def test_repair_leaves_alone_what_it_cannot_or_need_not_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A sound or a busy directory is not touched; damage outside segments needs a backup.
    """
    path = tmp_path / "j"
    journal = make_state(path)
    assert 65 == main(["repair", str(path), "--truncate", "--yes"])
    assert "in use" in capsys.readouterr().err
    journal.close()
    assert 0 == main(["repair", str(path), "--truncate", "--yes"])
    assert "nothing to repair" in capsys.readouterr().out
    os.truncate(path / "FORMAT", 3)
    assert 65 == main(["repair", str(path), "--truncate", "--yes"])
    assert "FORMAT" in capsys.readouterr().err
    assert 74 == main(["repair", str(tmp_path / "missing"), "--truncate", "--yes"])
    assert not (path / "broken").exists()


def test_the_tool_runs_as_a_module(tmp_path: Path) -> None:
    """
    python -m queuectld.journal.tool is how operators call it.
    """
    make_state(tmp_path / "j").close()
    done = subprocess.run(
        [sys.executable, "-m", "queuectld.journal.tool", "verify", str(tmp_path / "j")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert snapshot_name(1) not in done.stdout
