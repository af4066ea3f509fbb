"""
Commands and their options as data, and the parser that reads a command line by them.

One definition serves parsing, help, and whatever else is made of it (manual pages, completions).
The rules are getopt's: `--name value`, `--name=value`, `-n value`, `-nvalue`, short flags together
(`-qf`), options and operands in any order, `-5` is a number, and `--` ends the options. Names are
never abbreviated: a script that relied on it would break with the next option. Errors are one line.
"""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from queuectl.errors import UsageError, suggestion


class Option(Struct, frozen=True):
    """
    An option. `value` is the word for its value in help; None makes it a flag.
    """

    name: str  # without the dashes: "max-retries"
    help: str
    value: str | None = None
    short: str | None = None  # one letter
    repeat: bool = False  # may be given several times
    choices: tuple[str, ...] = ()


class Command(Struct, frozen=True):
    """
    A command: its words (`worker start`), what it takes, and the function that carries it out.

    `operands` is how help shows them and `operands_min`/`operands_max` how many there may be (None:
    any number). With `takes_argv`, what follows `--` is kept apart, exactly as it was typed.
    """

    words: tuple[str, ...]
    summary: str
    run: Callable[[Any, "Arguments"], int]
    operands: str = ""
    operands_min: int = 0
    operands_max: int | None = 0
    takes_argv: bool = False
    options: tuple[Option, ...] = ()
    details: str = ""
    examples: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """
        The command as it is typed, without the program's name.
        """
        return " ".join(self.words)


class Arguments:
    """
    What a command line said: options by name, operands, and what came after `--`.
    """

    def __init__(self) -> None:
        self.operands: list[str] = []
        #: What follows `--`; None if there was no `--`.
        self.argv: list[str] | None = None
        self._given: dict[str, list[str]] = {}

    def flag(self, name: str) -> bool:
        """
        Return whether the flag was given.
        """
        return name in self._given

    def value(self, name: str) -> str | None:
        """
        Return the option's value, or None if it was not given.
        """
        return self._given[name][-1] if name in self._given else None

    def values(self, name: str) -> list[str]:
        """
        Return all values of an option that may be repeated.
        """
        return self._given.get(name, [])

    def count(self, name: str) -> int | None:
        """
        Return the option's value as a whole number. Raises UsageError.
        """
        text = self.value(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"--{name}: must be a whole number of 0 or more; got {text!r}")
        return int(text)

    def take(self, option: Option, value: str) -> None:
        """
        Record that *option* was given. Raises UsageError.
        """
        if option.choices and value not in option.choices:
            raise UsageError(
                f"--{option.name}: must be one of {', '.join(option.choices)}; got {value!r}"
            )
        if option.name in self._given and option.value is not None and not option.repeat:
            raise UsageError(f"--{option.name}: given twice")
        self._given.setdefault(option.name, []).append(value)

    def update(self, other: "Arguments") -> None:
        """
        Add the options of *other*, which came later on the command line.
        """
        for name, values in other._given.items():  # noqa: SLF001  Its own kind.
            self._given.setdefault(name, []).extend(values)


def parse(words: list[str], options: Iterable[Option], stop_early: bool = False) -> Arguments:
    """
    Return what *words* say. With *stop_early*, all from the first operand on is operands.

    Raises UsageError.
    """
    long = {option.name: option for option in options}
    short = {option.short: option for option in long.values() if option.short}
    found = Arguments()
    left = list(reversed(words))
    while left:
        word = left.pop()
        if word == "--" and not stop_early:
            found.argv = left[::-1]
            break
        if word.startswith("--") and len(word) > 2:
            _take_long(word, long, left, found)
        elif word.startswith("-") and len(word) > 1 and word != "--" and not word[1].isdigit():
            _take_short(word, short, left, found)
        else:
            found.operands.append(word)
            if stop_early:
                found.operands += left[::-1]
                break
    return found


def _take_long(word: str, long: dict[str, Option], left: list[str], found: Arguments) -> None:
    name, equals, value = word[2:].partition("=")
    option = long.get(name)
    if option is None:
        raise UsageError(f"unknown option --{name}{suggestion(name, long, '--')}")
    if option.value is None:
        if equals:
            raise UsageError(f"--{name}: takes no value")
    elif not equals:
        value = _next_value(f"--{name}", option, left)
    found.take(option, value)


def _take_short(word: str, short: dict[str, Option], left: list[str], found: Arguments) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = short.get(letter)
        if option is None:
            raise UsageError(f"unknown option -{letter}")
        value = ""
        if option.value is not None:
            value = letters or _next_value(f"-{letter}", option, left)
            letters = ""
        found.take(option, value)


def _next_value(shown: str, option: Option, left: list[str]) -> str:
    if not left:
        raise UsageError(f"{shown}: needs a value ({option.value})")
    return left.pop()
