"""
Requirements on command lines: getopt's rules, nothing guessed, one line for each mistake.
"""

import re
from pathlib import Path
from typing import Any

import pytest

import queuectl
from queuectl.cli import find_command
from queuectl.commands.guide import all_commands
from queuectl.errors import UsageError
from queuectl.options import Arguments, Option, parse
from queuectl.session import GLOBAL_OPTIONS

OPTIONS = (
    Option("name", "", value="NAME", short="n"),
    Option("env", "", value="K=V", short="e", repeat=True),
    Option("quiet", "", short="q"),
    Option("follow", "", short="f"),
    Option("color", "", value="WHEN", choices=("auto", "never")),
)


def said(arguments: Arguments) -> dict[str, Any]:
    return {
        "name": arguments.value("name"),
        "env": arguments.values("env"),
        "quiet": arguments.flag("quiet"),
        "follow": arguments.flag("follow"),
        "operands": arguments.operands,
        "argv": arguments.argv,
    }


NOTHING = {"name": None, "env": [], "quiet": False, "follow": False, "operands": [], "argv": None}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("a b", {"operands": ["a", "b"]}),
        ("--name x", {"name": "x"}),
        ("--name=x=y", {"name": "x=y"}),
        ("--name=", {"name": ""}),
        ("-n x", {"name": "x"}),
        ("-nx", {"name": "x"}),
        ("-qf", {"quiet": True, "follow": True}),
        ("-qnx", {"quiet": True, "name": "x"}),
        ("-qn x", {"quiet": True, "name": "x"}),
        ("--name -5", {"name": "-5"}),
        ("a --quiet b", {"quiet": True, "operands": ["a", "b"]}),
        ("-q -q", {"quiet": True}),
        ("-e A=1 --env B=2", {"env": ["A=1", "B=2"]}),
        ("-", {"operands": ["-"]}),
        ("-5 -q", {"operands": ["-5"], "quiet": True}),
        ("--", {"argv": []}),
        ("a -- b -q -- c", {"operands": ["a"], "argv": ["b", "-q", "--", "c"]}),
    ],
)
def test_what_is_understood(line: str, expected: dict[str, Any]) -> None:
    """
    Long and short, joined and apart, in any order, up to `--`.
    """
    assert NOTHING | expected == said(parse(line.split(), OPTIONS))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--nane x", "unknown option --nane (did you mean --name?)"),
        ("--zzz", "unknown option --zzz"),
        ("--nam x", "unknown option --nam (did you mean --name?)"),
        ("-x", "unknown option -x"),
        ("-qx", "unknown option -x"),
        ("--name", "--name: needs a value (NAME)"),
        ("-n", "-n: needs a value (NAME)"),
        ("--quiet=yes", "--quiet: takes no value"),
        ("--name a --name b", "--name: given twice"),
        ("--color blue", "--color: must be one of auto, never; got 'blue'"),
    ],
)
def test_what_is_refused(line: str, expected: str) -> None:
    """
    No abbreviation, no guess: the option, what is wrong, the nearest known one.
    """
    with pytest.raises(UsageError) as caught:
        parse(line.split(), OPTIONS)
    assert expected == str(caught.value)


def test_numbers() -> None:
    """
    A count is digits.
    """
    assert parse(["--name", "12"], OPTIONS).count("name") == 12
    assert parse([], OPTIONS).count("name") is None
    for text in ("-1", "1.5", "x", "", "²"):
        with pytest.raises(UsageError, match="--name: must be a whole number of 0 or more; got"):
            parse(["--name", text], OPTIONS).count("name")


def test_stopping_early_leaves_the_rest_alone() -> None:
    """
    Options before the command are read without knowing the command's own.
    """
    found = parse(["-q", "list", "--unknown", "-q", "--", "x"], OPTIONS, stop_early=True)

    assert found.flag("quiet")
    assert found.operands == ["list", "--unknown", "-q", "--", "x"]


@pytest.mark.parametrize("command", all_commands(), ids=lambda each: each.name)
def test_definitions_do_not_clash(command: Any) -> None:
    """
    No command uses a name or letter twice, its own or one that all commands have.
    """
    options = (*command.options, *GLOBAL_OPTIONS)
    names = [option.name for option in options]
    letters = [option.short for option in options if option.short]

    assert len(names) == len(set(names))
    assert len(letters) == len(set(letters))
    assert all(option.help for option in options)
    assert command.summary
    assert command.operands_max is None or command.operands_min <= command.operands_max


def test_hints_can_be_typed() -> None:
    """
    What a message tells people to type is a command, and takes the option that stands next to it.
    """
    packages = Path(queuectl.__file__).parent.parent
    typed = {
        hint
        for name in ("queuectl", "queuectld")
        for path in (packages / name).rglob("*.py")
        for hint in re.findall(r"queuectl ([a-z]+(?: [a-z]+)?) --([a-z-]+)", path.read_text())
    }
    assert len(typed) >= 5
    for words, option in sorted(typed):
        command, rest = find_command(words.split())
        assert not rest, words
        names = [each.name for each in (*command.options, *GLOBAL_OPTIONS)]
        assert option in names, f"queuectl {words} --{option}"
