"""``twdm account``: show and change the account that posts."""

from __future__ import annotations

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import show


@click.group()
def account() -> None:
    """Show and change the account that posts."""


@command(account, "show", ACCOUNT)
async def show_account(options: Options) -> None:
    """Show the account that the keys belong to."""
    async with open_client(options) as client:
        show(options, await client.account.verify_credentials(skip_status=True))


@command(account, "update", ACCOUNT)
@click.option("--name", help="The display name.")
@click.option("--url", help="A web page.")
@click.option("--location", help="A place.")
@click.option("--description", help="A few words about the account.")
async def update(
    options: Options, name: str | None, url: str | None, location: str | None, description: str | None
) -> None:
    """Change the account's own profile. Only the given fields change; an empty string clears a field."""
    async with open_client(options) as client:
        show(options, await client.account.update_profile(name, url, location, description))
