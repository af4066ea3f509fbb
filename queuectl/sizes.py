"""
Sizes as people write them: `1024`, `64K`, `256M`, `1.5G`, `2TiB`. Pure; inside, integer bytes.

The letters are powers of 1024, as in systemd and coreutils.
"""

import re

UNIT_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:([KMGTP])(?:iB)?)?")
_RULE = "must be a size in bytes such as 1048576, 64K, 256M or 1.5G"


def parse_size(text: str) -> int:
    """
    Return the bytes of *text*. Raises ValueError, whose text is the rule with examples.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(_RULE)
    number, unit = found.groups()
    if unit is None:
        if "." in number:
            raise ValueError(_RULE)
        return int(number)
    return round(float(number) * UNIT_BYTES[unit])


def format_size(size_bytes: int) -> str:
    """
    Return *size_bytes* exactly, in a form that parse_size() reads: `256M`, `1000`.
    """
    for letter, unit in reversed(UNIT_BYTES.items()):
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{letter}"
    return str(size_bytes)


def describe_size(size_bytes: int) -> str:
    """
    Return *size_bytes* for reading at a glance: `812 B`, `1.4 MiB`.
    """
    for letter, unit in reversed(UNIT_BYTES.items()):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {letter}iB"
    return f"{size_bytes} B"
