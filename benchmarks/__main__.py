"""Runs the benchmarks: ``python -m benchmarks [NAME ...]``. What is compared is measured side by side in one run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import parts, quota, send, stores, waiting
from benchmarks.contenders import CONTENDERS, installed
from benchmarks.report import Figure, circumstances, page, plot

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.report import Benchmark

ALL: Final[dict[str, tuple[Benchmark, ...]]] = {
    "long": (send.many,),  # first, because memory that was freed before would hide what it takes
    "send": (send.clients, send.json_libraries),
    "parts": (parts.signing, parts.reading, parts.beginning),
    "waiting": (waiting.waiting, quota.grants),
    "quota": (quota.uncontended, quota.many_accounts, quota.drained, quota.sqlite, quota.redis, quota.four_clients),
    "outbox": (stores.outbox, stores.postgres),
    "webhooks": (stores.webhooks,),
}
_DOCUMENTS: Final = Path(__file__).parent.parent / "docs"


def loops(name: str) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return factories of the event loops on which a benchmark runs: asyncio; for sends uvloop too, if installed."""
    found = {"asyncio": asyncio.new_event_loop}
    if name == "send":
        try:
            uvloop: Any = importlib.import_module("uvloop")
        except ImportError:
            pass
        else:
            found["uvloop"] = uvloop.new_event_loop
    return found


async def measured(benchmark: Benchmark) -> list[Figure]:
    figures: list[Figure] = []
    async for figure in benchmark():
        print(f"{figure.what}: {figure.result}", flush=True)
        figures.append(figure)
    return figures


def checked_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, side by side in one run.")
    choice = f"what to measure: {', '.join(ALL)} (if none is given, all of these), or simulate"
    parser.add_argument("names", nargs="*", metavar="NAME", help=choice)
    write = (
        "measure all for a quarter of an hour, and write docs/performance.md and its picture (needs the extra bench)"
    )
    parser.add_argument("--write", action="store_true", help=write)
    parser.add_argument("--plot", type=Path, help="draw what simulate found into this file (needs the extra bench)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*ALL, "simulate"}:
        parser.error(f"not a benchmark: {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}, simulate")
    if arguments.plot and "simulate" not in arguments.names:
        parser.error("--plot draws what simulate found, which is not to be measured")
    if arguments.write and arguments.names:
        parser.error("--write measures all: give no names")
    missing = ", ".join(name for name in CONTENDERS if name not in installed())
    if missing and arguments.write:
        parser.error(f"--write needs the extra bench: not installed for {missing}")
    if missing:
        print(f"left out, since the extra bench is not installed: {missing}")
    return arguments


def main() -> None:
    arguments = checked_arguments()
    names = arguments.names or list(ALL)
    if "simulate" in names:
        simulate: Any = importlib.import_module("benchmarks.simulate")
        simulate.main(arguments.plot)
    if set(names) != {"simulate"}:
        print(circumstances())
    found: dict[str, list[Figure]] = {}
    for name in (name for name in ALL if name in names):
        found[name] = []
        for loop in loops(name).values():
            for benchmark in ALL[name]:
                with asyncio.Runner(loop_factory=loop) as runner:
                    found[name] += runner.run(measured(benchmark))
    if arguments.write:
        plot(found["send"], _DOCUMENTS / "performance.svg")
        (_DOCUMENTS / "performance.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
