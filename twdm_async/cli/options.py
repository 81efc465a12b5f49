"""The options that commands share, and the exit codes and messages with which errors of the library end a command."""

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
    InboxFailed,
    InvalidInput,
    OutboxFailed,
    QuotaStoreFailed,
    QuotaWaitTooLong,
    ServerError,
    TwdmError,
)
from twdm_async.resources.evidence import SETTLE_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

DEFAULT_API_URL: Final = "https://api.twitter.com"
_OUTPUT: Final = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON, even on a terminal."),
    click.option(
        "-v", "--verbose", count=True, help="Log what the command does; -vv also logs every attempt of a request."
    ),
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
        help="Scheme and host for uploads. If not given, they are those that belong to --api-url.",
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
        help="The store that remembers how much of each quota is spent: sqlite:///FILE, postgresql://HOST/DATABASE, "
        "redis://HOST, or memory:// to remember nothing. If not given, it is the file quota.db in your state folder.",
    ),
    click.option(
        "--max-wait",
        envvar="TWDM_MAX_WAIT",
        type=float,
        metavar="SECONDS",
        help="How long each request may wait for quota. If not given, it waits as long as it takes.",
    ),
)
_OUTBOX: Final = (
    click.option(
        "--outbox",
        envvar="TWDM_OUTBOX",
        metavar="PLACE",
        help="Where messages wait and their outcomes are kept: a file, or postgresql://HOST/DATABASE. If not given, it "
        "is the file or database of the quota store, or else the file outbox.db in your state folder.",
    ),
    click.option(
        "--settle-after",
        type=click.FloatRange(min=0),
        default=SETTLE_AFTER,
        show_default=True,
        metavar="SECONDS",
        help="How long after an attempt without an answer the message is sent again, if the API's list of messages "
        "does not show it. The list has been seen to be three minutes late.",
    ),
)
_INBOX: Final = (
    click.option(
        "--inbox",
        envvar="TWDM_INBOX",
        metavar="PLACE",
        help="Where received messages and events are recorded: a file, or postgresql://HOST/DATABASE. If not given, it "
        "is the file or database of the quota store, or else the file inbox.db in your state folder.",
    ),
)
_QUOTA_STORE: Final = _ACCOUNT[3:4]

ACCOUNT: Final = "account"
"""The command sends requests to the API."""
OUTBOX: Final = "outbox"
"""The command uses an outbox."""
INBOX: Final = "inbox"
"""The command uses an inbox."""
STORE: Final = "quota store"
"""The command has a quota store, but sends no requests to the API."""

_SHARED: Final = {ACCOUNT: _ACCOUNT, OUTBOX: _OUTBOX, INBOX: _INBOX, STORE: _QUOTA_STORE}


def PRIORITY(default: str, words: str) -> Callable[[F], F]:  # noqa: N802 - named like the constants of other options
    """Return the option for the priority of messages, with this default and this help text."""
    return click.option(
        "--priority",
        type=click.Choice(["interactive", "bulk"]),
        default=default,
        show_default=True,
        help=words,
    )


@define
class Options:
    """The values of the options that commands share. An option that a command does not have has its default."""

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
) -> Callable[[Callable[..., Coroutine[Any, Any, int | None]]], click.Command]:
    """Make a decorator that turns an async function into a command. The function gets the shared :class:`Options`, then
    the values of its own parameters, and may return an exit code.

    Args:
        group: the group that the command belongs to; ``None`` if it belongs to none.
        name: the command's name.
        uses: which groups of shared options the command has, besides those that all commands have.
    """

    def decorate(function: Callable[..., Coroutine[Any, Any, int | None]]) -> click.Command:
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
    """Log to standard error: warnings, and until when calls wait; if `verbose` is 1, everything that is done; if it is
    2, also every attempt.
    """
    if logging.getLogger("twdm_async").handlers:  # TWDM_LOG decides what is logged
        return
    show_log(("warning", "info", "debug")[min(verbose, 2)], style="%(message)s")
    if not verbose:
        for name in ("quota.dispatcher", "transport.call"):
            logging.getLogger(f"twdm_async.{name}").setLevel(logging.INFO)


def hush_waits() -> None:
    """Do not log each call that waits, unless somebody asked for the log: the command shows by itself what waits."""
    log = logging.getLogger("twdm_async.quota.dispatcher")
    if log.level == logging.INFO:
        log.setLevel(logging.WARNING)


def until_done(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Run `work` to its end, and return its result.

    Raises:
        Failure: `work` raised an error of the library.
    """
    try:
        return asyncio.run(work)
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
        case ConnectFailed() | ServerError() | DatabaseFailed() | QuotaStoreFailed() | OutboxFailed() | InboxFailed():
            return 5
        case _:
            return 1


def _words(error: TwdmError) -> str:
    """Return the error's message. A wrong parameter is named as on the command line."""
    if not isinstance(error, InvalidInput):
        return str(error)
    return f"{typed_name(error.parameter)}: {error.problem}"


_TYPED: Final = {
    "recipient_id": "recipient",
    "handle": "recipient",
    "custom_profile_id": "profile",
    "path": "file",
    "source": "file",
    "key": "keys",
}
"""Parameters of the library that have other names on the command line."""
_VARIABLES: Final = {"proxy": "TWDM_PROXY", "ca_file": "TWDM_CA_FILE"}
"""Parameters of the library that are environment variables on the command line."""


def typed_name(parameter: str) -> str:
    """Return the name that the running command has for a parameter of the library: that of an option, an argument or an
    environment variable.
    """
    context = click.get_current_context(silent=True)
    own: Sequence[click.Parameter] = context.command.params if context is not None else ()
    for one in own:
        if context is not None and one.name in {parameter, _TYPED.get(parameter)}:
            source = context.get_parameter_source(one.name or "")
            if source is click.core.ParameterSource.ENVIRONMENT and isinstance(one.envvar, str):
                return one.envvar
            return max(one.opts, key=len) if isinstance(one, click.Option) else one.make_metavar(context).strip("[].")
    return _VARIABLES.get(parameter, parameter)
