"""
`help`: what commands there are, and what one of them takes, from the definitions they are run by.
"""

import sys
from textwrap import wrap

from queuectl.cli import ALIASES, MODULES, find_command, load
from queuectl.errors import EXIT_DONE, UsageError
from queuectl.options import Arguments, Command, Option
from queuectl.session import GLOBAL_OPTIONS, Session

_INDENT = 28
_WIDTH = 80


def show_help(_session: Session, arguments: Arguments) -> int:
    """
    Print the overview, a group's commands, or one command's help.
    """
    words = arguments.operands
    if not words:
        sys.stdout.write(overview())
        return EXIT_DONE
    words = [ALIASES.get(words[0], words[0]), *words[1:]]
    commands = load(words[0]) if words[0] in MODULES else ()
    group = [each for each in commands if list(each.words[: len(words)]) == words]
    if len(group) > 1 and all(len(each.words) > len(words) for each in group):
        sys.stdout.write("".join(f"queuectl {usage(each)}\n    {each.summary}\n" for each in group))
        return EXIT_DONE
    command, rest = find_command(words)
    if rest:
        raise UsageError(f"help: unknown command {' '.join(words)!r}; see `queuectl help`")
    sys.stdout.write(describe(command))
    return EXIT_DONE


def all_commands() -> list[Command]:
    """
    Return every command, in the order of the overview.
    """
    return [each for name in MODULES for each in load(name) if each.words[0] == name]


def overview() -> str:
    """
    Return the list of all commands.
    """
    lines = ["queuectl: a durable queue for shell commands", "", "Commands:"]
    lines += [_row(command.name, command.summary) for command in all_commands()]
    lines += ["", "Options of every command:"]
    lines += [_option_row(option) for option in GLOBAL_OPTIONS]
    lines += ["", "`queuectl help COMMAND` says more. Without a command: status.", ""]
    return "\n".join(lines)


def usage(command: Command) -> str:
    """
    Return how *command* is written, without the program's name.
    """
    options = "[OPTIONS]" if command.options else ""
    return " ".join(part for part in (command.name, options, command.operands) if part)


def describe(command: Command) -> str:
    """
    Return the help of one command.
    """
    lines = [f"Usage: queuectl {usage(command)}", "", f"{command.summary.capitalize()}."]
    if command.details:
        lines += ["", *wrap(command.details, _WIDTH)]
    if command.options:
        lines += ["", "Options:"] + [_option_row(option) for option in command.options]
    lines += ["", "Options of every command:"]
    lines += [_option_row(option) for option in GLOBAL_OPTIONS]
    if command.examples:
        lines += ["", "Examples:"] + [f"  {example}" for example in command.examples]
    return "\n".join(lines) + "\n"


def _option_row(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    value = f" {option.value}" if option.value else ""
    choices = f": {', '.join(option.choices)}" if option.choices else ""
    return _row(f"{short}--{option.name}{value}", option.help + choices)


def _row(name: str, text: str) -> str:
    first, *others = wrap(text, _WIDTH - _INDENT)
    lead = f"  {name}".ljust(_INDENT - 1)
    if len(lead) >= _INDENT:
        lead, others = f"{lead.rstrip()}\n{' ' * (_INDENT - 1)}", others
    return "\n".join([f"{lead} {first}", *(" " * _INDENT + other for other in others)])


COMMANDS = (
    Command(
        ("help",),
        "say what commands there are, or what one takes",
        show_help,
        operands="[COMMAND...]",
        operands_max=None,
    ),
)
