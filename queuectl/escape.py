r"""
Text of strangers made safe for a terminal and for one line of a table.

A job's command may hold escape sequences that rewrite the screen, and characters that reverse the
reading order. What Unicode does not call printable is shown as an escape: `\n`, `\x1b`,
`\u202e`.
"""


def printable(text: str) -> str:
    """
    Return *text* with every character that is not printable as an escape.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that was not UTF-8, as os.fsdecode() keeps it.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
