"""
The manual pages: complete, and read without complaint by those who show them.
"""

import functools
import os
import subprocess
from datetime import date
from pathlib import Path

import pytest
from package_files import need

from queuectl.cli import MODULES
from queuectl.commands.guide import all_commands
from queuectl.session import GLOBAL_OPTIONS
from queuectl.settings import SETTINGS
from queuectld.configuration import OWN


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    from manpages import pages

    return pages("1.2.3", date(2020, 1, 31))


@pytest.fixture(scope="module")
def folder(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    for name, text in pages.items():
        (folder / name).write_text(text)
    return folder


@functools.cache
def shown(path: Path, width: int = 80) -> str:
    """
    Return what man(1) shows of a page.
    """
    done = subprocess.run(
        ["man", "--warnings", "-l", path],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": str(width), "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr), path.name
    return done.stdout


def test_there_is_a_page_for_everything(pages: dict[str, str]) -> None:
    """
    Every command has one, both daemons, the configuration and the protocol.
    """
    expected = {f"queuectl-{name}.1" for name in MODULES} | {
        "queuectl.1",
        "queuectld.8",
        "queuectl-runner.8",
        "queuectld.toml.5",
        "queuectl-protocol.7",
    }
    assert expected == set(pages)


def test_man_shows_them_without_a_warning(folder: Path) -> None:
    """
    groff has nothing to say, on a narrow terminal and a wide one.
    """
    need("man", "groff")
    for path in sorted(folder.iterdir()):
        for width in (60, 200):
            assert shown(path, width)


def test_mandoc_finds_no_fault(folder: Path) -> None:
    """
    The stricter reader of the two, which some distributions use.
    """
    need("mandoc")
    for path in sorted(folder.iterdir()):
        command = ["mandoc", "-T", "lint", "-W", "warning", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "" == done.stdout + done.stderr


def test_options_and_settings_are_all_there(folder: Path) -> None:
    """
    Each option is in its command's page, each setting in the configuration's.
    """
    need("man", "groff")
    for command in all_commands():
        text = shown(folder / f"queuectl-{command.words[0]}.1", 200)
        assert f"queuectl {command.name}" in text
        for option in (*command.options, *GLOBAL_OPTIONS):
            assert f"--{option.name}" in text, (command.name, option.name)
    text = shown(folder / "queuectld.toml.5", 200)
    assert not [key for key in (*SETTINGS, *OWN) if key not in text]


def test_whatis_finds_them(folder: Path) -> None:
    """
    Each page begins as man's index wants it.
    """
    need("lexgrog")
    for path in sorted(folder.iterdir()):
        said = subprocess.run(["lexgrog", path], capture_output=True, text=True, check=False)
        assert f'"{path.stem.partition(".1")[0]} - ' in said.stdout, said


def test_text_is_shown_as_it_is(tmp_path: Path) -> None:
    """
    Nothing that a text holds is taken for a request, and what is marked up loses only its marks.
    """
    need("man", "groff")
    from roff import Page

    page = Page("x", 7, "1", "2030-01-31", "Manual")
    page.name("x", "a purpose")
    page.markdown(
        "before\n\n## Head `one`\n\n.SH is no request\n\n'neither' is this\n\n"
        "A back\\slash, a `--dash`, **strong** and [a link](x.md#y).\n\n"
        "- an item\n  that goes on\n- another\n\n"
        "| a | b | c |\n|---|---|---|\n| 1 | x\\|y | 3 |\n\n"
        "```sh\n.PP in code\necho '\\n' \"q\" ~ ^ `x`\n\n# done\n```\n\nafter …\n"
    )
    path = tmp_path / "x.7"
    path.write_text(page.text())
    text = shown(path, 100)
    lines = [line.strip() for line in text.splitlines()]
    assert "HEAD ONE" in lines
    assert ".SH is no request" in lines
    assert "'neither' is this" in lines
    assert "A back\\slash, a --dash, strong and a link." in lines
    assert any("an item that goes on" in line for line in lines)
    assert any("b: x|y; c: 3" in line for line in lines)
    assert ".PP in code" in lines
    assert "echo '\\n' \"q\" ~ ^ `x`" in lines
    assert "after …" in lines
    assert "before" not in lines
