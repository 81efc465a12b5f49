"""``twdm doctor``: what is missing, before the first message."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from twdm_async.cli.connect import open_client

_MARKS = {True: "[green]yes", False: "[red]no", None: "[yellow]unknown"}


async def examine(api_url: str, username: str | None, quota_store: str | None) -> int:
    """Print what the account and its keys are good for. Returns the exit code: 0 if nothing is missing."""
    async with open_client(api_url, None, username, quota_store) as client:
        findings = await client.account.check_access()
        states = client.quota_state()
        where = client.quota_store.address
    table = Table(title=f"What the account at {api_url} may do", title_justify="left")
    for heading in ("", "allowed", "why"):
        table.add_column(heading)
    for finding in findings:
        table.add_row(finding.what, _MARKS[finding.ok], finding.words)
    sends = [state for state in states if state.endpoint == "direct_messages.send"]
    words = ", ".join(f"{state.used} of {state.limit} ({state.scope.value})" for state in sends)
    table.add_row("messages of the day", "", f"{words} are spent, as {where} remembers")
    Console().print(table)
    return 0 if all(finding.ok for finding in findings) else 1
