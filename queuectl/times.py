"""
Points in time as people write them, and back.

Pure but for the local time zone, which is the process's. Inside, a time is integer milliseconds
since the epoch. A time without an offset is local. In the hour that a clock change skips, the time
meant is as long after the change as it would have been without it; of an hour that comes twice,
the first.
"""

import re
from datetime import datetime, timedelta

from queuectl.durations import parse_duration

_RULE = (
    "must be a time such as 2030-01-31T10:00:00Z, 2030-01-31 10:00 (local), 2030-01-31, "
    "22:30 (the next one) or now+2h"
)
_EPOCH = datetime(1970, 1, 1)  # in UTC, as all of its kind here
_CLOCK = r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?"
_TIME_OF_DAY = re.compile(_CLOCK)
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?)?"
)


def parse_time(text: str, now: int) -> int:
    """
    Return the time that *text* means, said at *now*.

    Raises ValueError, whose text is the rule with examples.
    """
    text = text.strip()
    if text == "now":
        return now
    if text.startswith("now+"):
        return now + parse_duration(text[4:])
    try:
        if found := _TIME_OF_DAY.fullmatch(text):
            return _next_time_of_day(
                int(found["hour"]), int(found["minute"]), int(found["second"] or 0), now
            )
        if _DATE_TIME.fullmatch(text):
            # A time without offset: timestamp() takes it as local.
            return _milliseconds(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError, OSError):
        pass  # 25:00, February the 30th, the year 0: the rule says enough.
    raise ValueError(_RULE)


def format_time(at: int) -> str:
    """
    Return *at* as RFC 3339 in UTC with milliseconds: `2030-01-31T10:00:00.000Z`.
    """
    # A third of the time that strftime() takes: lists have up to six of these for each job.
    return (_EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds") + "Z"


def format_local(at: int) -> str:
    """
    Return *at* in the local time zone, for people: `2030-01-31 10:00:00`.
    """
    return datetime.fromtimestamp(at // 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _next_time_of_day(hour: int, minute: int, second: int, now: int) -> int:
    today = datetime.fromtimestamp(now / 1000).replace(
        hour=hour, minute=minute, second=second, microsecond=0
    )
    at = _milliseconds(today)
    # Tomorrow by the calendar, not 24 hours on: a day may have 23 or 25.
    return at if at > now else _milliseconds(today + timedelta(days=1))


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
