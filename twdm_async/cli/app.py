"""The commands. Each says what it takes and shows what it got; the work is the library's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from twdm_async.cli import demo as demonstration
from twdm_async.cli import send_many as bulk
from twdm_async.cli.connect import (
    DEFAULT_API_URL,
    ApiUrl,
    InboxFile,
    MaxWait,
    OutboxFile,
    QuotaStoreUrl,
    SettleAfter,
    UploadUrl,
    Username,
    open_client,
    open_outbox,
    run,
)
from twdm_async.cli.database import database
from twdm_async.cli.doctor import examine
from twdm_async.cli.inbox import inbox
from twdm_async.cli.media import media
from twdm_async.cli.message_file import BadLines, read_messages
from twdm_async.cli.messages import messages
from twdm_async.cli.outbox import outbox
from twdm_async.cli.sandbox import sandbox
from twdm_async.cli.terminal import complain, printable, show, shown
from twdm_async.cli.welcome import welcome
from twdm_async.resources.evidence import SETTLE_AFTER

app = typer.Typer(
    name="twdm",
    help="Send Direct Messages under custom profiles, within the quotas.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
profiles = typer.Typer(help="Make, show and delete custom profiles.", no_args_is_help=True)
account = typer.Typer(help="The account that posts.", no_args_is_help=True)
app.add_typer(profiles, name="profiles")
app.add_typer(account, name="account")
app.add_typer(messages, name="messages")
app.add_typer(welcome, name="welcome")
app.add_typer(media, name="media")
app.add_typer(outbox, name="outbox")
app.add_typer(inbox, name="inbox")
app.add_typer(database, name="database")
app.add_typer(sandbox, name="sandbox")

ProfileId = Annotated[str, typer.Argument(help="A custom profile's id.")]


@app.command()
def demo(svg: Annotated[Path | None, typer.Option(help="Save what is printed as a picture, too.")] = None) -> None:
    """Watch 60 agents send 600 messages under three profiles against a local sandbox whose quota binds."""
    raise typer.Exit(run(demonstration.run_demo(svg)))


@app.command()
def doctor(
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    inbox_file: InboxFile = None,
) -> None:
    """Find out what the account and its keys are good for, what is missing, and whether its webhook still tells of
    events. Ends with 1 if something is missing.
    """
    raise typer.Exit(run(examine(api_url, username, quota_store, inbox_file)))


@app.command()
def send(
    recipient: Annotated[str, typer.Argument(help="The person's user id.")],
    text: Annotated[str, typer.Argument(help="What to write.")],
    profile: Annotated[str | None, typer.Option(help="The custom profile's id.")] = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    upload_url: UploadUrl = None,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    max_wait: MaxWait = None,
) -> None:
    """Send one message."""

    async def main() -> None:
        async with open_client(api_url, upload_url, username, quota_store, max_wait) as client:
            show(await client.direct_messages.send(recipient, text, custom_profile_id=profile))

    run(main())


@app.command()
def send_many(
    file: Annotated[Path, typer.Argument(help="JSONL or CSV with recipient, text and, if you like, profile.")],
    profile: Annotated[str | None, typer.Option(help="The custom profile's id where a line has none.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Where the outcomes go; FILE.results.jsonl if not given.")
    ] = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    upload_url: UploadUrl = None,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    priority: Annotated[
        bulk.PriorityName,
        typer.Option(
            help="Bulk messages leave a reserve of the quota to interactive ones, and are spread over the day."
        ),
    ] = bulk.PriorityName.BULK,
    run_name: Annotated[
        str,
        typer.Option(
            "--run", help="A name for this sending; the file's path if not given. Under another one, all is sent again."
        ),
    ] = "",
    outbox_file: OutboxFile = None,
    settle_after: SettleAfter = SETTLE_AFTER,
) -> None:
    """Send every message of a file, by way of the outbox. All lines are checked first; if one is wrong, nothing is
    sent.

    The same file sent again sends only what was not sent before. Ctrl-C stops: what is under way is finished, and the
    result file says of every line what became of it.
    """

    async def main() -> int:
        messages = read_messages(file, profile)
        outcomes = results or file.with_name(f"{file.name}.results.jsonl")
        async with (
            open_client(api_url, upload_url, username, quota_store) as client,
            open_outbox(client, outbox_file, settle_after) as outbox,
        ):
            return await bulk.send_all(
                client,
                outbox,
                messages,
                outcomes,
                Console(stderr=True),
                run=run_name or str(file.resolve()),
                priority=priority.priority,
            )

    try:
        code = run(main())
    except BadLines as error:
        for line in error.lines:
            typer.echo(printable(f"{file}: {line}"), err=True)
        complain(f"{len(error.lines)} bad line(s); nothing was sent")
        code = 2
    raise typer.Exit(code)


@profiles.command("create")
def create_profile(
    name: Annotated[str, typer.Argument(help="What people see, at most 48 characters.")],
    avatar: Annotated[str, typer.Argument(help="A picture file, or the id of uploaded media (digits only).")],
    api_url: ApiUrl = DEFAULT_API_URL,
    upload_url: UploadUrl = None,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Make a custom profile."""

    async def main() -> None:
        async with open_client(api_url, upload_url, username, quota_store) as client:
            show(await client.custom_profiles.create(name, avatar if avatar.isdigit() else Path(avatar)))

    run(main())


@profiles.command("get")
def get_profile(
    profile_id: ProfileId,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Show a custom profile."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            show(await client.custom_profiles.get(profile_id))

    run(main())


@profiles.command("list")
def list_profiles(
    api_url: ApiUrl = DEFAULT_API_URL, username: Username = None, quota_store: QuotaStoreUrl = None
) -> None:
    """Show all custom profiles."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            found = [shown(profile) async for profile in client.custom_profiles.list()]
            show(found)

    run(main())


@profiles.command("delete")
def delete_profile(
    profile_id: ProfileId,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Delete a custom profile."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            await client.custom_profiles.delete(profile_id)

    run(main())


@account.command("update")
def update_account(
    name: Annotated[str | None, typer.Option(help="The display name.")] = None,
    url: Annotated[str | None, typer.Option(help="A web page.")] = None,
    location: Annotated[str | None, typer.Option(help="A place.")] = None,
    description: Annotated[str | None, typer.Option(help="A few words about the account.")] = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
    max_wait: MaxWait = None,
) -> None:
    """Change what the account's own profile says. Only what is given changes; an empty string clears a field."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store, max_wait) as client:
            show(await client.account.update_profile(name, url, location, description))

    run(main())
