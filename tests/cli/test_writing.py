"""
Requirements on how durations, times and sizes are written: what is meant is what is understood.
"""

import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from queuectl.durations import describe_duration, format_duration, parse_duration
from queuectl.sizes import describe_size, format_size, parse_size
from queuectl.times import format_local, format_time, parse_time

SEED = int(os.environ.get("QUEUECTL_SEED", random.SystemRandom().randrange(1 << 32)))


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    A place with clock changes: in 2026 on March the 29th and October the 25th.
    """
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90_000),
        ("0", 0),
        ("0.25", 250),
        ("90s", 90_000),
        ("1.5s", 1_500),
        ("200ms", 200),
        ("15m", 900_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("2w", 1_209_600_000),
        ("1w2d3h4m5s6ms", 788_645_006),
        (" 5m ", 300_000),
        ("1m1ms", 60_001),
    ],
)
def test_durations(text: str, expected: int) -> None:
    """
    A bare number is seconds; units go from large to small.
    """
    assert expected == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "5x",
        "-5",
        "-5s",
        "30m1h",
        "1h1h",
        "1.",
        ".5",
        "1e3",
        "5 m",
        "5M",
        "\u0661s",
        "1s\n2s",
        "inf",
        "nan",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    """
    The error is the rule, with an example of each form.
    """
    with pytest.raises(ValueError, match="must be a duration such as 90, 90s, 15m, 1h30m or 1d"):
        parse_duration(text)


def test_a_formatted_duration_means_the_same() -> None:
    """
    What config prints can be given back to config.
    """
    print(f"QUEUECTL_SEED={SEED}")
    rng = random.Random(SEED)
    spans = [0, 1, 999, 1000, 59_999, 60_000, 3_600_000, 86_400_000]
    spans += [rng.randrange(1 << rng.randrange(1, 39)) for _ in range(2000)]
    for span_ms in spans:
        assert span_ms == parse_duration(format_duration(span_ms))


@pytest.mark.parametrize(
    ("span_ms", "exact", "glance"),
    [
        (0, "0s", "0 ms"),
        (340, "0.34s", "340 ms"),
        (1000, "1s", "1 s"),
        (59_999, "59.999s", "59.9 s"),
        (60_000, "1m", "1 m"),
        (5_400_000, "1h30m", "1 h 30 m"),
        (7 * 86_400_000, "7d", "1 w"),
        (90_061_001, "1d1h1m1.001s", "1 d 1 h"),
    ],
)
def test_durations_are_written(span_ms: int, exact: str, glance: str) -> None:
    """
    Exactly where it will be read back, in two units where a person looks.
    """
    assert (exact, glance) == (format_duration(span_ms), describe_duration(span_ms))


NOW = utc(2026, 1, 15, 12)


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("now+2h", NOW + 7_200_000),
        ("now+90", NOW + 90_000),
        ("2026-01-31T10:00:00Z", utc(2026, 1, 31, 10)),
        ("2026-01-31t10:00:00z", utc(2026, 1, 31, 10)),
        ("2026-01-31T10:00:00+02:00", utc(2026, 1, 31, 8)),
        ("2026-01-31T10:00:00-0530", utc(2026, 1, 31, 15, 30)),
        ("2026-01-31T10:00:00.250Z", utc(2026, 1, 31, 10) + 250),
        ("2026-01-31T10:00:00", utc(2026, 1, 31, 9)),  # Berlin in winter.
        ("2026-07-31 10:00", utc(2026, 7, 31, 8)),  # And in summer.
        ("2026-01-31", utc(2026, 1, 30, 23)),
        ("13:30", utc(2026, 1, 15, 12, 30)),  # It is 13:00 there.
        ("13:00", utc(2026, 1, 16, 12)),  # Now is not next.
        ("9:05", utc(2026, 1, 16, 8, 5)),
        ("23:59:59", utc(2026, 1, 15, 22, 59, 59)),
        ("2020-01-01", utc(2019, 12, 31, 23)),  # The past is allowed: it means at once.
    ],
)
def test_times(text: str, expected: int) -> None:
    """
    With an offset it is that, without it is local, and a time of day is the next one.
    """
    assert expected == parse_time(text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "25:00",
        "12:60",
        "12",
        "now-1h",
        "now+",
        "2026-02-30",
        "2026-13-01T00:00:00Z",
        "2026-01-31T10",
        "2026-W05",
        "20260131",
        "0000-01-01",
        "1700000000",
        "2026-01-31T10:00:00 Z",
        "2026-01-31T10:00:00Z; rm",
    ],
)
def test_what_is_no_time(text: str) -> None:
    """
    The error is a rule with an example.
    """
    with pytest.raises(ValueError, match="such as"):
        parse_time(text, NOW)


@pytest.mark.usefixtures("zone")
def test_the_next_one_by_the_calendar() -> None:
    """
    On the day of a clock change, the same time tomorrow is not 24 hours away.
    """
    saturday_noon = utc(2026, 3, 28, 11)

    assert utc(2026, 3, 29, 10) == parse_time("12:00", saturday_noon)


@pytest.mark.usefixtures("zone")
def test_hours_that_are_missing_or_twice() -> None:
    """
    A skipped time is that much after the change, of a repeated hour the first is meant.
    """
    assert utc(2026, 3, 29, 1, 30) == parse_time("2026-03-29 02:30", NOW)
    assert utc(2026, 10, 25, 0, 30) == parse_time("2026-10-25 02:30", NOW)


@pytest.mark.usefixtures("zone")
def test_times_are_written() -> None:
    """
    UTC with milliseconds for programs, local for people.
    """
    at = utc(2026, 7, 31, 8) + 7
    assert format_time(at) == "2026-07-31T08:00:00.007Z"
    assert format_local(at) == "2026-07-31 10:00:00"
    assert at == parse_time(format_time(at), NOW)
    assert format_time(-1) == "1969-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1024", 1024),
        ("64K", 65_536),
        ("256M", 268_435_456),
        ("256MiB", 268_435_456),
        ("1.5G", 1_610_612_736),
        ("2T", 2_199_023_255_552),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    """
    Letters are powers of 1024.
    """
    assert expected == parse_size(text)


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5", "1KB", "1k", "1 K", "1e3", "1GiBi"])
def test_what_is_no_size(text: str) -> None:
    """
    The error is the rule; units that mean two things are refused.
    """
    with pytest.raises(ValueError, match="must be a size in bytes such as 1048576, 64K"):
        parse_size(text)


def test_sizes_are_written() -> None:
    """
    Exactly where it will be read back, rounded where a person looks.
    """
    for size_bytes in (0, 1, 1000, 1024, 65_536, 268_435_456, 268_435_457, 1 << 50):
        assert size_bytes == parse_size(format_size(size_bytes))
    assert [describe_size(each) for each in (812, 1536, 3 << 30)] == ["812 B", "1.5 KiB", "3.0 GiB"]
