"""
What a benchmark says: rows, each with a peer that ran beside it, and the target.

Absolute figures of one machine mean little on another, and little on the same one an hour later.
So ours and the peer take turns in the same minute, both are medians over the turns, and what is
compared is their ratio. Where a target is absolute the peer only shows what the machine was like.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal, NamedTuple


class Target(NamedTuple):
    """
    What a figure must be: at most or at least *bound*, the figure itself or its *ratio* to the
    peer's.
    """

    sense: Literal["<=", ">="]
    bound: float
    of: Literal["ratio", "figure"] = "figure"


class Row(NamedTuple):
    """
    One figure, in *unit*. The peer's is in the same unit; *peer_name* says what the peer is.
    Without a target it is for the record.
    """

    name: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """
        Ours over the peer's.
        """
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        """
        Whether the target is met; None where there is none.
        """
        if self.target is None:
            return None
        value = self.ratio if self.target.of == "ratio" else self.ours
        assert value is not None, self
        return (
            value <= self.target.bound if self.target.sense == "<=" else value >= self.target.bound
        )


def take_turns(
    rounds: int, ours: Callable[[], float], *peers: Callable[[], float]
) -> tuple[float, ...]:
    """
    Measure all of them *rounds* times, in turn, and return the median of each.
    """
    turns = [(ours(), *(peer() for peer in peers)) for _ in range(rounds)]
    return tuple(median(each) for each in zip(*turns, strict=True))


def table(rows: Sequence[tuple[Row, str]]) -> str:
    """
    Return the rows as lines of text; with each comes the command that repeats it.
    """
    head = ("figure", "ours", "peer", "ratio", "target", "met", "repeat")
    cells = [head, *(_cells(row, command) for row, command in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _cells(row: Row, command: str) -> tuple[str, ...]:
    target = ""
    if row.target is not None:
        unit = "x" if row.target.of == "ratio" else f" {row.unit}"
        target = f"{row.target.sense} {_number(row.target.bound)}{unit}"
    return (
        row.name,
        f"{_number(row.ours)} {row.unit}",
        "" if row.peer is None else f"{_number(row.peer)} {row.unit} ({row.peer_name})",
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        target,
        {True: "yes", False: "NO", None: ""}[row.met],
        command,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
