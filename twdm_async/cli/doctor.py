"""``twdm doctor``: find out what is missing before the first message is sent."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twdm_async.cli.connect import inbox_place, open_client
from twdm_async.cli.options import ACCOUNT, INBOX, Options, command
from twdm_async.cli.terminal import note, show
from twdm_async.resources.inbox import Inbox
from twdm_async.webhooks.webhook import SILENCE

if TYPE_CHECKING:
    from datetime import datetime

    from twdm_async.storage.postgres.database import PostgresDatabase


@command(None, "doctor", ACCOUNT, INBOX)
async def doctor(options: Options) -> int:
    """Find out what the account and its keys may do, and what is missing.

    This also shows whether the account's webhook still gets events. The exit code is 1 if something is missing.
    """
    async with open_client(options) as client:
        note(f"What the account at {options.api_url} may do:")
        findings = await client.account.check_access(max_wait=options.max_wait or 0.0)
        states = client.quota_state()
        where = client.quota_store.address
        now, app = client.clock.utc(), client.credentials.app
    rows = [_row(finding.what, finding.ok, finding.words) for finding in findings]
    sends = [state for state in states if state.endpoint == "direct_messages.send"]
    words = ", ".join(f"{state.used} of {state.limit} ({state.scope.value})" for state in sends)
    rows.append(_row("messages of the day", None, f"{words} are spent, according to {where}"))
    place = inbox_place(options)
    if not isinstance(place, Path) or place.exists():
        rows += await _about_inbox(place, app, now)
    show(options, rows)
    if findings[0].ok is None:  # the API did not answer
        return 5
    return 0 if all(finding.ok for finding in findings) else 1


def _row(what: str, allowed: bool | None, why: str) -> dict[str, Any]:
    return {"what": what, "allowed": allowed, "why": why}


async def _about_inbox(place: Path | PostgresDatabase, app: str, now: datetime) -> list[dict[str, Any]]:
    async with Inbox(place) as inbox:
        heard, failed, unread = await inbox.heard(app), await inbox.failed(), await inbox.unread()
    rows: list[dict[str, Any]] = []
    webhook = {kind: at for kind, at in heard.items() if kind in {"delivery", "check"}}
    if webhook:
        is_heard = now - max(webhook.values()) < timedelta(seconds=SILENCE)
        words = "; ".join(f"last {kind} {_ago(now - at)}" for kind, at in sorted(webhook.items(), reverse=True))
        words += "" if is_heard else "; X may have dropped it: register it anew"
        rows.append(_row("the webhook gets events", is_heard or None, words))
    if failed or unread:
        words = f"{len(failed)} failed, {len(unread)} could not be read: twdm inbox shows them"
        rows.append(_row("all events were handled", allowed=False, why=words))
    if encrypted := sorted(heard.keys() - webhook.keys()):
        words = f"X sent events of {', '.join(encrypted)}: encrypted conversations, which this API cannot read"
        rows.append(_row("all conversations can be read", allowed=False, why=words))
    return rows


def _ago(passed: timedelta) -> str:
    hours = passed / timedelta(hours=1)
    return f"{hours:.0f} hours ago" if hours >= 2 else f"{max(0.0, hours * 60):.0f} minutes ago"
