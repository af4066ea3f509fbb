"""
Output that goes to the system's journal too: all of it, once, in order, and never too much.
"""

import errno
import os
import random

import pytest
from daemon_process import wait_until
from forwarding_bench import Bench, Roomy
from journal_twin import JournalTwin

from queuectld.runtime.forwarding import (
    BEHIND_BYTES_MAX,
    DRAIN_MS_MAX,
    LINE_BYTES_MAX,
    LINES_MAX,
    split_lines,
)
from queuectld.runtime.output import READ_BYTES_MAX, punch_hole

SEED = int(os.environ.get("QUEUECTL_SEED") or random.randrange(1 << 32))


def test_an_entry_has_the_jobs_fields(bench: Bench) -> None:
    """
    A line is an entry, under an identifier of its own, with whose job it is.
    """
    bench.start(1, name="nightly")
    bench.write(1, b"hello\n")
    bench.turn_until(lambda: bench.journal.entries)
    expected = {
        "SYSLOG_IDENTIFIER": b"queuectl-job",
        "PRIORITY": b"6",
        "QUEUECTL_JOB": b"nightly",
        "QUEUECTL_NUMBER": b"1",
        "QUEUECTL_ATTEMPT": b"1",
        "QUEUECTL_QUEUE": b"q",
        "QUEUECTL_USER": b"alice",
        "MESSAGE": b"hello",
    }
    assert [expected] == bench.journal.entries


def test_a_job_that_did_not_ask_is_not_followed(bench: Bench) -> None:
    """
    Nothing is looked at for it.
    """
    bench.start(1, output=None)
    bench.write(1, b"hello\n")
    assert bench.forwarding.next_deadline() is None
    bench.turn()
    bench.start(2)
    bench.write(2, b"yes\n")
    bench.turn_until(lambda: bench.journal.messages == [b"yes"])


def test_a_line_is_sent_when_it_is_whole(bench: Bench) -> None:
    """
    Or when the output ends. Then nothing is followed any more.
    """
    bench.start(1)
    bench.write(1, b"one\ntw")
    bench.turn_until(lambda: bench.journal.messages == [b"one"])
    bench.write(1, b"o\n\nthree")
    bench.turn_until(lambda: bench.journal.messages == [b"one", b"two", b""])
    bench.end(1)
    bench.turn_until(lambda: bench.journal.messages[3:] == [b"three"])
    assert bench.forwarding.next_deadline() is None
    assert [] == bench.log.told


def test_what_a_job_writes_makes_no_fields(bench: Bench) -> None:
    """
    Whatever bytes it writes are in MESSAGE and nowhere else.
    """
    bench.start(1)
    lines = [b"QUEUECTL_USER=root", b"MESSAGE", b"\x05" + b"\0" * 7, b"\xff\xfe\0", b"a\rb", b"=x"]
    bench.write(1, b"\n".join(lines) + b"\n")
    bench.turn_until(lambda: bench.journal.messages == lines)
    assert {b"alice"} == {entry["QUEUECTL_USER"] for entry in bench.journal.entries}


def test_lines_are_cut_but_nothing_is_lost() -> None:
    """
    Together the lines are what was written; none is too long; no character of UTF-8 is cut.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    for _ in range(50):
        text = "".join(chance.choice("aé€😀\n") * chance.randrange(3_000) for _ in range(8))
        data = text.encode() + chance.randbytes(chance.choice([0, 0, 20_000]))
        lines = split_lines(data, len(data), ends=True)
        assert data == b"".join(lines)
        assert all(
            0 < len(line.removesuffix(b"\n")) <= LINE_BYTES_MAX or line == b"\n" for line in lines
        )
        for line in split_lines(text.encode(), len(data), ends=False):
            line.decode()
    endless = b"\x80" * (3 * LINE_BYTES_MAX)
    assert [LINE_BYTES_MAX] * 2 == [len(line) for line in split_lines(endless, 9, ends=False)]
    assert [b"1\n", b"2\n"] == split_lines(b"1\n2\n3\n", 2, ends=True)


def test_an_endless_line_is_sent_in_pieces(bench: Bench) -> None:
    """
    It does not wait for a newline that may never come.
    """
    bench.start(1)
    bench.write(1, b"x" * (LINE_BYTES_MAX * 2 + 1))
    bench.turn_until(lambda: list(map(len, bench.journal.messages)) == [LINE_BYTES_MAX] * 2)


def test_a_flood_is_bounded_and_what_was_passed_over_is_told(bench: Bench) -> None:
    """
    A turn sends so much and no more; who is too far ahead loses the older part, counted to the
    byte; the newest lines come. Warnings are few.
    """
    journal = Roomy()
    bench.begin(journal)
    bench.start(1)
    line = b"y" * 999 + b"\n"
    written_bytes = before = 0
    for _ in range(12):
        bench.write(1, line * (BEHIND_BYTES_MAX // len(line)))
        written_bytes += BEHIND_BYTES_MAX // len(line) * len(line)
        bench.turn()
        assert 0 < len(journal.messages) - before <= READ_BYTES_MAX // len(line)
        before = len(journal.messages)
    assert 1 == len(bench.log.told)
    bench.write(1, b"last\n")
    bench.end(1)
    while bench.forwarding.next_deadline() is not None:
        bench.turn()
    assert b"last" == journal.messages[-1]
    sent_bytes = sum(len(message) + 1 for message in journal.messages)
    assert written_bytes + 5 == sent_bytes + bench.skipped_bytes
    assert 2 == len(bench.log.told)
    assert ("alice", 1) == (bench.log.told[0]["user"], bench.log.told[0]["attempt"])


def test_short_lines_are_bounded_too(bench: Bench) -> None:
    """
    It is entries that cost.
    """
    journal = Roomy()
    bench.begin(journal)
    for number in (1, 2):
        bench.start(number)
        bench.write(number, b"\n" * 5_000)
    for turn in range(1, 5):
        bench.turn()
        assert turn * LINES_MAX == len(journal.messages)
    bench.end(1)  # What may go at once at an end counts.
    assert turn * LINES_MAX == len(journal.messages)


def test_a_loud_job_does_not_silence_others(bench: Bench) -> None:
    """
    Who was served goes to the end: every other turn, at the least, is another's.
    """
    journal = Roomy()
    bench.begin(journal)
    bench.start(1)
    bench.start(2)
    bench.write(1, b"loud\n" * 20_000)
    for number in range(3):
        quiet = b"quiet %d" % number
        bench.write(2, quiet + b"\n")
        bench.turn()
        bench.turn()
        assert quiet in journal.messages


def test_the_last_lines_come_before_the_end_is_told(bench: Bench) -> None:
    """
    What a job wrote last is sent when its end is on disk, not some time later.
    """
    journal = Roomy()
    bench.begin(journal)
    bench.start(1)
    bench.write(1, b"one\ntwo")
    bench.end(1)
    assert [b"one", b"two"] == journal.messages
    assert bench.forwarding.next_deadline() is None


def test_a_job_that_has_ended_is_let_go_of(bench: Bench) -> None:
    """
    A journal that takes nothing is waited for, but not for ever: then the rest is told of.
    """
    bench.start(1)
    bench.write(1, b"first\n")
    bench.turn_until(lambda: bench.journal.messages)
    bench.journal.close()
    bench.write(1, b"second\n")
    bench.end(1)
    bench.turn()
    assert bench.forwarding.next_deadline() is not None
    bench.now += DRAIN_MS_MAX
    bench.turn()
    assert bench.forwarding.next_deadline() is None
    assert [7] == [told["skipped_bytes"] for told in bench.log.told]
    bench.journal = JournalTwin(bench.path)


def test_a_journal_that_is_busy_or_away_for_a_while_loses_nothing(bench: Bench) -> None:
    """
    What it does not take now, it gets later, once, in order.
    """
    bench.start(1)
    lines = [b"%d" % number for number in range(2_000)]
    bench.journal.stop()
    bench.write(1, b"".join(line + b"\n" for line in lines))
    for _ in range(20):
        bench.turn()
    bench.journal.start()
    bench.turn_until(lambda: bench.journal.messages == lines)
    bench.journal.close()
    bench.write(1, b"after\n")
    bench.turn()
    bench.journal = JournalTwin(bench.path).start()
    bench.turn_until(lambda: bench.journal.messages == [b"after"])


def test_the_next_daemon_goes_on(bench: Bench) -> None:
    """
    Stopped or killed, a daemon leaves at the file where it was; the next one sends what was written
    meanwhile, up to the end of an attempt that it finds running.
    """
    bench.start(1)
    bench.write(1, b"one\ntwo")
    bench.turn_until(lambda: bench.journal.messages == [b"one"])
    bench.begin()  # As if the one before had been killed.
    bench.write(1, b"!\nthree\n")
    bench.turn_until(lambda: bench.journal.messages == [b"one", b"two!", b"three"])
    bench.forwarding.stop(bench.now)
    bench.write(1, b"four\nfive")
    bench.begin()
    bench.end(1)
    bench.turn_until(lambda: bench.journal.messages[3:] == [b"four", b"five"])


def test_without_extended_attributes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The next daemon begins at the end of what it finds: rather a gap than all of it again.
    """

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    bench.start(1)
    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "getxattr", unsupported)
    bench.turn()
    bench.forwarding.stop(bench.now)
    bench.write(1, b"meanwhile\n")
    bench.begin()
    bench.turn()
    bench.write(1, b"then\n")
    bench.turn_until(lambda: bench.journal.messages == [b"then"])


def test_a_gap_that_the_output_limit_left(bench: Bench) -> None:
    """
    What is before it and after it is sent, not a line of zeros; what is gone is told.
    """
    bench.start(1)
    bench.write(1, b"begin" + b"-" * (256 << 10) + b"\nend\n")
    fd = os.open(bench.output.path(1, 1), os.O_RDWR)
    punch_hole(fd, 64 << 10, 128 << 10)
    os.close(fd)
    bench.end(1)
    bench.turn_until(lambda: bench.forwarding.next_deadline() is None)
    wait_until(lambda: bench.journal.messages[-1] == b"end")
    assert b"begin-" == bench.journal.messages[0][:6]
    assert not any(b"\0" in message for message in bench.journal.messages)
    assert 128 << 10 == bench.skipped_bytes
    sent = sum(map(len, bench.journal.messages))
    assert 5 + (128 << 10) + 3 == sent


def test_output_that_was_deleted_meanwhile(bench: Bench) -> None:
    """
    A job that was forgotten, and one whose file is not there, end nothing else.
    """
    bench.start(1)
    bench.write(1, b"one\n")
    bench.turn_until(lambda: bench.journal.messages == [b"one"])
    bench.write(1, b"two\n")
    bench.end(1)
    bench.output.delete(1, [1])
    bench.turn_until(lambda: bench.journal.messages == [b"one", b"two"])
    bench.start(2)
    bench.output.delete(2, [1])
    bench.end(2)
    bench.turn()
    assert bench.forwarding.next_deadline() is None


def test_a_file_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is tried again, and ends neither the daemon nor the other jobs' lines.
    """

    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    bench.start(1)
    bench.write(1, b"one\n")
    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", failing)
        bench.turn()
    bench.turn_until(lambda: bench.journal.messages == [b"one"])
