"""What all commands share: their options, and how the errors of the library end them."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from attrs import define, fields

from twdm_async._log import show_log
from twdm_async.cli.failure import Failure
from twdm_async.errors import (
    ConnectFailed,
    DatabaseFailed,
    DeliveryUnknown,
    InvalidInput,
    QuotaWaitTooLong,
    ServerError,
    TwdmError,
)
from twdm_async.resources.evidence import SETTLE_AFTER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

DEFAULT_API_URL: Final = "https://api.twitter.com"
_OUTPUT: Final = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON, on a terminal, too."),
    click.option("-v", "--verbose", count=True, help="Log what is done; -vv logs every attempt of a request."),
)
_ACCOUNT: Final = (
    click.option(
        "--api-url",
        envvar="TWDM_API_URL",
        default=DEFAULT_API_URL,
        show_default=True,
        metavar="URL",
        help="Scheme and host of the API, or the address that `twdm sandbox` prints.",
    ),
    click.option(
        "--upload-url",
        envvar="TWDM_UPLOAD_URL",
        metavar="URL",
        help="Scheme and host for uploads, if not the one that goes with --api-url.",
    ),
    click.option(
        "--username",
        metavar="NAME",
        help="Take the keys of this account from ~/.twurlrc, not from the environment.",
    ),
    click.option(
        "--quota-store",
        envvar="TWDM_QUOTA_STORE",
        metavar="URL",
        help="Where it is remembered what was spent: sqlite:///FILE, postgresql://HOST/DATABASE, redis://HOST, or "
        "memory:// to forget it. If not given, it is the file quota.db in your state folder.",
    ),
    click.option(
        "--max-wait",
        envvar="TWDM_MAX_WAIT",
        type=float,
        metavar="SECONDS",
        help="How long each request may wait for quota. As long as it takes if not given.",
    ),
)
_OUTBOX: Final = (
    click.option(
        "--outbox",
        envvar="TWDM_OUTBOX",
        metavar="PLACE",
        help="The file in which messages wait and outcomes are kept, or postgresql://HOST/DATABASE. If not given, it "
        "is where the quota store is; if that has no file, it is outbox.db in your state folder.",
    ),
    click.option(
        "--settle-after",
        type=click.FloatRange(min=0),
        default=SETTLE_AFTER,
        show_default=True,
        metavar="SECONDS",
        help="When a message that may have arrived, and that the API's list does not show, is sent again. The list has "
        "been seen to be three minutes late.",
    ),
)
_INBOX: Final = (
    click.option(
        "--inbox",
        envvar="TWDM_INBOX",
        metavar="PLACE",
        help="The file in which it is remembered what was received, or postgresql://HOST/DATABASE. If not given, it is "
        "where the quota store is; if that has no file, it is inbox.db in your state folder.",
    ),
)
_QUOTA_STORE: Final = _ACCOUNT[3:4]

ACCOUNT: Final = "account"
"""The command talks to the API."""
OUTBOX: Final = "outbox"
"""The command uses an outbox."""
INBOX: Final = "inbox"
"""The command uses an inbox."""
STORE: Final = "quota store"
"""The command has a quota store, and does not talk to the API."""

_SHARED: Final = {ACCOUNT: _ACCOUNT, OUTBOX: _OUTBOX, INBOX: _INBOX, STORE: _QUOTA_STORE}


def PRIORITY(default: str, words: str) -> Callable[[F], F]:  # noqa: N802 - as the other options are called
    """Return the option for the priority of messages."""
    return click.option(
        "--priority",
        type=click.Choice(["interactive", "bulk"]),
        default=default,
        show_default=True,
        help=words,
    )


@define
class Options:
    """The options that a command shares with others. An option that the command does not have is as if not given."""

    as_json: bool = False
    verbose: int = 0
    api_url: str = DEFAULT_API_URL
    upload_url: str | None = None
    username: str | None = None
    quota_store: str | None = None
    max_wait: float | None = None
    outbox: str | None = None
    settle_after: float = SETTLE_AFTER
    inbox: str | None = None


_NAMES: Final = frozenset(one.name for one in fields(Options))


def command(
    group: click.Group | None, name: str, *uses: str
) -> Callable[[Callable[..., Awaitable[int | None]]], click.Command]:
    """Make a command of an async function. It gets the shared :class:`Options`, then the values of its own parameters,
    and may return an exit code.

    Args:
        group: the group it belongs to; ``None`` if it stands alone.
        name: what it is called.
        uses: which of the shared options it has, besides those of all commands.
    """

    def decorate(function: Callable[..., Awaitable[int | None]]) -> click.Command:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            options = Options(**{key: given.pop(key) for key in _NAMES & given.keys()})
            log_to_terminal(options.verbose)
            code = until_done(function(options, **given))
            click.get_current_context().exit(code or 0)

        has: Any = run
        own: list[click.Parameter] = getattr(has, "__click_params__", [])
        has.__click_params__ = list[click.Parameter]()
        for option in reversed([*(one for use in uses for one in _SHARED[use]), *_OUTPUT]):
            option(run)
        has.__click_params__ += own  # click reverses them all, so a command's own come first in its help
        make = click.command if group is None else group.command
        return make(name)(run)

    return decorate


def log_to_terminal(verbose: int) -> None:
    """Show warnings and, of what waits, until when; with `verbose` all that is done, and at 2, every attempt."""
    if logging.getLogger("twdm_async").handlers:  # TWDM_LOG says what is shown
        return
    show_log(("warning", "info", "debug")[min(verbose, 2)], style="%(message)s")
    if not verbose:
        for name in ("quota.dispatcher", "transport.call"):
            logging.getLogger(f"twdm_async.{name}").setLevel(logging.INFO)


def until_done(work: Awaitable[int | None]) -> int | None:
    """Run `work` to its end.

    Raises:
        Failure: it raised an error of the library.
    """

    async def main() -> int | None:
        return await work

    try:
        return asyncio.run(main())
    except TwdmError as error:
        problem = error
    raise Failure(_words(problem), _code(problem))


def _code(error: TwdmError) -> int:
    match error:
        case InvalidInput():
            return 2
        case QuotaWaitTooLong():
            return 3
        case DeliveryUnknown():
            return 4
        case ConnectFailed() | ServerError() | DatabaseFailed():
            return 5
        case _:
            return 1


def _words(error: TwdmError) -> str:
    """Return what is wrong. A parameter is named as it was typed."""
    if not isinstance(error, InvalidInput):
        return str(error)
    return f"{typed_name(error.parameter)}: {error.problem}"


_TYPED: Final = {"recipient_id": "recipient", "custom_profile_id": "profile", "path": "file", "source": "file"}
"""Parameters of the library whose names on the command line are others."""


def typed_name(parameter: str) -> str:
    """Return what the running command calls a parameter of the library: the name of its option, argument or environment
    variable.
    """
    context = click.get_current_context(silent=True)
    own: Sequence[click.Parameter] = context.command.params if context is not None else ()
    for one in own:
        if context is not None and one.name in {parameter, _TYPED.get(parameter)}:
            source = context.get_parameter_source(one.name or "")
            if source is click.core.ParameterSource.ENVIRONMENT and isinstance(one.envvar, str):
                return one.envvar
            return max(one.opts, key=len) if isinstance(one, click.Option) else one.make_metavar(context).strip("[].")
    return parameter
