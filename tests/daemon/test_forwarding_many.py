"""
Many jobs whose output goes to the system's journal: what all of them together cost the daemon.
"""

import os

import pytest
from forwarding_bench import Away, Bench, Roomy

from queuectld.runtime import forwarding
from queuectld.runtime.forwarding import LINES_MAX, WARNINGS_MAX


def test_many_that_have_ended_cost_a_turn_no_more_than_one(bench: Bench) -> None:
    """
    Where all lines of a turn are spent no other file is looked at, and those that wait hold no
    descriptor. All of it is sent in the end.
    """
    journal = Roomy()
    bench.begin(journal)
    line_count = 2 * LINES_MAX
    descriptor_count = len(os.listdir("/proc/self/fd"))
    for number in range(1, 21):
        bench.start(number)
        bench.write(number, b"\n" * line_count)
        bench.end(number)
        os.close(bench.fds.pop(number))
    assert descriptor_count == len(os.listdir("/proc/self/fd"))
    while bench.forwarding.next_deadline() is not None:
        before = bench.output.opened_count
        bench.turn()
        assert bench.output.opened_count - before <= 2  # The last of one, then another.
    assert 20 * line_count == len(journal.messages)
    assert not bench.log.told


def test_a_journal_that_takes_nothing_is_asked_once_a_turn(bench: Bench) -> None:
    """
    And it is enough to know that of one job.
    """
    bench.begin(Away())
    for number in range(1, 6):
        bench.start(number)
        bench.write(number, b"line\n")
        bench.end(number)
    before = bench.output.opened_count
    bench.turn()
    assert 1 == bench.output.opened_count - before


def test_so_many_that_have_ended_are_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Of more, the one that ended first is let go of, and what is left of it is told.
    """
    monkeypatch.setattr(forwarding, "ENDED_MAX", 3)
    journal = Roomy()
    bench.begin(Away())
    for number in range(1, 6):
        bench.start(number)
        bench.write(number, b"line\n")
        bench.end(number)
    assert [(1, 5), (2, 5)] == [(told["job"], told["skipped_bytes"]) for told in bench.log.told]
    bench.forwarding._journal = journal
    bench.turn()
    assert [b"line"] * 3 == journal.messages
    assert bench.forwarding.next_deadline() is None


def test_a_mark_that_is_no_offset(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In user mode a job may write the mark too: whatever it is, the output is sent.
    """
    journal = Roomy()
    for number, mark in enumerate((b"-1", b"x", b"9" * 5_000), 1):
        bench.start(number)
        bench.write(number, b"line\n")
        with monkeypatch.context() as marked:
            marked.setattr(os, "getxattr", lambda *_, mark=mark: mark)
            bench.begin(journal)
            bench.turn()
        assert number * [b"line"] == journal.messages
        bench.end(number)


def test_warnings_about_many_are_summed_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    So that nobody can fill the journal's allowance with them. All bytes are told of.
    """
    monkeypatch.setattr(forwarding, "ENDED_MAX", 0)
    bench.begin(Away())
    for number in range(1, WARNINGS_MAX + 4):
        bench.start(number)
        bench.write(number, b"line\n")
        bench.end(number)
    assert WARNINGS_MAX == len(bench.log.told)
    assert not bench.log.sums
    bench.turn()
    assert [{"count": 3, "skipped_bytes": 15}] == bench.log.sums
    assert bench.forwarding.next_deadline() is None
