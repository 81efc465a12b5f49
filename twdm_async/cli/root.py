"""The command ``twdm`` itself: it finds its commands by name, imports each when it is called, and ends the process.

``twdm --help`` and ``twdm --version`` import only click.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from twdm_async import __version__
from twdm_async._log import printable
from twdm_async.cli.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS: Final = {
    "account": "Show and change the account that posts.",
    "completion": "Print a script that lets a shell complete commands and options.",
    "database": "Create and check the tables of outboxes, inboxes and quotas in PostgreSQL.",
    "demo": "Watch 60 agents send 600 messages to a local sandbox that enforces a quota.",
    "doctor": "Find out what the account and its keys may do, and what is missing.",
    "inbox": "Show, retry or forget events that were not handled.",
    "mcp": "Let models send messages by the Model Context Protocol (MCP).",
    "media": "Upload pictures, animations and films.",
    "messages": "Show and delete messages, and wait for new ones.",
    "outbox": "Queue messages on the disk, and send each of them once.",
    "profiles": "Make, show and delete custom profiles.",
    "quotas": "Show how much of each quota is spent.",
    "sandbox": "Run a local double of the API, or act as a person in it.",
    "send": "Send one message.",
    "send-many": "Send every message in a file, through the outbox.",
    "users": "Look up other people's accounts.",
    "welcome": "Make, show and choose welcome messages.",
}
"""By command name, which is also that of its module and of its object there: its help in one line."""

_opened: Final = list[IO[str]]()  # in place of closed streams

EXIT_CODES: Final = """\b
Exit codes:
    0  done
    1  the API refused the request, or a part of the work was not done
    2  an argument, an option, a file or the keys are wrong; no message was sent
    3  a quota would free a slot later than --max-wait allows; what waited for it was not sent
    4  the message may or may not have arrived; do not just send it again
    5  the API, the sandbox, a database, or the file of quotas, outbox or inbox cannot be used
    6  done, but the output could not be written
  130  stopped by Ctrl-C"""


class _Root(click.Group):
    """The group of all commands, each of which is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"twdm_async.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
    no_args_is_help=True,
)
@click.version_option(__version__, "-V", "--version", message="twdm_async %(version)s")
def root() -> None:
    """Send Direct Messages under custom profiles, within the quotas of the API.

    The keys come from the environment (TWDM_CONSUMER_KEY, TWDM_CONSUMER_SECRET, TWDM_ACCESS_TOKEN,
    TWDM_ACCESS_TOKEN_SECRET) or from ~/.twurlrc. On a terminal, commands print tables; into a pipe or with --json, they
    print JSON. Errors and progress go to standard error.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code. An error is printed as one line on standard error.

    Args:
        arguments: the arguments; those of the process if not given.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape what the terminal cannot encode
            stream.reconfigure(errors="backslashreplace")
    try:
        code = root.main(arguments, prog_name="twdm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except Failure as error:
        click.echo(f"error: {printable(error.message)}", err=True)
        return error.exit_code
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        more = f" See `{context.command_path} --help`." if context is not None else ""
        click.echo(f"error: {printable(' '.join(error.format_message().split()))}{more}", err=True)
        return error.exit_code
    except click.Abort:  # Ctrl-C
        return 130
    except OSError as error:
        click.echo(f"error: {error.filename or 'output'} cannot be written: {error.strerror}", err=True)
        return 1 if error.filename else 6
    return code if isinstance(code, int) else 0


class _Closed(io.TextIOBase):
    """A standard output that the caller has closed."""

    encoding = "utf-8"

    def write(self, _: str, /) -> int:
        raise OSError(errno.EBADF, "it is closed")


def _open_closed_streams() -> None:
    """Open the standard streams that the caller has closed, lest a file or a connection be opened in their place: an
    empty input, an output that cannot be written, and errors that nobody reads.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest free descriptor, which is the closed one.
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - it stays open to the end
            setattr(sys, name, stream if name != "stdout" else _Closed())
            _opened.append(stream)
