"""What the commands share: from options and environment to a client, an outbox and an inbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import platformdirs
import typer

from twdm_async._clock import Clock
from twdm_async.cli.ask_sandbox import ask_sandbox
from twdm_async.cli.terminal import complain
from twdm_async.client import Client
from twdm_async.credentials import ENVIRONMENTS, Credentials
from twdm_async.errors import InvalidInput, QuotaStoreFailed, TwdmError
from twdm_async.outbox import Outbox
from twdm_async.quota.spec import QuotaTable
from twdm_async.quota.store import QuotaStore, SQLiteQuotaStore
from twdm_async.sandbox.clock import SandboxClock
from twdm_async.storage.places import checked_place

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine
    from pathlib import Path

    from twdm_async.storage.postgres.database import PostgresDatabase

T = TypeVar("T")

ApiUrl = Annotated[
    str,
    typer.Option(
        envvar="TWDM_API_URL",
        help="Scheme and host of the API, or the address that `twdm sandbox` prints.",
        show_default=True,
    ),
]
UploadUrl = Annotated[
    str | None,
    typer.Option(
        envvar="TWDM_UPLOAD_URL", help="Scheme and host for uploads, if not the one that goes with --api-url."
    ),
]
Username = Annotated[
    str | None, typer.Option(help="Take the keys of this account from ~/.twurlrc, not from the environment.")
]
QuotaStoreUrl = Annotated[
    str | None,
    typer.Option(
        envvar="TWDM_QUOTA_STORE",
        help="Where what was spent is remembered: sqlite:///FILE, postgresql://HOST/DATABASE, redis://HOST, or "
        "memory:// to forget it. If not given, it is the file quota.db in your state folder.",
    ),
]
OutboxFile = Annotated[
    str | None,
    typer.Option(
        "--outbox",
        envvar="TWDM_OUTBOX",
        help="The file in which messages wait and outcomes are kept, or postgresql://HOST/DATABASE. If not given, it "
        "is where the quota store is; if that has no file, it is outbox.db in your state folder.",
    ),
]
InboxFile = Annotated[
    str | None,
    typer.Option(
        "--inbox",
        envvar="TWDM_INBOX",
        help="The file in which it is remembered what was received, or postgresql://HOST/DATABASE. If not given, it is "
        "where the quota store is; if that has no file, it is inbox.db in your state folder.",
    ),
]
SettleAfter = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds until a message that may have arrived, and that the list does not show, is sent again. The list "
        "has been seen to be three minutes late.",
    ),
]
MaxWait = Annotated[
    float | None, typer.Option(help="Seconds to wait for quota, for each request. As long as it takes if not given.")
]

DEFAULT_API_URL = "https://api.twitter.com"


@contextlib.asynccontextmanager
async def open_client(
    api_url: str,
    upload_url: str | None,
    username: str | None,
    quota_store: str | None,
    max_wait: float | None = None,
    media_api: str = "v1.1",
) -> AsyncGenerator[Client]:
    """A client for the keys in the environment, or in ``~/.twurlrc`` if there are none or `username` is given.

    Raises:
        InvalidInput: there are no keys, a host is not one that requests are signed for, or the store's address is none.
        QuotaStoreFailed: what was spent cannot be known or kept.
    """
    credentials = _credentials(username)
    clock, quotas = await _time_of_sandbox(api_url)
    # The API's own hosts come in pairs; any other serves both, as the sandbox does.
    upload_url = upload_url or api_url.replace("https://api.", "https://upload.")
    async with (
        _store(quota_store, clock) as store,
        Client(
            credentials,
            api_url=api_url,
            upload_url=upload_url,
            quota_store=store,
            max_wait=max_wait,
            clock=clock,
            quotas=quotas,
            media_api="v2" if media_api == "v2" else "v1.1",
        ) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def open_outbox(client: Client, path: str | None, settle_after: float) -> AsyncGenerator[Outbox]:
    """The outbox at `path`; if not given, where the client's quota store is.

    Raises:
        InvalidInput: `settle_after` is too short.
        OutboxFailed: the file cannot be had.
    """
    try:
        outbox = Outbox(client, path or _beside(client.quota_store, "outbox.db"), settle_after=settle_after)
    except InvalidInput as error:
        option = "--settle-after" if error.parameter == "settle_after" else error.parameter
        raise InvalidInput(parameter=option, problem=error.problem) from None
    async with outbox:
        yield outbox


def inbox_place(inbox: str | None, quota_store: str | None) -> Path | PostgresDatabase:
    """Return where the inbox is; if nobody says so, where the quota store is, or in the state folder.

    Raises:
        InvalidInput: `inbox` or the store's address is not one.
    """
    return checked_place(inbox) if inbox else _beside(_store(quota_store), "inbox.db")


def _beside(store: QuotaStore, name: str) -> Path | PostgresDatabase:
    """Return where the quota store is; if it has no tables, the file called `name` in the state folder."""
    return store.place or _state_folder() / name


def _state_folder() -> Path:
    folder = platformdirs.user_state_path("twdm_async")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"its folder cannot be made: {error.strerror}; name another place with --quota-store and --outbox"
        raise QuotaStoreFailed(store=f"sqlite:///{folder}", problem=problem) from None
    return folder


def _store(url: str | None, clock: Clock | None = None) -> QuotaStore:
    if url is None:
        return SQLiteQuotaStore(_state_folder() / "quota.db", clock=clock)
    return QuotaStore.from_url(url, clock=clock)


async def _time_of_sandbox(api_url: str) -> tuple[Clock | None, QuotaTable | None]:
    """Return the clock and the quotas of the sandbox, if it is the one that the environment names; else none."""
    if os.environ.get("TWDM_SANDBOX") != api_url:
        return None, None
    time = await ask_sandbox(api_url, "GET", "time")
    clock = SandboxClock(Clock(), time["scale"])
    clock.ahead = time["ahead"]
    return clock, QuotaTable.default().scaled(time["scale"])


def _credentials(username: str | None) -> Credentials:
    if username is not None:
        return Credentials.from_twurlrc(username=username)
    if any(os.environ.get(name) for names in ENVIRONMENTS for name in names):
        return Credentials.from_env()
    try:
        return Credentials.from_twurlrc()
    except InvalidInput as error:
        raise InvalidInput(
            parameter="keys", problem=f"none are in the environment (TWDM_CONSUMER_KEY, ...), and {error.problem}"
        ) from None


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main`; an error of the library ends the command with its words: exit code 2 for bad input, 1 for all
    else.
    """
    try:
        return asyncio.run(main)
    except TwdmError as error:
        complain(str(error))
        raise typer.Exit(2 if isinstance(error, InvalidInput) else 1) from None
