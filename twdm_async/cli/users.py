"""``twdm users``: look up other people's accounts."""

from __future__ import annotations

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import show


@click.group()
def users() -> None:
    """Look up other people's accounts."""


@command(users, "get", ACCOUNT)
@click.argument("handle")
async def get(options: Options, handle: str) -> None:
    """Show the account with a HANDLE such as @jane, and its user id."""
    async with open_client(options) as client:
        show(options, await client.users.get(handle))
