"""``python -m benchmarks send``."""

from __future__ import annotations

import argparse

from benchmarks import send

_BENCHMARKS = {"send": send.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side in one run.")
    parser.add_argument("name", choices=sorted(_BENCHMARKS))
    _BENCHMARKS[parser.parse_args().name]()


if __name__ == "__main__":
    main()
