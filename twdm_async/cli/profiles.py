"""``twdm profiles``: make, show and delete custom profiles."""

from __future__ import annotations

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import show, standard_input


@click.group()
def profiles() -> None:
    """Make, show and delete custom profiles."""


_PROFILE = click.argument("profile_id", metavar="PROFILE")


@command(profiles, "create", ACCOUNT)
@click.argument("name")
@click.argument("avatar")
async def create(options: Options, name: str, avatar: str) -> None:
    """Make a custom profile.

    NAME is the name that people see, of at most 48 characters. AVATAR is the path of a picture, - for standard input,
    or the media id of an uploaded picture (digits only).
    """
    async with open_client(options) as client:
        show(options, await client.custom_profiles.create(name, standard_input() if avatar == "-" else avatar))


@command(profiles, "get", ACCOUNT)
@_PROFILE
async def get(options: Options, profile_id: str) -> None:
    """Show a custom profile."""
    async with open_client(options) as client:
        show(options, await client.custom_profiles.get(profile_id))


@command(profiles, "list", ACCOUNT)
async def list_(options: Options) -> None:
    """Show all custom profiles."""
    async with open_client(options) as client:
        show(options, [profile async for profile in client.custom_profiles.list()])


@command(profiles, "delete", ACCOUNT)
@_PROFILE
async def delete(options: Options, profile_id: str) -> None:
    """Delete a custom profile."""
    async with open_client(options) as client:
        await client.custom_profiles.delete(profile_id)
        show(options, {"deleted": profile_id})
