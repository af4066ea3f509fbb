"""
Requirements on what people see: on a terminal lines fit and states have colors, elsewhere nothing
is cut; nobody's text moves the cursor.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata

import pytest
from conftest import Shell

from queuectl.escape import printable
from queuectl.tables import brief, plain_table

LONG = "tar cz /srv/site | gpg --encrypt --recipient somebody@example.org > /backup/site.tgz.gpg"


def on_terminal(shell: Shell, columns: int, *words: str, **environment: str) -> str:
    """
    Run a command on a terminal of so many columns; return what it wrote there.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    with subprocess.Popen(
        shell.command(*words),
        env={**shell.environment, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        data = b""
        try:
            while chunk := os.read(ours, 4096):
                data += chunk
        except OSError:  # EIO: the last writer has gone.
            pass
    os.close(ours)
    return data.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def listed(shared: Shell) -> Shell:
    shared.ok("enqueue", "--hold", "--id", "long", LONG)
    shared.ok("enqueue", "--hold", "--id", "wide", "echo " + "漢字" * 40)
    done = shared.ok("enqueue", "--id", "done", "true")
    shared("wait", done)
    return shared


@pytest.mark.parametrize("columns", [60, 80, 132])
def test_lines_fit_the_terminal(listed: Shell, columns: int) -> None:
    """
    The last column is cut, ids are whole, wide characters count twice.
    """
    out = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(listed, columns, "list"))
    lines = out.splitlines()

    assert [line.split()[0] for line in lines] == ["ID", "done", "wide", "long"]
    for line in lines:
        assert sum(1 + (unicodedata.east_asian_width(c) == "W") for c in line) <= columns
    assert lines[3].endswith("…")


def test_colors_follow_the_rules(listed: Shell) -> None:
    """
    On a terminal, unless NO_COLOR, a dumb terminal or an option says no.
    """
    green = "\x1b[32mcompleted"
    assert green in on_terminal(listed, 80, "list")
    for words, environment in (
        (("list",), {"NO_COLOR": "1"}),
        (("list",), {"TERM": "dumb"}),
        (("list", "--no-color"), {}),
        (("list", "--color", "never"), {}),
    ):
        assert "\x1b[3" not in on_terminal(listed, 80, *words, **environment)
    assert green in listed.ok("list", "--color", "always")
    assert "\x1b" not in listed.ok("list")


def test_nothing_is_cut_elsewhere(listed: Shell) -> None:
    """
    In a pipe every column is whole.
    """
    assert LONG in listed.ok("list")
    assert LONG in listed("list", NO_COLOR="1", COLUMNS="20").out


def test_a_plain_table_is_aligned() -> None:
    """
    Columns are padded with two spaces between, and no space ends a line.
    """
    assert plain_table(("ID", "STATE"), [("1", "held"), ("job1", "")]) == [
        "ID    STATE",
        "1     held",
        "job1",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, 漢字 é 🎉", "plain text, 漢字 é 🎉"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x7f\x80\x9b", r"\x7f\x80\x9b"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\u2028\u200f\ufeff", r"\u2028\u200f\ufeff"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, expected: str) -> None:
    """
    C0, C1, deletion, direction, separators, stray bytes: shown, never sent.
    """
    assert expected == printable(text)


def test_every_control_character_is_escaped() -> None:
    """
    No character of Unicode's control and format categories passes.
    """
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert character not in printable(character)


@pytest.mark.parametrize(
    ("span_ms", "expected"),
    [(-5, "0s"), (999, "0s"), (59_999, "59s"), (60_000, "1m"), (7_200_000, "2h"), (10**9, "11d")],
)
def test_ages_are_brief(span_ms: int, expected: str) -> None:
    """
    One unit, never rounded up.
    """
    assert expected == brief(span_ms)
