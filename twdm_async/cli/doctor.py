"""``twdm doctor``: what is missing, before the first message."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from twdm_async.cli.connect import inbox_place, open_client
from twdm_async.cli.terminal import plain
from twdm_async.resources.inbox import Inbox
from twdm_async.webhooks.webhook import SILENCE

if TYPE_CHECKING:
    from datetime import datetime

    from twdm_async.storage.postgres.database import PostgresDatabase

_MARKS: Final = {True: "[green]yes", False: "[red]no", None: "[yellow]unknown"}


async def examine(api_url: str, username: str | None, quota_store: str | None, inbox_file: str | None) -> int:
    """Print what the account and its keys are good for. Returns the exit code: 0 if nothing is missing."""
    async with open_client(api_url, None, username, quota_store) as client:
        findings = await client.account.check_access()
        states = client.quota_state()
        where = client.quota_store.address
        now = client.clock.utc()
    table = Table(title=plain(f"What the account at {api_url} may do"), title_justify="left")
    for heading in ("", "allowed", "why"):
        table.add_column(heading)
    for finding in findings:
        table.add_row(plain(finding.what), _MARKS[finding.ok], plain(finding.words))
    sends = [state for state in states if state.endpoint == "direct_messages.send"]
    words = ", ".join(f"{state.used} of {state.limit} ({state.scope.value})" for state in sends)
    table.add_row("messages of the day", "", plain(f"{words} are spent, as {where} remembers"))
    place = inbox_place(inbox_file, quota_store)
    if not isinstance(place, Path) or place.exists():
        await _add_inbox(table, place, now)
    Console().print(table)
    return 0 if all(finding.ok for finding in findings) else 1


async def _add_inbox(table: Table, place: Path | PostgresDatabase, now: datetime) -> None:
    async with Inbox(place) as inbox:
        heard, failed, unread = await inbox.heard(), await inbox.failed(), await inbox.unread()
    webhook = {kind: at for kind, at in heard.items() if kind in {"delivery", "check"}}
    if webhook:
        is_heard = now - max(webhook.values()) < timedelta(seconds=SILENCE)
        words = "; ".join(f"last {kind} {_ago(now - at)}" for kind, at in sorted(webhook.items(), reverse=True))
        words += "" if is_heard else "; X may have dropped it: register it anew"
        table.add_row("webhook is told of events", _MARKS[is_heard or None], words)
    if failed or unread:
        words = f"{len(failed)} failed, {len(unread)} could not be read: twdm inbox shows them"
        table.add_row("all events were handled", _MARKS[False], words)
    if encrypted := sorted(heard.keys() - webhook.keys()):
        words = f"X told of {', '.join(encrypted)}: encrypted conversations, which this API cannot read"
        table.add_row("all conversations can be read", _MARKS[False], plain(words))


def _ago(passed: timedelta) -> str:
    hours = passed / timedelta(hours=1)
    return f"{hours:.0f} hours ago" if hours >= 2 else f"{max(0.0, hours * 60):.0f} minutes ago"
