"""``twdm messages``: show, delete and wait for messages, sent and received."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from twdm_async.cli.connect import inbox_place, open_client
from twdm_async.cli.failure import Failure
from twdm_async.cli.options import ACCOUNT, INBOX, Options, command
from twdm_async.cli.terminal import as_json, message_fields, show
from twdm_async.models.attachments import MessageMedia
from twdm_async.resources.inbox import Inbox


@click.group()
def messages() -> None:
    """Show and delete messages, and wait for new ones."""


_MESSAGE = click.argument("message_id", metavar="MESSAGE")


@command(messages, "list", ACCOUNT)
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True, help="How many messages to show.")
async def list_(options: Options, most: int) -> None:
    """Show the messages of the last 30 days, sent and received.

    The newest are first, and their texts are shown.
    """
    async with open_client(options) as client:
        show(options, [message_fields(one) for one in await client.direct_messages.list().first(most)])


@command(messages, "get", ACCOUNT)
@_MESSAGE
@click.option(
    "--save", type=click.Path(path_type=Path), help="Save the file that is attached to the message at this path."
)
async def get(options: Options, message_id: str, save: Path | None) -> None:
    """Show one message, with its text."""
    async with open_client(options) as client:
        message = await client.direct_messages.get(message_id)
        show(options, message_fields(message))
        if save is not None:
            if not isinstance(message.attachment, MessageMedia):
                raise Failure("no file is attached to the message")
            await client.direct_messages.download(message.attachment, save)


@command(messages, "delete", ACCOUNT)
@_MESSAGE
async def delete(options: Options, message_id: str) -> None:
    """Hide a message from this account. The other person still sees it."""
    async with open_client(options) as client:
        await client.direct_messages.delete(message_id)
        show(options, {"deleted": message_id})


@command(messages, "listen", ACCOUNT, INBOX)
@click.option(
    "--every",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two reads of the list of messages; 15 reads are allowed in 15 minutes.",
)
@click.option("--echoes", is_flag=True, help="Also show messages that the account itself sends.")
async def listen(options: Options, every: float, echoes: bool) -> int:
    """Show what people write, as it comes, until Ctrl-C.

    Each message is one JSON object on a line, and is shown once, even if this command is stopped and started again.
    """
    try:
        async with open_client(options) as client, Inbox(inbox_place(options)) as inbox:
            async for message in client.direct_messages.poll(inbox, every=every, sent=echoes):
                click.echo(as_json(message_fields(message)))
    except asyncio.CancelledError:  # Ctrl-C is how it ends
        return 0
    return 0
