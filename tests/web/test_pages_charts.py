"""
Requirement: the charts of the first page show every minute in which something was measured.
"""

import re

from queuectl.measures import History, MinuteView
from queuectl.web.pages_charts import draw

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
#: Minutes of the last hour in which attempts started and ended: two alone, the first ones and the
#: last ones, a pair.
MEASURED = (0, 1, 2, 20, 30, 31, 40, 58, 59)


def test_every_minute_is_drawn() -> None:
    """
    As part of a line where there is one beside it, else as a point of its own.
    """
    now = 1_000 * HOUR_MS - 1
    minutes = [
        MinuteView(
            at=now + 1 - HOUR_MS + index * MINUTE_MS,
            completed=1,
            wait_counts=[1, 0, 0],
            run_counts=[0, 1, 0],
        )
        for index in MEASURED
    ]
    history = History(
        minutes=minutes, span_bounds_ms=[10, 100], counted_since_at=0, known_since_at=0
    )
    charts = draw(history, "hour", now)
    assert 4 == len(charts.times.series)
    for each in charts.times.series:
        lines = re.findall(r"[ML]([\d.]+) ", each.path)
        points = re.findall(r"M([\d.]+) ", each.points)
        assert [20, 40] == [float(x) // 10 for x in points]
        drawn = sorted(float(x) // 10 for x in lines + points)
        assert list(MEASURED) == drawn
        assert 3 == each.path.count("M")
    assert len(MEASURED) == charts.throughput.series[0].path.count("M")
