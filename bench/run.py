"""
Run the benchmarks and print one table.

    python bench/run.py [--scale F] [--rounds N] [--dir DIR] [NAME…]

It measures the checkout that it is part of, with the interpreter that runs it, which must have what
queuectl depends on. The C peers need gcc, `startup` needs pip and what pip installs from. All of it
takes about five minutes and 1 GB of memory and disk.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import (
    accounts,
    activation,
    crowd,
    dashboards,
    live,
    million,
    pipeline,
    rest,
    runs,
    scrape,
    startup,
)
from bench.rows import Row, table
from bench.service import ROOT, Place

FIGURES: dict[str, Callable[[Place], list[Row]]] = {
    "startup": startup.measure,
    "pipeline": pipeline.measure,
    "drain": runs.measure_drain,
    "latency": runs.measure_latency,
    "million": million.measure,
    "accounts": accounts.measure,
    "activation": activation.measure,
    "crowd": crowd.measure,
    "live": live.measure,
    "dashboards": dashboards.measure,
    "rest": rest.measure,
    "scrape": scrape.measure,
}


def main(argv: list[str] | None = None) -> int:
    """
    Measure what is named, everything if nothing is. Exits with 1 if a target is missed.
    """
    parser = argparse.ArgumentParser(prog="bench/run.py", description="How fast, as ratios.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the counts (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument(
        "--dir", default=ROOT / "build", type=Path, help="on a disk (default: build/)"
    )
    options = parser.parse_args(argv)
    unknown = set(options.names) - FIGURES.keys()
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    rows: list[tuple[Row, str]] = []
    options.dir.mkdir(exist_ok=True)
    with Place(options.dir.resolve(), options.scale, options.rounds) as place:
        for name in options.names or FIGURES:
            sys.stderr.write(f"{name} …\n")
            rows += [(row, f"bench/run.py {name}") for row in FIGURES[name](place)]
    sys.stdout.write(table(rows) + "\n")
    return 1 if any(row.met is False for row, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
