"""
Offline tools: look at a journal's directory, and cut off damage.

    python -m queuectld.journal.tool verify DIR [--json]
    python -m queuectld.journal.tool repair DIR --truncate [--yes]

verify only reads and takes no lock, so it may be used beside a running daemon; what moves
while it looks is looked at again. repair needs the daemon stopped.
"""

import argparse
import json
import os
import sys
import time
from typing import NamedTuple

from queuectld.journal.access import lock_directory
from queuectld.journal.directory import Directory, snapshot_name
from queuectld.journal.errors import JournalError
from queuectld.journal.files import Files
from queuectld.journal.recovery import History, read_history
from queuectld.journal.repair import Repair, apply_repair, plan_repair

EXIT_CLEAN = 0
EXIT_TORN = 1
EXIT_CORRUPT = 65
EXIT_FAILED = 74

# A running daemon may move a file, or be in the middle of a write, while we read.
ATTEMPTS_MAX = 5
KEYS_SHOWN_MAX = 50


class Report(NamedTuple):
    """
    The verdict on a directory: *state* is "clean", "torn" or "corrupt".
    """

    state: str
    exit_status: int
    epoch: int
    last_batch_seq: int
    record_count: int
    segment_count: int
    snapshots: list[str]
    torn_bytes: int
    problems: list[str]


def verify(path: str, files: Files | None = None) -> Report:
    """
    Read every byte that a start, or a start from the older generation, would read.

    Raises OSError if the directory cannot be read.
    """
    files = files or Files()
    fd = files.open_directory(path)
    try:
        directory = Directory(files, path, fd)
        report = _verify_once(directory)
        for _ in range(ATTEMPTS_MAX - 1):
            if report.state == "clean":
                break
            previous, report = report, _verify_once(directory)
            if previous == report:
                break
        return report
    finally:
        files.close(fd)


def _verify_once(directory: Directory) -> Report:
    listing = directory.listing()
    problems: list[str] = []
    history: History | None = None
    try:
        uuid = directory.read_format()
        history = read_history(directory, listing, uuid, lambda _: None)
        problems += map(str, history.broken_snapshots)
        if history.snapshot is not None:
            number = history.snapshot.header.number
            older = listing._replace(snapshots=[n for n in listing.snapshots if n < number])
            # After a start from the older generation there is only one for a while.
            if older.snapshots or 1 in older.segments:
                read_history(directory, older, uuid, lambda _: None)
    except (JournalError, FileNotFoundError) as error:
        problems.append(str(error))
    torn_bytes = 0 if history is None else history.tail.torn_bytes
    state = "corrupt" if problems else "torn" if torn_bytes else "clean"
    return Report(
        state,
        {"clean": EXIT_CLEAN, "torn": EXIT_TORN, "corrupt": EXIT_CORRUPT}[state],
        0 if history is None else history.last.epoch,
        0 if history is None else history.tail.end.batch_seq - 1,
        0 if history is None else history.record_count,
        len(listing.segments),
        [snapshot_name(number) for number in listing.snapshots],
        torn_bytes,
        problems,
    )


def repair(path: str, *, now: int, perform: bool, files: Files | None = None) -> list[str]:
    """
    Cut the journal off at its last good batch, or with *perform* false only say how.

    Returns the lines to print. Raises JournalError, OSError.
    """
    files = files or Files()
    # lock_directory() would make a missing directory, which is no repair.
    files.close(files.open_directory(path))
    directory = lock_directory(files, path)
    try:
        plan = plan_repair(directory, now, os.urandom(8))
        if plan is None:
            return [f"{path} is not damaged; there is nothing to repair."]
        lines = _describe(plan)
        if not perform:
            return [*lines, "Nothing was changed. Repeat with --yes to do this."]
        backup = _make_backup(directory, now)
        try:
            apply_repair(directory, plan, backup)
        finally:
            files.close(backup.fd)
        return [*lines, f"Done. The files as they were are in {backup.path}"]
    finally:
        files.close(directory.fd)


def _make_backup(directory: Directory, now: int) -> Directory:
    files = directory.files
    parent = directory.path_of("broken")
    if "broken" not in files.listdir(directory.fd):
        files.mkdir(parent)
    path = f"{parent}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now // 1000))}"
    files.mkdir(path)
    return Directory(files, path, files.open_directory(path))


def _describe(plan: Repair) -> list[str]:
    keys = ", ".join(map(str, plan.loss.keys[:KEYS_SHOWN_MAX]))
    more = len(plan.loss.keys) - KEYS_SHOWN_MAX
    lines = [
        str(plan.damage).partition(" Nothing was changed.")[0],
        f"Kept: everything up to batch {plan.end.batch_seq - 1}.",
        (
            f"Lost: what the damage hides, and behind it {plan.loss.batch_count} batches "
            f"with {plan.loss.record_count} records."
        ),
        f"Keys of the lost records: {keys or 'none can be read'}"
        + (f", and {more} more." if more > 0 else "."),
    ]
    if plan.dropped:
        lines.append(f"Removed: segments {', '.join(map(str, plan.dropped))}.")
    return lines


def main(arguments: list[str]) -> int:
    """
    Run one tool; returns the exit status: 0 clean, 1 torn tail, 65 corrupt, 74 unreadable.
    """
    parser = argparse.ArgumentParser(prog="queuectl journal")
    commands = parser.add_subparsers(dest="command", required=True)
    verifier = commands.add_parser("verify", help="check every byte, change nothing")
    verifier.add_argument("directory")
    verifier.add_argument("--json", action="store_true", help="print one JSON object")
    repairer = commands.add_parser("repair", help="cut the journal off before damage")
    repairer.add_argument("directory")
    repairer.add_argument("--truncate", action="store_true", required=True)
    repairer.add_argument("--yes", action="store_true", help="do it, not only say it")
    options = parser.parse_args(arguments)
    try:
        if options.command == "repair":
            now = time.time_ns() // 1_000_000
            lines = repair(options.directory, now=now, perform=options.yes)
            sys.stdout.write("\n".join(lines) + "\n")
            return 0
        report = verify(options.directory)
    except JournalError as error:
        sys.stderr.write(f"queuectl journal: {error}\n")
        return EXIT_CORRUPT
    except OSError as error:
        sys.stderr.write(f"queuectl journal: {options.directory}: {error}\n")
        return EXIT_FAILED
    if options.json:
        sys.stdout.write(json.dumps(report._asdict()) + "\n")
    else:
        _print_report(report)
    return report.exit_status


def _print_report(report: Report) -> None:
    sys.stdout.write(
        f"{report.state}: epoch {report.epoch}, last batch {report.last_batch_seq}, "
        f"live records {report.record_count}, segments {report.segment_count}, "
        f"snapshots {len(report.snapshots)}\n"
    )
    if report.torn_bytes:
        sys.stdout.write(
            f"torn tail: {report.torn_bytes} bytes behind the last good batch were never "
            "acknowledged; the next start ignores them\n"
        )
    for problem in report.problems:
        sys.stdout.write(f"problem: {problem}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
