"""``python -m benchmarks [poll] [land] [download] [ledger] [tick] [--quick]``: measure and print one table."""

from __future__ import annotations

import argparse
from importlib import import_module
from time import perf_counter

from benchmarks.report import Line, show

BENCHMARKS = ("poll", "land", "download", "ledger", "tick")


def main() -> None:
    """Run the chosen benchmarks. A missed target is shown and is no failure: a busy machine is not a bug."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="|".join(BENCHMARKS), help="which to run; all of them by default")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: a check that it runs, not a measurement")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    begun = perf_counter()
    lines: list[Line] = []
    for name in BENCHMARKS:
        if not arguments.names or name in arguments.names:
            lines += import_module(f"benchmarks.{name}").run(quick=arguments.quick)
    show(lines, perf_counter() - begun)


if __name__ == "__main__":
    main()
