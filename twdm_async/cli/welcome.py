"""``twdm welcome``: the messages that people see when they open a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.content import CHOICES, quick_replies
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import fields, message_fields, show

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def welcome() -> None:
    """Make, show and choose welcome messages."""


_WELCOME = click.argument("welcome_id", metavar="WELCOME")


@command(welcome, "create", ACCOUNT)
@click.argument("text")
@click.option("--name", help="A name to find the message by.")
@click.option("--profile", metavar="ID", help="The custom profile's id. The API may ignore it.")
@CHOICES
@click.option("--default", is_flag=True, help="Show this message to everybody from now on.")
async def create(
    options: Options, text: str, name: str | None, profile: str | None, choice: Sequence[str], default: bool
) -> None:
    """Make a welcome message. TEXT has at most 9990 characters."""
    async with open_client(options) as client:
        made = await client.welcome_messages.create(
            text, name=name, quick_replies=quick_replies(choice), custom_profile_id=profile
        )
        show(options, message_fields(made))
        if default:
            await client.welcome_message_rules.set_default(made)


@command(welcome, "list", ACCOUNT)
async def list_(options: Options) -> None:
    """Show all welcome messages, and the rules that say which one people see."""
    async with open_client(options) as client:
        found = [message_fields(one) async for one in client.welcome_messages.list()]
        rules = [fields(one) async for one in client.welcome_message_rules.list()]
        show(options, {"welcome_messages": found, "rules": rules})


@command(welcome, "get", ACCOUNT)
@_WELCOME
async def get(options: Options, welcome_id: str) -> None:
    """Show a welcome message."""
    async with open_client(options) as client:
        show(options, message_fields(await client.welcome_messages.get(welcome_id)))


@command(welcome, "update", ACCOUNT)
@_WELCOME
@click.argument("text")
@CHOICES
async def update(options: Options, welcome_id: str, text: str, choice: Sequence[str]) -> None:
    """Replace the text and the choices of a welcome message. Its name stays."""
    async with open_client(options) as client:
        changed = await client.welcome_messages.update(welcome_id, text, quick_replies=quick_replies(choice))
        show(options, message_fields(changed))


@command(welcome, "delete", ACCOUNT)
@_WELCOME
async def delete(options: Options, welcome_id: str) -> None:
    """Delete a welcome message."""
    async with open_client(options) as client:
        await client.welcome_messages.delete(welcome_id)
        show(options, {"deleted": welcome_id})


@command(welcome, "default", ACCOUNT)
@_WELCOME
async def default(options: Options, welcome_id: str) -> None:
    """Show this welcome message to everybody from now on."""
    async with open_client(options) as client:
        show(options, await client.welcome_message_rules.set_default(welcome_id))


@command(welcome, "clear", ACCOUNT)
async def clear(options: Options) -> None:
    """Show no welcome message any more. This deletes the rules, and keeps the messages."""
    async with open_client(options) as client:
        rules = [rule.id async for rule in client.welcome_message_rules.list()]
        for rule_id in rules:
            await client.welcome_message_rules.delete(rule_id)
        show(options, {"deleted rules": rules})
