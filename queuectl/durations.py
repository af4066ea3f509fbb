"""
Spans of time as people write them: `90`, `90s`, `15m`, `1h30m`, `1.5s`, `200ms`, `1d`, `2w`.

Pure. Inside, a span is integer milliseconds. A bare number is seconds.
"""

import re

UNIT_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
#: Every unit at most once, the larger before the smaller: `30m1h` is more likely a slip.
_DURATION = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in UNIT_MS))
_RULE = "must be a duration such as 90, 90s, 15m, 1h30m or 1d"


def parse_duration(text: str) -> int:
    """
    Return the milliseconds of *text*. Raises ValueError, whose text is the rule with examples.
    """
    text = text.strip()
    if re.fullmatch(_NUMBER, text):
        return round(float(text) * 1000)
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ValueError(_RULE)
    parts = zip(found.groups(), UNIT_MS.values(), strict=True)
    return round(sum(float(number) * unit for number, unit in parts if number))


def format_duration(span_ms: int) -> str:
    """
    Return *span_ms* exactly, in a form that parse_duration() reads: `1h30m`, `1.5s`, `0s`.
    """
    assert span_ms >= 0, span_ms
    parts = []
    left = span_ms
    for unit in ("d", "h", "m"):
        count, left = divmod(left, UNIT_MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if left or not parts:
        seconds, thousandths = divmod(left, 1000)
        fraction = f".{thousandths:03}".rstrip("0") if thousandths else ""
        parts.append(f"{seconds}{fraction}s")
    return "".join(parts)


def describe_duration(span_ms: int) -> str:
    """
    Return *span_ms* for reading at a glance, the two largest units: `340 ms`, `2.5 s`, `3 h 12 m`.
    """
    if span_ms < 1000:
        return f"{max(span_ms, 0)} ms"
    if span_ms < 60_000:
        # Cut, not rounded, so that it never says 60 s.
        return f"{span_ms // 100 / 10:g} s"
    for large, small in (("w", "d"), ("d", "h"), ("h", "m"), ("m", "s")):
        if span_ms >= UNIT_MS[large]:
            count, left = divmod(span_ms, UNIT_MS[large])
            rest = left // UNIT_MS[small]
            return f"{count} {large} {rest} {small}" if rest else f"{count} {large}"
    raise AssertionError(span_ms)
