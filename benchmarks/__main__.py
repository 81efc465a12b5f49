"""``python -m benchmarks [NAME ...]``: measure, side by side in one run."""

from __future__ import annotations

import argparse
import asyncio
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import parts, quota, send, stores, waiting
from benchmarks.report import Figure, circumstances, page, plot

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.report import Benchmark

ALL: Final[dict[str, tuple[Benchmark, ...]]] = {
    "send": (send.clients, send.json_libraries),
    "long": (send.many,),
    "parts": (parts.signing, parts.reading, parts.beginning),
    "waiting": (waiting.waiting, quota.grants),
    "quota": (quota.uncontended, quota.many_accounts, quota.drained, quota.sqlite, quota.redis, quota.four_clients),
    "stores": (stores.outbox, stores.webhooks),
}
_DOCUMENTS: Final = Path(__file__).parent.parent / "docs"


def loops(name: str) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loops on which a benchmark runs: sends run on uvloop, too, if it is installed."""
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choice = f"of {', '.join(ALL)} and simulate; all but the last one if none is given"
    parser.add_argument("names", nargs="*", metavar="NAME", help=choice)
    write = "measure all, and write docs/performance.md and its picture (needs matplotlib)"
    parser.add_argument("--write", action="store_true", help=write)
    parser.add_argument("--plot", type=Path, help="draw simulate into this file, too (needs matplotlib)")
    arguments = parser.parse_args()
    names = list(ALL) if arguments.write else arguments.names or list(ALL)
    if unknown := set(names) - {*ALL, "simulate"}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    if "simulate" in names:
        simulate: Any = importlib.import_module("benchmarks.simulate")
        simulate.main(arguments.plot)
    print(circumstances())
    found: dict[str, list[Figure]] = {}
    for name in (name for name in ALL if name in names):
        found[name] = []
        for loop in loops(name).values():
            for benchmark in ALL[name]:
                with asyncio.Runner(loop_factory=loop) as runner:
                    found[name] += runner.run(measured(benchmark))
    if arguments.write:
        (_DOCUMENTS / "performance.md").write_text(page(found))
        plot(found["send"], _DOCUMENTS / "performance.svg")


if __name__ == "__main__":
    main()
