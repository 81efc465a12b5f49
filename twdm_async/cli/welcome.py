"""``twdm welcome``: what people see on opening a conversation."""

from __future__ import annotations

from typing import Annotated

import typer

from twdm_async.cli.connect import (
    DEFAULT_API_URL,
    ApiUrl,
    QuotaStoreUrl,
    Username,
    open_client,
    run,
)
from twdm_async.cli.terminal import message_shown, show, shown
from twdm_async.models.quick_replies import QuickReply

welcome = typer.Typer(help="Make, show and choose welcome messages.", no_args_is_help=True)

WelcomeId = Annotated[str, typer.Argument(help="A welcome message's id.")]
Text = Annotated[str, typer.Argument(help="What it says, at most 9990 characters.")]
Choices = Annotated[
    list[str] | None,
    typer.Option("--choice", help="An answer to tap, as LABEL or LABEL=METADATA. Give it up to 20 times."),
]


def _quick_replies(choices: list[str] | None) -> list[QuickReply] | None:
    split = [choice.partition("=") for choice in choices or ()]
    return [QuickReply(label, metadata=metadata or None) for label, _, metadata in split] or None


@welcome.command()
def create(
    text: Text,
    name: Annotated[str | None, typer.Option(help="To find it again.")] = None,
    profile: Annotated[str | None, typer.Option(help="The custom profile's id. The API may not take it.")] = None,
    choice: Choices = None,
    default: Annotated[bool, typer.Option("--default", help="Let everybody see it from now on.")] = False,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Make a welcome message."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            made = await client.welcome_messages.create(
                text, name=name, quick_replies=_quick_replies(choice), custom_profile_id=profile
            )
            show(message_shown(made))
            if default:
                await client.welcome_message_rules.set_default(made)

    run(main())


@welcome.command("list")
def list_welcome_messages(
    api_url: ApiUrl = DEFAULT_API_URL, username: Username = None, quota_store: QuotaStoreUrl = None
) -> None:
    """Show all welcome messages, and the rule that says which of them everybody sees."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            found = [message_shown(one) async for one in client.welcome_messages.list()]
            rules = [shown(one) async for one in client.welcome_message_rules.list()]
            show({"welcome_messages": found, "rules": rules})

    run(main())


@welcome.command("get")
def get_welcome_message(
    welcome_id: WelcomeId,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Show a welcome message."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            show(message_shown(await client.welcome_messages.get(welcome_id)))

    run(main())


@welcome.command()
def update(
    welcome_id: WelcomeId,
    text: Text,
    choice: Choices = None,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Say something else in a welcome message. All of it is replaced but its name."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            changed = await client.welcome_messages.update(welcome_id, text, quick_replies=_quick_replies(choice))
            show(message_shown(changed))

    run(main())


@welcome.command()
def delete(
    welcome_id: WelcomeId,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Delete a welcome message."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            await client.welcome_messages.delete(welcome_id)

    run(main())


@welcome.command()
def default(
    welcome_id: WelcomeId,
    api_url: ApiUrl = DEFAULT_API_URL,
    username: Username = None,
    quota_store: QuotaStoreUrl = None,
) -> None:
    """Let everybody see this welcome message from now on."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            show(await client.welcome_message_rules.set_default(welcome_id))

    run(main())


@welcome.command()
def clear(api_url: ApiUrl = DEFAULT_API_URL, username: Username = None, quota_store: QuotaStoreUrl = None) -> None:
    """Let nobody see a welcome message any more: delete the rule, and keep the messages."""

    async def main() -> None:
        async with open_client(api_url, None, username, quota_store) as client:
            rules = [rule.id async for rule in client.welcome_message_rules.list()]
            for rule_id in rules:
                await client.welcome_message_rules.delete(rule_id)

    run(main())
