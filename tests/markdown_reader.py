"""
Reads the project's own documents: headings, tables, fenced blocks, links.

Only the Markdown that they are written in: headings with `#`, pipe tables without escaped pipes,
fences of three backticks. Text in a fence is text of its section but never a heading or a table.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

_HEADING = re.compile(r"(#+) (.+)")
_FENCE = re.compile(r"```(.*)")
_RULE_ROW = re.compile(r"\|(?:-+\|)+")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """
    A fenced block: what stands behind its opening fence, and its lines.
    """

    info: str
    text: str


class Section(NamedTuple):
    """
    What stands between one heading and the next, of whatever level.

    A table is a list of rows, the header first; a row is a list of cells.
    """

    title: str
    level: int
    prose: str
    tables: list[list[list[str]]]
    blocks: list[Block]


class Document:
    """
    One file. Section titles are without backticks.
    """

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.name = name
        self.text = self.path.read_text(encoding="utf-8")
        self.sections = list(_sections(self.text))

    def __repr__(self) -> str:
        return self.name

    def section(self, title: str) -> Section:
        """
        Return the one section of this title.
        """
        found = [each for each in self.sections if each.title == title]
        assert len(found) == 1, f"{self.name}: {len(found)} sections are called {title!r}"
        return found[0]

    def below(self, title: str) -> list[Section]:
        """
        Return the sections one level below the one of this title.
        """
        parent = self.section(title)
        found = []
        for each in self.sections[self.sections.index(parent) + 1 :]:
            if each.level <= parent.level:
                break
            if each.level == parent.level + 1:
                found.append(each)
        return found

    def table(self, title: str, number: int = 0) -> list[list[str]]:
        """
        Return the rows of a section's table, without its header.
        """
        return self.section(title).tables[number][1:]

    @property
    def anchors(self) -> list[str]:
        """
        What a link may name behind `#`, as the web shows headings.
        """
        return [anchor(each.title) for each in self.sections]

    @property
    def outside_fences(self) -> str:
        """
        All text but headings and what is fenced.
        """
        cells = [
            cell
            for section in self.sections
            for table in section.tables
            for row in table
            for cell in row
        ]
        return "\n".join([*(section.prose for section in self.sections), *cells])

    @property
    def links(self) -> list[str]:
        """
        The targets of all links outside fences.
        """
        return [target for _, target in _LINK.findall(self.outside_fences)]


def code_in(text: str) -> list[str]:
    """
    Return what stands in backticks.
    """
    return re.findall(r"`([^`]+)`", text)


def plain(text: str) -> str:
    """
    Return *text* without backticks, links as their text.
    """
    return _LINK.sub(r"\1", text).replace("`", "")


def link_target(text: str) -> str | None:
    """
    Return the target of the link that *text* is, None if it is none.
    """
    found = _LINK.fullmatch(text)
    return found[2] if found else None


def anchor(title: str) -> str:
    """
    Return the anchor of a heading.
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _sections(text: str) -> Iterator[Section]:
    title, level = "", 0
    prose: list[str] = []
    tables: list[list[list[str]]] = []
    blocks: list[Block] = []
    fence: str | None = None
    fenced: list[str] = []
    before = ""
    for line in text.split("\n"):
        heading = _HEADING.fullmatch(line)
        opening = _FENCE.fullmatch(line)
        if fence is not None:
            if line == "```":
                blocks.append(Block(fence, "\n".join(fenced)))
                fence = None
            else:
                fenced.append(line)
        elif opening:
            fence, fenced = opening[1], []
        elif heading:
            if title:
                yield Section(title, level, "\n".join(prose), tables, blocks)
            title, level = plain(heading[2]), len(heading[1])
            prose, tables, blocks = [], [], []
        elif line.startswith("|"):
            row = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not before.startswith("|"):
                tables.append([row])
            elif not _RULE_ROW.fullmatch(line):
                tables[-1].append(row)
        else:
            prose.append(line)
        before = line
    assert fence is None, f"a fence is open at the end: {fence!r}"
    yield Section(title, level, "\n".join(prose), tables, blocks)
