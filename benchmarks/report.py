"""Formats results: as text, as a page of the documentation, and as a picture."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import resource
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

_INTRODUCTION: Final = """\
# Performance

This page shows how much CPU time and memory the library needs, and how fast it is. `python -m benchmarks --write`
measures all figures and writes this page.

A figure such as `1.20 (1.03 to 1.71) x bare` compares two things. The speed of a machine drifts, so the benchmark
measures both by turns, in several rounds. The figure is the median of the ratios of all rounds; the smallest and the
largest ratio are in brackets. *Bare* is a POST of the same body with aiohttp, and *ours* is a send with this library.
All figures without a ratio hold for one machine only.

The server that receives the sends is a process of its own that never sleeps, so no client pays for waking it. A bare
POST goes through aiohttp's session, and a send of this library does not. So a send can cost less than a bare POST.

`python -m benchmarks simulate` measures whether the quotas hold; see [](quotas.md).
"""
_SECTIONS: Final = {
    "send": "A send beside other clients",
    "long": "A thousand sends to a million",
    "parts": "Parts of a send",
    "waiting": "Waiting for quota",
    "quota": "Quotas",
    "outbox": "Messages that are kept, in a file and in a database",
    "webhooks": "Events that are kept",
}
_VERSIONS: Final = ("aiohttp", "orjson", "uvloop", "oauthlib", "tweepy", "peony-twitter", "httpx", "redis")


class Figure(NamedTuple):
    """A row of a table: what was measured, the result with its unit, and a number if the picture shows the row."""

    what: str
    result: str
    number: float | None = None


Benchmark = Callable[[], AsyncIterator[Figure]]


def middle_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of all rounds."""
    return statistics.median([one / other for one, other in zip(ours, theirs, strict=True)])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return a text with the median, minimum and maximum of the ratios of all rounds."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{middle_ratio(ours, theirs):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def median(times: Sequence[float]) -> str:
    """Return a text with the median of `times` (seconds), in microseconds or milliseconds."""
    middle = statistics.median(times)
    return f"{middle * 1e6:.1f} µs" if middle < 0.01 else f"{middle * 1e3:.0f} ms"


def circumstances() -> str:
    """Return a text that names the Python, the machine and the versions of the libraries."""
    versions: list[str] = []
    for name in _VERSIONS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}; {', '.join(versions)}"


def memory() -> int:
    """Return the memory of this process in bytes; on macOS, its peak so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except FileNotFoundError:  # on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def page(found: Mapping[str, Sequence[Figure]]) -> str:
    """Return the performance page of the documentation, in Markdown."""
    parts = [_INTRODUCTION, f"{circumstances()}.\n"]
    for name in (name for name in _SECTIONS if name in found):
        lines = "\n".join(f"| {figure.what} | {figure.result} |" for figure in found[name])
        picture = "![CPU of a send by client, beside a bare POST](performance.svg)\n\n" if name == "send" else ""
        parts.append(f"## {_SECTIONS[name]}\n\n{picture}| what | measured |\n|---|---|\n{lines}\n")
    return "\n".join(parts)


def plot(figures: Sequence[Figure], file: Path) -> None:
    """Draw a bar for each figure that has a number, into a file."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    drawn = [figure for figure in figures if figure.number is not None][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(drawn) + 1))
    bars = axes.barh(
        [one.what.partition(": ")[2] for one in drawn],
        [one.number for one in drawn],
        color=["#0a7d4f" if "twdm_async" in one.what else "#9ca3af" for one in drawn],
    )
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set(xscale="log", xlabel="CPU of a send at 64 at once, a bare aiohttp POST being 1")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
