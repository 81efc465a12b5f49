"""``twdm send``: send one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twdm_async.cli.connect import open_client
from twdm_async.cli.content import ATTACHMENT, BUTTONS, CHOICES, attachment, ctas, quick_replies, text_or_input
from twdm_async.cli.options import ACCOUNT, Options, command
from twdm_async.cli.terminal import show
from twdm_async.resources.direct_messages import outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    words: str | None = text_or_input(text)
    if not words and attach is not None:  # a file alone is a message, too
        words = None
    answers, buttons = quick_replies(choice), ctas(button)
    outgoing(  # so that nothing is uploaded for a message that cannot be sent
        "1" if recipient.startswith("@") else recipient,
        words,
        custom_profile_id=profile,
        quick_replies=answers,
        ctas=buttons,
        attachment="1" if attach else None,
    )
    async with open_client(options) as client:
        sent = await client.direct_messages.send(
            await client.users.id_of(recipient) if recipient.startswith("@") else recipient,
            words,
            custom_profile_id=profile,
            quick_replies=answers,
            ctas=buttons,
            attachment=await attachment(client, attach),
        )
        show(options, sent)
