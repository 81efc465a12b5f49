"""``python -m benchmarks send|quota|simulate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import quota, send, simulate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side in one run.")
    commands = parser.add_subparsers(dest="name", required=True)
    commands.add_parser("send", help="a send beside a bare aiohttp POST")
    commands.add_parser("quota", help="what admission costs, in each store")
    simulation = commands.add_parser("simulate", help="whether quotas hold, in virtual time")
    simulation.add_argument("--plot", type=Path, help="draw it into this file, too (needs matplotlib)")
    arguments = parser.parse_args()
    if arguments.name == "simulate":
        simulate.main(arguments.plot)
    else:
        {"send": send.main, "quota": quota.main}[arguments.name]()


if __name__ == "__main__":
    main()
