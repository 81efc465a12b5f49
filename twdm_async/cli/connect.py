"""From options and environment to a client."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from twdm_async.client import Client
from twdm_async.credentials import ENVIRONMENTS, Credentials
from twdm_async.errors import InvalidInput, TwdmError

if TYPE_CHECKING:
    from collections.abc import Coroutine

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
MaxWait = Annotated[
    float | None, typer.Option(help="Seconds to wait for quota, for each request. As long as it takes if not given.")
]

DEFAULT_API_URL = "https://api.twitter.com"


def make_client(api_url: str, upload_url: str | None, username: str | None, max_wait: float | None = None) -> Client:
    """A client for the keys in the environment, or in ``~/.twurlrc`` if there are none or `username` is given.

    Raises:
        InvalidInput: there are no keys, or a host is not one that requests are signed for.
    """
    return Client(
        _credentials(username),
        api_url=api_url,
        # The API's own hosts come in pairs; any other serves both, as the sandbox does.
        upload_url=upload_url or api_url.replace("https://api.", "https://upload."),
        max_wait=max_wait,
    )


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
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, InvalidInput) else 1) from None
