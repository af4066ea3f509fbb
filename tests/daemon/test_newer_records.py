"""
A journal that a newer release wrote: what this one goes on without, and what stops it.
"""

import time

import pytest
from daemon_process import DaemonProcess

from queuectl.tokens import CreateToken, TokenCreated
from queuectld.core.records import FORGET, KINDS, SKIPPABLE
from queuectld.journal.frames import pack_record
from queuectld.journal.journal import Journal
from queuectld.main import EXIT_CORRUPT

NEWER = max(KINDS) + 1
KEY = 1 << 60


def write(daemon: DaemonProcess, *records: bytes) -> None:
    """
    Write records into the journal of a daemon that does not run.
    """
    journal = Journal(
        f"{daemon.state_dir}/journal",
        now=lambda: time.time_ns() // 1_000_000,
        version="9.9",
        durability="always",
    )
    journal.open(lambda record: None)
    journal.commit(records)
    journal.close()


def records_of(daemon: DaemonProcess) -> list[tuple[int, bytes]]:
    """
    Return kind and body of the records of newer kinds that the journal holds.
    """
    found = []
    journal = Journal(f"{daemon.state_dir}/journal", now=lambda: 1, version="9.9")
    journal.open(lambda record: found.append((record.kind, record.body)))
    journal.close()
    return [each for each in found if each[0] >= NEWER]


@pytest.mark.parametrize("flags", [SKIPPABLE, SKIPPABLE | FORGET])
def test_what_is_flagged_is_gone_on_without(daemon: DaemonProcess, flags: int) -> None:
    """
    The daemon starts, knows all that it understands, and leaves the record for the newer release.
    """
    (job_id,) = daemon.enqueue("true", hold=True)
    daemon.stop()
    write(daemon, pack_record(NEWER, flags, 0, KEY, b"\x91\x01"))
    daemon.start()
    assert daemon.state(job_id) == "held"
    daemon.stop()
    assert [(NEWER, b"\x91\x01")] == records_of(daemon)


def test_what_is_not_flagged_stops_it(daemon: DaemonProcess) -> None:
    """
    It says in one line what it found and what to run, and changes nothing.
    """
    daemon.stop()
    write(daemon, pack_record(NEWER, 0, 0, KEY, b"\x91\x01"))
    said = daemon.launch()
    assert said.startswith(f"error: the journal has records of kind {NEWER}, which this queuectld")
    assert said.count("\n") <= 1
    assert daemon.wait() == EXIT_CORRUPT
    assert "Traceback" not in daemon.log


def test_tokens_are_flagged(daemon: DaemonProcess) -> None:
    """
    A release that knows no tokens can do without their records.
    """
    with daemon.client() as client:
        created = client.call(CreateToken(scopes=["read"]), TokenCreated)
    daemon.stop()
    flags = {}
    journal = Journal(f"{daemon.state_dir}/journal", now=lambda: 1, version="9.9")
    journal.open(lambda record: flags.setdefault(KINDS[record.kind].__name__, record.flags))
    journal.close()
    assert flags["TokenMade"] == SKIPPABLE, created.token.id
    assert not any(flag & SKIPPABLE for name, flag in flags.items() if name != "TokenMade")
