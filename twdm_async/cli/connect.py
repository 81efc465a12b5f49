"""Opening the client, the outbox and the inbox that the options and the environment name."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import platformdirs

from twdm_async._clock import Clock
from twdm_async.cli.ask_sandbox import ask_sandbox
from twdm_async.client import Client
from twdm_async.credentials import ENVIRONMENTS, Credentials
from twdm_async.errors import InvalidInput, QuotaStoreFailed
from twdm_async.outbox import Outbox
from twdm_async.quota.spec import QuotaTable
from twdm_async.quota.store import QuotaStore, SQLiteQuotaStore
from twdm_async.sandbox.clock import SandboxClock
from twdm_async.storage.places import checked_place

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from twdm_async.cli.options import Options
    from twdm_async.client import ClientOptions
    from twdm_async.storage.postgres.database import PostgresDatabase


@contextlib.asynccontextmanager
async def open_client(options: Options, **more: Any) -> AsyncGenerator[Client]:
    """Open a client with the keys in the environment; or with those in ``~/.twurlrc``, if the environment has none or
    the options name an account.

    Args:
        options: the options of the command.
        more: further options of :class:`twdm_async.Client`.

    Raises:
        InvalidInput: there are no keys, or an option is wrong.
        QuotaStoreFailed: the quota store cannot be read or written.
    """
    credentials = _credentials(options.username)
    clock, quotas = await _time_of_sandbox(options.api_url)
    async with _store(options.quota_store, clock) as store:
        given: ClientOptions = {
            "api_url": options.api_url,
            "upload_url": options.upload_url,
            "max_wait": options.max_wait,
            "quota_store": store,
            "clock": clock,
            "quotas": quotas,
            "proxy": os.environ.get("TWDM_PROXY") or None,
            "ca_file": os.environ.get("TWDM_CA_FILE") or None,
        }
        async with Client(credentials, **given, **more) as client:
            yield client


@contextlib.asynccontextmanager
async def open_outbox(options: Options, client: Client) -> AsyncGenerator[Outbox]:
    """Open the outbox that the options name; if they name none, the one in the place of the client's quota store.

    Raises:
        InvalidInput: ``--settle-after`` is too short.
        OutboxFailed: the file or database cannot be opened.
    """
    place = options.outbox or _beside(client.quota_store, "outbox.db")
    async with Outbox(client, place, settle_after=options.settle_after) as outbox:
        yield outbox


@contextlib.asynccontextmanager
async def open_client_and_outbox(options: Options) -> AsyncGenerator[tuple[Client, Outbox]]:
    """Open a client and its outbox. Errors are those of :func:`open_client` and :func:`open_outbox`."""
    async with open_client(options) as client, open_outbox(options, client) as outbox:
        yield client, outbox


def inbox_place(options: Options) -> Path | PostgresDatabase:
    """Return the place of the inbox. If the options do not name one, it is that of the quota store, or else a file in
    the state folder.

    Raises:
        InvalidInput: the address of the inbox or the quota store is wrong.
    """
    return checked_place(options.inbox) if options.inbox else _beside(_store(options.quota_store), "inbox.db")


def _beside(store: QuotaStore, name: str) -> Path | PostgresDatabase:
    """Return the place of the quota store; if the store has no tables, the file called `name` in the state folder."""
    return store.place or _state_folder() / name


def _state_folder() -> Path:
    folder = platformdirs.user_state_path("twdm_async")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"its folder cannot be created: {error.strerror}; name another place with --quota-store and --outbox"
        raise QuotaStoreFailed(store=f"sqlite:///{folder}", problem=problem) from None
    return folder


def _store(url: str | None, clock: Clock | None = None) -> QuotaStore:
    if url is None:
        return SQLiteQuotaStore(_state_folder() / "quota.db", clock=clock)
    try:
        return QuotaStore.from_url(url, clock=clock)
    except InvalidInput as error:
        problem = error.problem
    raise InvalidInput(parameter="quota_store", problem=problem)


async def _time_of_sandbox(api_url: str) -> tuple[Clock | None, QuotaTable | None]:
    """Return the clock and the quotas of the sandbox if `api_url` is the sandbox that the environment names; else
    ``None`` for both.
    """
    if os.environ.get("TWDM_SANDBOX") != api_url:
        return None, None
    time = await ask_sandbox(api_url, "GET", "time")
    clock = SandboxClock(Clock(), time["scale"])
    clock.ahead = time["ahead"]
    return clock, QuotaTable.default().scaled(time["scale"])


def _credentials(username: str | None) -> Credentials:
    if username is not None:
        try:
            return Credentials.from_twurlrc(username=username)
        except InvalidInput as error:
            problem = error.problem
        raise InvalidInput(parameter="username", problem=problem)
    if any(os.environ.get(name) for names in ENVIRONMENTS for name in names):
        return Credentials.from_env()
    try:
        return Credentials.from_twurlrc()
    except InvalidInput as error:
        problem = f"the environment has none (TWDM_CONSUMER_KEY, ...), and {error.problem}"
    raise InvalidInput(parameter="credentials", problem=problem)
