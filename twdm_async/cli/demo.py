"""``twdm demo``: many agents send from one account against a quota; then the server's records show what happened."""

from __future__ import annotations

import asyncio
import functools
import statistics
import struct
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from twdm_async._clock import Clock
from twdm_async.cli.options import Options, command, hush_waits
from twdm_async.cli.terminal import fields, plain, show
from twdm_async.errors import InvalidInput, TwdmError
from twdm_async.quota.spec import Pace, Quota, QuotaTable, Scope
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twdm_async.agent import Agent
    from twdm_async.client import Client
    from twdm_async.models import CustomProfile

_NAMES: Final = {"Anna from Support": (214, 69, 65), "Ben from Sales": (38, 139, 210), "The Bot": (133, 153, 0)}
_AGENTS: Final = 60
_MESSAGES_EACH: Final = 10
_DAY: Final = 86_400.0
_SECONDS_A_DAY: Final = 2.0
_MESSAGES_A_DAY: Final = 125
_LEAST_WINDOWS: Final = 4  # with fewer windows, the quota would not have been tested


@define
class _Submitted:
    """A message that an agent has submitted: under which profile, and when, in seconds by the monotonic clock, which
    the sandbox uses, too.
    """

    profile_id: str
    at: float


@define
class _Findings:
    """The result, according to the server's records."""

    sent: int
    lost: int
    doubled: int
    wrong_profile: int
    breaches: int
    windows: list[int]
    waits: dict[str, list[float]] = field(repr=False)

    @property
    def all_is_well(self) -> bool:
        return not (self.lost or self.doubled or self.wrong_profile or self.breaches) and (
            len(self.windows) >= _LEAST_WINDOWS
        )


@command(None, "demo")
@click.option("--svg", type=click.Path(path_type=Path), help="Also save the output as an SVG picture in this file.")
async def demo(options: Options, svg: Path | None) -> int:
    """Watch 60 agents send 600 messages to a local sandbox that enforces a quota.

    They send under three custom profiles. The exit code is 1 if, by the server's records, a message was lost, sent
    twice, sent under the wrong profile or sent over the quota, or if the quota was not tested.
    """
    if svg is not None and not svg.parent.is_dir():
        raise InvalidInput(parameter="svg", problem=f"there is no folder {svg.parent}")
    hush_waits()
    console = Console(record=svg is not None, width=92 if svg else None, highlight=False, stderr=options.as_json)
    quotas = QuotaTable.default().replace(
        "direct_messages.send",
        Quota(_MESSAGES_A_DAY, per=_DAY),
        Quota(15_000, per=_DAY, scope=Scope.APP),
        pace=Pace(burst=50, per=0.1 * _DAY / _SECONDS_A_DAY),
    )
    console.print(
        f"[bold]{_AGENTS} agents, {_AGENTS * _MESSAGES_EACH} messages, one account.[/] The sandbox lets a day pass in "
        f"{_SECONDS_A_DAY:g} s\nand allows {_MESSAGES_A_DAY} messages a day; over real HTTP, signed with OAuth 1.0a."
    )
    began = time.monotonic()
    async with Sandbox(quotas=quotas, time_scale=_DAY / _SECONDS_A_DAY, latency=(0.002, 0.02)) as sandbox:
        async with sandbox.client(clock=Clock()) as client:
            profiles = [await client.custom_profiles.create(name, _picture(*colour)) for name, colour in _NAMES.items()]
            submitted = await _send_all(client, profiles, console)
        findings = _ask_the_server(sandbox, submitted)
    _print(console, findings, profiles, time.monotonic() - began)
    if svg is not None:
        console.save_svg(str(svg), title="twdm demo")
    if options.as_json:
        show(options, fields(findings))
    return 0 if findings.all_is_well else 1


async def _send_all(client: Client, profiles: Sequence[CustomProfile], console: Console) -> dict[str, _Submitted]:
    """Let all agents send at the same time, each its messages one after the other."""
    submitted: dict[str, _Submitted] = {}
    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        of_each = _AGENTS // len(profiles)
        bars = [progress.add_task(str(profile.name), total=of_each * _MESSAGES_EACH) for profile in profiles]

        async def work(agent: Agent, number: int, advance: Callable[[], object]) -> None:
            for count in range(_MESSAGES_EACH):
                text = f"Agent {number}, message {count}: 5 < 6 & all is well"
                submitted[text] = _Submitted(agent.custom_profile_id, time.monotonic())
                try:
                    await agent.send(1_000_000 + number, text)
                except TwdmError as error:  # the server's records will show what became of the message
                    console.print(plain(str(error)), style="red")
                advance()

        async with asyncio.TaskGroup() as group:
            for number in range(_AGENTS):
                which = number % len(profiles)
                agent = client.agent(profiles[which])
                group.create_task(work(agent, number, functools.partial(progress.advance, bars[which])))
    return submitted


def _ask_the_server(sandbox: Sandbox, submitted: dict[str, _Submitted]) -> _Findings:
    received = Counter(message.text for message in sandbox.messages)
    waits: defaultdict[str, list[float]] = defaultdict(list)
    wrong_profile = 0
    for message in sandbox.messages:
        handed_over = submitted[message.text]
        wrong_profile += message.custom_profile_id != handed_over.profile_id
        waits[handed_over.profile_id].append(message.received_at - handed_over.at)
    return _Findings(
        sent=len(sandbox.messages),
        lost=len(submitted.keys() - received.keys()),
        doubled=sum(count - 1 for count in received.values()),
        wrong_profile=wrong_profile,
        breaches=len(sandbox.breaches),
        windows=[
            window.count
            for window in sandbox.windows
            if window.family == "direct_messages.send" and window.scope is Scope.USER
        ],
        waits=waits,
    )


def _print(console: Console, findings: _Findings, profiles: Sequence[CustomProfile], seconds: float) -> None:
    table = Table(title="By the server's records", title_justify="left")
    by_window = f"quota use (of {_MESSAGES_A_DAY})"
    for heading in ("sent", "lost", "doubled", "wrong profile", "breaches", by_window):
        table.add_column(heading, justify="right")
    table.add_row(
        *map(str, (findings.sent, findings.lost, findings.doubled, findings.wrong_profile, findings.breaches)),
        " ".join(map(str, findings.windows)),
    )
    console.print(table)
    waiting = Table(title="Waiting for quota (s)", title_justify="left")
    for heading in ("profile", "messages", "median", "longest"):
        waiting.add_column(heading, justify="left" if heading == "profile" else "right")
    for profile in profiles:
        waits = findings.waits[profile.id]
        figures = (f"{statistics.median(waits):.2f}", f"{max(waits):.2f}") if waits else ("", "")
        waiting.add_row(profile.name, str(len(waits)), *figures)
    console.print(waiting)
    verdict = (
        "[green]Nothing lost, nothing doubled, no quota breached" if findings.all_is_well else "[red]It went wrong"
    )
    console.print(f"{verdict}[/], in {seconds:.1f} s.")


def _picture(red: int, green: int, blue: int) -> bytes:
    """Return a PNG of 64 by 64 pixels in one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((red, green, blue)) * 64
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 64)) + chunk(b"IEND", b"")
