"""
Requirements on `queuectl journal`: it reads the files, asks no daemon, and says what it found.
"""

import os

from conftest import Shell


def test_verify_a_journal(fresh: Shell) -> None:
    """
    Clean after a stop; also beside a running daemon, and by either directory.
    """
    fresh.ok("enqueue", "true")
    directory = f"{fresh.directory}/state"
    assert fresh("journal", "verify", directory).out.startswith(("clean", "torn"))
    fresh.daemon.stop()
    for each in (directory, f"{directory}/journal"):
        outcome = fresh("journal", "verify", each, "--json")
        assert outcome.code == 0, outcome
        assert outcome.json["state"] == "clean"
        assert outcome.json["problems"] == []


def test_damage_is_named_and_can_be_cut_off(fresh: Shell) -> None:
    """
    A flipped byte in what was acknowledged: verify says so, repair without --yes changes nothing,
    with --yes it makes the journal readable again and keeps a copy.
    """
    for number in range(20):
        fresh.ok("enqueue", f"true {number}")
    fresh.daemon.stop()
    journal = f"{fresh.directory}/state/journal"
    (segment,) = [name for name in os.listdir(journal) if name.startswith("seg-")]
    with open(f"{journal}/{segment}", "r+b") as file:
        file.seek(600)
        byte = file.read(1)
        file.seek(600)
        file.write(bytes([byte[0] ^ 1]))

    assert fresh("journal", "verify", journal).code == 65
    assert fresh("journal", "repair", journal).code == 2
    outcome = fresh("journal", "repair", journal, "--truncate")
    assert "Nothing was changed" in outcome.out
    assert fresh("journal", "verify", journal).code == 65
    assert fresh("journal", "repair", journal, "--truncate", "--yes").code == 0
    assert fresh("journal", "verify", journal).code == 0
    assert os.listdir(f"{journal}/broken")
