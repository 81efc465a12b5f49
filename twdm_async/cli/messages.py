"""``twdm messages``: what was sent and received."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated, Any

import typer

from twdm_async.cli.connect import (
    DEFAULT_API_URL,
    ApiUrl,
    InboxFile,
    QuotaStoreUrl,
    Username,
    inbox_place,
    open_client,
    run,
)
from twdm_async.cli.terminal import as_json, complain, message_shown, show
from twdm_async.models.attachments import MessageMedia
from twdm_async.resources.inbox import Inbox

messages = typer.Typer(help="Show and delete messages, sent and received, and wait for new ones.", no_args_is_help=True)

MessageId = Annotated[str, typer.Argument(help="A message's id.")]


@messages.command("list")
def list_messages(
    most: Annotated[int, typer.Option("--most", min=1, help="How many, the newest first.")] = 50,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Show messages of the last 30 days, the newest first, with their texts."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            found: list[dict[str, Any]] = []
            async for message in client.direct_messages.list():
                found.append(message_shown(message))
                if len(found) == most:
                    break
            show(found)

    run(main())


@messages.command("get")
def get_message(
    message_id: MessageId,
    save: Annotated[Path | None, typer.Option(help="Save the file that hangs on it here.")] = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Show one message, with its text."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            message = await client.direct_messages.get(message_id)
            show(message_shown(message))
            if save is not None and isinstance(message.attachment, MessageMedia):
                await client.direct_messages.download(message.attachment, save)
            elif save is not None:
                complain("no file hangs on it")
                raise typer.Exit(1)

    run(main())


@messages.command("delete")
def delete_message(
    message_id: MessageId,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Hide a message from this account. The other one goes on seeing it."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            await client.direct_messages.delete(message_id)

    run(main())


@messages.command()
def listen(
    every: Annotated[
        float, typer.Option(min=1, help="Seconds between two looks; 15 are allowed in 15 minutes.")
    ] = 60.0,
    echoes: Annotated[bool, typer.Option(help="Also what the account itself sends.")] = False,
    inbox_file: InboxFile = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Show what people write, as it comes, one JSON object a line, until Ctrl-C. Each message is shown once, also if
    this is stopped and started again.
    """

    async def main() -> None:
        async with (
            open_client(api_url, None, username, quota_store) as client,
            Inbox(inbox_place(inbox_file, quota_store)) as inbox,
        ):
            async for message in client.direct_messages.poll(inbox, every=every, sent=echoes):
                typer.echo(as_json(message_shown(message)))

    try:
        run(main())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
