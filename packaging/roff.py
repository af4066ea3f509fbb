"""
Manual pages: man(7), written piece by piece or from the Markdown of docs/.

Text may hold `code`, **strong** and [links](…); each becomes what man(7) has for it. Of Markdown
the documents' own subset is read: headings, paragraphs, lists, tables, fenced code.
"""

import re
from collections.abc import Iterator

_INLINE = re.compile(r"(`+)(?P<code>.+?)\1|\*\*(?P<strong>.+?)\*\*|\[(?P<link>[^\]]+)\]\([^)]*\)")
_LIST_ITEM = re.compile(r"(?P<indent> *)(?P<mark>[-*]|\d+\.) +(?P<text>.*)")


class Page:
    """
    A manual page that is being written.
    """

    def __init__(self, title: str, section: int, version: str, date: str, manual: str) -> None:
        self.lines = [
            f'.TH "{escape(title.upper())}" "{section}" "{date}" "queuectl {version}" "{manual}"',
            # Words of commands are looked for and copied: never broken, never hyphenated.
            ".nh",
            ".ad l",
        ]

    def name(self, title: str, purpose: str) -> None:
        """
        Write the NAME section, which whatis(1) reads.
        """
        self.section("Name")
        self.lines.append(f"{escape(title)} \\- {escape(purpose)}")

    def section(self, heading: str) -> None:
        """
        Begin a section.
        """
        self.lines.append(f'.SH "{escape(heading.upper())}"')

    def subsection(self, heading: str) -> None:
        """
        Begin a section within a section.
        """
        self.lines.append(f'.SS "{escape(plain(heading))}"')

    def paragraph(self, text: str) -> None:
        """
        Write a paragraph.
        """
        self._begin_paragraph()
        self.lines.append(start_of_line(inline(text)))

    def item(self, head: str, text: str) -> None:
        """
        Write an item: what it is, and below it, indented, what it means.
        """
        self.lines += [".TP", start_of_line(inline(head)), start_of_line(inline(text) or "\\&")]

    def bullet(self, mark: str, text: str) -> None:
        """
        Write an item of a list.
        """
        sign = "\\(bu" if mark in "-*" else mark
        self.lines += [f'.IP "{sign}" 4', start_of_line(inline(text))]

    def code(self, lines: list[str]) -> None:
        """
        Write lines as they are.
        """
        self._begin_paragraph()
        self.lines += [".RS 4", ".nf"]
        self.lines += [start_of_line(escape(line)) or "\\&" for line in lines]
        self.lines += [".fi", ".RE"]

    def table(self, rows: list[list[str]]) -> None:
        """
        Write a table, its header first, as a list: cells may be long, and terminals narrow.
        """
        header, *body = rows
        for first, *others in body:
            named = zip(header[1:], others, strict=True)
            pairs = [(name, cell) for name, cell in named if cell]
            if len(header) == 2:
                self.item(first, others[0])
                continue
            self.item(first, "; ".join(f"{name}: {cell}" for name, cell in pairs))

    def markdown(self, text: str) -> None:
        """
        Write a document: its `##` become sections. What is before the first is left out.
        """
        parts = re.split(r"^## ", text, flags=re.MULTILINE)
        for part in parts[1:]:
            heading, _, rest = part.partition("\n")
            self.section(plain(heading))
            self.markdown_body(rest)

    def markdown_body(self, text: str) -> None:
        """
        Write what is below a heading.
        """
        for kind, lines in blocks(text):
            if kind == "heading":
                self.subsection(lines[0].lstrip("#").strip())
            elif kind == "code":
                self.code(lines)
            elif kind == "table":
                self.table([cells(line) for line in lines if not re.fullmatch(r"[|\s:-]+", line)])
            elif kind == "list":
                for mark, item in items(lines):
                    self.bullet(mark, item)
            else:
                self.paragraph(" ".join(line.strip() for line in lines))

    def _begin_paragraph(self) -> None:
        if not self.lines[-1].startswith((".SH", ".SS")):  # A heading begins one.
            self.lines.append(".PP")

    def text(self) -> str:
        """
        Return the page.
        """
        return "\n".join(self.lines) + "\n"


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """
    Yield the kind and the lines of each block of Markdown.
    """
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line, begin = lines[at], at
        if line.startswith("```"):
            at = lines.index("```", at + 1) + 1
            yield "code", lines[begin + 1 : at - 1]
            continue
        if not line.strip():
            at += 1
            continue
        kind = kind_of(line)
        at += 1
        if kind != "heading":
            while at < len(lines) and lines[at].strip() and continues(kind, lines[at]):
                at += 1
        yield kind, lines[begin:at]


def kind_of(line: str) -> str:
    """
    Return what begins with a line.
    """
    if line.startswith("#"):
        return "heading"
    if line.startswith("|"):
        return "table"
    return "list" if _LIST_ITEM.match(line) else "paragraph"


def continues(kind: str, line: str) -> bool:
    """
    Whether a line that is not blank belongs to the block before it.
    """
    if kind == "table":
        return line.startswith("|")
    if kind == "list":
        return bool(_LIST_ITEM.match(line)) or line.startswith(" ")
    return not line.startswith(("```", "#", "|"))


def items(lines: list[str]) -> Iterator[tuple[str, str]]:
    """
    Yield the mark and the text of each item of a list.
    """
    mark, text = "", ""
    for line in lines:
        found = _LIST_ITEM.match(line)
        if found is None:
            text += f" {line.strip()}"
            continue
        if mark:
            yield mark, text
        mark, text = found["mark"], found["text"]
    yield mark, text


def cells(line: str) -> list[str]:
    """
    Return the cells of a table's row.
    """
    inside = line.strip().removeprefix("|").removesuffix("|")
    return [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", inside)]


def plain(text: str) -> str:
    """
    Return text without its marks.
    """
    return _INLINE.sub(lambda found: found["code"] or found["strong"] or found["link"], text)


def inline(text: str) -> str:
    """
    Return text with what man(7) has for its marks, on one line.
    """
    parts, at = [], 0
    for found in _INLINE.finditer(text):
        parts.append(escape(text[at : found.start()]))
        if found["link"] is not None:
            parts.append(inline(found["link"]))
        else:
            parts.append(f"\\fB{escape(found['code'] or found['strong'])}\\fR")
        at = found.end()
    parts.append(escape(text[at:]))
    return "".join(parts).replace("\\fB\\fR", "")


def escape(text: str) -> str:
    """
    Return text in which no character means anything to roff.
    """
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    text = text.replace("~", "\\(ti")
    return "".join(each if each < "\x7f" else f"\\[u{ord(each):04X}]" for each in text)


def start_of_line(text: str) -> str:
    """
    Return a line that is no request, whatever it begins with.
    """
    return f"\\&{text}" if text.startswith((".", "'")) else text
