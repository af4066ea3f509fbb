"""
The command line: find the command, read its options, run it, and turn what went wrong into one
line and an exit code.

A command's module is imported when the command is given, and no other: a shell loop that enqueues
a thousand jobs pays for every import a thousand times. For the same reason nothing here imports
more than the one command needs, and the process ends without taking itself apart.
"""

import os
import sys
from typing import TYPE_CHECKING

from queuectl.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_NOTHING,
    QueuectlError,
    UsageError,
    exit_code,
    suggestion,
)
from queuectl.escape import printable
from queuectl.options import Arguments, Command, parse
from queuectl.session import GLOBAL_OPTIONS, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Where each command is defined, in the order of the help. A group's module holds all of it.
MODULES = {
    "enqueue": "enqueue",
    "run": "run",
    "status": "status",
    "list": "jobs",
    "show": "jobs",
    "logs": "logs",
    "wait": "wait",
    "cancel": "act",
    "retry": "act",
    "hold": "act",
    "release": "act",
    "edit": "edit",
    "prune": "act",
    "dlq": "dlq",
    "worker": "workers",
    "queue": "queues",
    "config": "config",
    "web": "web",
    "daemon": "daemon",
    "doctor": "doctor",
    "completion": "completion",
    "journal": "journal",
    "version": "version",
    "help": "guide",
}
ALIASES = {"add": "enqueue", "ls": "list", "log": "logs", "workers": "worker", "queues": "queue"}


def main(argv: "Sequence[str] | None" = None) -> int:
    """
    Run one command line and return its exit code.

    Without *argv* it is the program: it takes the process's arguments and ends the process.
    """
    if argv is not None:
        return run(list(argv))
    code = run(sys.argv[1:])
    # Taking the interpreter apart costs a tenth of a short command, and the kernel does it anyway.
    # Both streams are flushed by now, or failed to.
    os._exit(code)


def run(words: list[str]) -> int:
    """
    Run the command line *words*, output flushed, and return the exit code. Raises nothing.
    """
    try:
        code = dispatch(words)
        sys.stdout.flush()
    except QueuectlError as error:
        code = exit_code(error.code)
        _say(str(error))
    except KeyboardInterrupt:
        code = exit_code("interrupted")
    except BrokenPipeError:
        # Whoever read our output has enough of it: head(1), a closed pager.
        _discard_stdout()
        code = EXIT_NOTHING
    except OSError as error:
        # A full disk under stdout, a file that cannot be read.
        _discard_stdout()
        code = EXIT_NOTHING
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # A bug: say where, for whoever reports it.
        code = EXIT_BUG
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        name = where.tb_frame.f_code.co_filename.rpartition("/")[2] if where else "?"
        line = where.tb_lineno if where else 0
        _say(f"this is a bug: {type(error).__name__}: {error} ({name} line {line})")
    return code


def dispatch(words: list[str]) -> int:
    """
    Find the command in *words* and run it. Raises QueuectlError, OSError, KeyboardInterrupt.
    """
    if words[:1] == ["--version"]:
        words = ["version", *words[1:]]
    leading = parse(words, GLOBAL_OPTIONS, stop_early=True)
    words = leading.operands
    if not words and leading.flag("help"):
        from queuectl.commands.guide import overview

        sys.stdout.write(overview())
        return EXIT_DONE
    command, words = find_command(words or ["status"])
    arguments = parse(words, (*command.options, *GLOBAL_OPTIONS))
    arguments.update(leading)
    if arguments.flag("help"):
        from queuectl.commands.guide import describe

        sys.stdout.write(describe(command))
        return EXIT_DONE
    _check_operands(command, arguments)
    return command.run(Session(arguments), arguments)


def find_command(words: list[str]) -> tuple[Command, list[str]]:
    """
    Return the command that *words* begin with, and the words after its name. Raises UsageError.
    """
    name = ALIASES.get(words[0], words[0])
    if name not in MODULES:
        hint = suggestion(name, [*MODULES, *ALIASES])
        raise UsageError(f"unknown command {name!r}{hint}; see `queuectl help`")
    found = [command for command in load(name) if command.words[0] == name]
    by_words = {command.words: command for command in found}
    words = [name, *words[1:]]
    count = count_words(words, by_words)
    # A single command may have others beside it: `logs ID`, `logs show ID`.
    command = by_words.get(tuple(words[:count]))
    if command is not None:
        return command, words[count:]
    group, rest = " ".join(words[:count]), words[count:]
    if rest and rest[0] in ("-h", "--help"):
        return find_command(["help", *words[:count], *rest[1:]])
    following = dict.fromkeys(
        each[count] for each in by_words if list(each[:count]) == words[:count]
    )
    wrong = f"unknown command {group} {rest[0]!r}" if rest else f"{group} what"
    raise UsageError(f"{wrong}: one of {', '.join(following)}; see `queuectl help {group}`")


def count_words(words: "Sequence[str]", names: "Iterable[tuple[str, ...]]") -> int:
    """
    Return how many of *words* belong to the name of a command, or of a group of them.
    """
    count = 0
    while count < len(words) and any(
        len(name) > count and name[: count + 1] == tuple(words[: count + 1]) for name in names
    ):
        count += 1
    return count


def load(name: str) -> tuple[Command, ...]:
    """
    Return the commands of the module that holds the command *name*.
    """
    from importlib import import_module

    module = import_module(f"queuectl.commands.{MODULES[name]}")
    commands: tuple[Command, ...] = module.COMMANDS
    return commands


def _check_operands(command: Command, arguments: Arguments) -> None:
    if arguments.argv is not None and not command.takes_argv:
        arguments.operands += arguments.argv
        arguments.argv = None
    count = len(arguments.operands)
    if count < command.operands_min:
        raise UsageError(
            f"{command.name}: needs {command.operands}; see `queuectl help {command.name}`"
        )
    if command.operands_max is not None and count > command.operands_max:
        extra = arguments.operands[command.operands_max]
        raise UsageError(
            f"{command.name}: does not take {extra!r}; see `queuectl help {command.name}`"
        )


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"queuectl: {printable(text)}\n")
        sys.stderr.flush()
    except OSError:
        pass  # Nobody to tell.


def _discard_stdout() -> None:
    # What is still in the buffer would raise again when the stream is flushed at exit.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
