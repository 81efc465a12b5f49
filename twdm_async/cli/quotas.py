"""``twdm quotas``: show how much of each quota is spent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import as_json, show

if TYPE_CHECKING:
    from twdm_async.quota.limiter import QuotaState


@command(None, "quotas", ACCOUNT)
@click.option("--all", "everything", is_flag=True, help="Also show quotas of which nothing is spent.")
@click.option(
    "--watch", is_flag=True, help="Show the quotas repeatedly, until Ctrl-C; with --json, one list on a line."
)
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="With --watch, seconds between two lists.",
)
async def quotas(options: Options, everything: bool, watch: bool, every: float) -> None:
    """Show how much of each quota is spent, according to the quota store. Nothing is sent."""
    while True:
        async with open_client(options) as client:  # opening it asks the store
            rows = [_row(state) for state in client.quota_state() if everything or state.used]
        if not watch:
            show(options, rows)
            return
        if options.as_json:
            click.echo(as_json(rows))
        else:
            click.clear()
            show(options, rows)
        await asyncio.sleep(every)


def _row(state: QuotaState) -> dict[str, Any]:
    return {
        "endpoint": state.endpoint,
        "scope": state.scope.value,
        "used": state.used,
        "limit": state.limit,
        "per": state.per,
        "reserved": state.reserved,
        "free_at": state.free_at,
    }
