"""``twdm send``: send one message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.content import ATTACHMENT, BUTTONS, CHOICES, attachment, checked_message
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import show
from twdm_async.errors import DeliveryUnknown
from twdm_async.models.direct_messages import DirectMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.observers import AttemptReport


@command(None, "send", ACCOUNT)
@click.argument("recipient")
@click.argument("text")
@click.option("--profile", metavar="ID", help="The custom profile's id.")
@CHOICES
@BUTTONS
@ATTACHMENT
async def send(
    options: Options,
    recipient: str,
    text: str,
    profile: str | None,
    choice: Sequence[str],
    button: Sequence[str],
    attach: str | None,
) -> None:
    """Send one message.

    RECIPIENT is the person's user id, or a handle such as @jane, which is looked up first. TEXT has at most 10 000
    characters; - reads it from standard input.
    """
    is_handle = recipient.startswith("@")
    message = checked_message("1" if is_handle else recipient, text, profile, choice, button, attach)
    attempts: list[AttemptReport] = []
    try:
        async with open_client(options, observers=[attempts.append]) as client:
            sent = await client.direct_messages.send(
                await client.users.id_of(recipient) if is_handle else recipient,
                **message,
                attachment=await attachment(client, attach),
            )
    except asyncio.CancelledError:  # by Ctrl-C; the client has ended what was under way
        outcome = attempts[-1].outcome if attempts else None
        if isinstance(outcome, DeliveryUnknown):
            raise outcome from None
        if not isinstance(outcome, DirectMessage):
            raise
        sent = outcome
    show(options, sent)
