"""
`journal`: check a journal on disk, and cut off damage. No daemon is asked: these read the files.

The tools live in the daemon's half of the program, which this half never imports: they are a
process of their own, and this one becomes it.
"""

import os
import sys
from typing import NoReturn

from queuectl.discovery import state_dir
from queuectl.errors import UsageError
from queuectl.options import Arguments, Command, Option
from queuectl.session import Session


def verify(session: Session, arguments: Arguments) -> int:
    """
    Read every byte that a start would read. Does not return.
    """
    session.refuse_host("journal verify", "reads files of this machine")
    become("verify", journal_of(arguments), *(["--json"] if session.structured else []))


def repair(session: Session, arguments: Arguments) -> int:
    """
    Cut the journal off before damage, or say what that would lose. Does not return.
    """
    session.refuse_host("journal repair", "changes files of this machine")
    if not arguments.flag("truncate"):
        raise UsageError(
            "journal repair: say --truncate: everything behind the damage is cut off; "
            "without --yes it only says what would be lost"
        )
    become("repair", journal_of(arguments), "--truncate", *(["--yes"] * arguments.flag("yes")))


def journal_of(arguments: Arguments) -> str:
    """
    Return the journal's directory: the one given, or the one in it, or the user's own.
    """
    directory = arguments.operands[0] if arguments.operands else state_dir()
    inner = os.path.join(directory, "journal")
    return inner if os.path.isdir(inner) else directory


def become(*words: str) -> NoReturn:
    """
    Replace this process by the journal's tool.
    """
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", "queuectld.journal.tool", *words]
    os.execv(sys.executable, command)


COMMANDS = (
    Command(
        ("journal", "verify"),
        "check a journal on disk",
        verify,
        operands="[DIR]",
        operands_max=1,
        details=(
            "DIR is a state directory or the journal in it; by default the user's own. Changes\n"
            "nothing and may be used beside a running daemon. Exit code 0: clean; 1: the last\n"
            "batch is torn, which a crash leaves behind and no reply ever confirmed; 65: damaged."
        ),
        examples=("queuectl journal verify",),
    ),
    Command(
        ("journal", "repair"),
        "cut a damaged journal off before the damage",
        repair,
        operands="[DIR]",
        operands_max=1,
        options=(
            Option("truncate", "cut off everything behind the damage"),
            Option("yes", "do it; without this, only say what would be lost"),
        ),
        details=("The daemon must be stopped. Every file is copied to DIR/broken first."),
        examples=("queuectl journal repair --truncate",),
    ),
)
