"""``twdm database``: the tables in a PostgreSQL database."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from twdm_async import database as care
from twdm_async.cli.connect import run
from twdm_async.cli.terminal import say, show, shown
from twdm_async.errors import InvalidInput

database = typer.Typer(
    help="The tables of outboxes, inboxes and quotas in a PostgreSQL database.", no_args_is_help=True
)

Url = Annotated[
    str,
    typer.Argument(
        envvar="TWDM_DATABASE", help="postgresql://USER@HOST/DATABASE; with ?twdm_schema=NAME for another schema."
    ),
]


@database.command()
def install(url: Url) -> None:
    """Make the schema and its tables. Doing it twice does no harm."""
    run(care.install(url))


@database.command()
def upgrade(url: Url) -> None:
    """Bring the tables up to date, while others send."""
    run(care.install(url))


@database.command()
def check(url: Url) -> None:
    """See that the tables are there and up to date, and show who uses them. Ends with 1 if something is wrong."""
    show([shown(user) for user in run(care.check(url))])


@database.command()
def sql(schema: Annotated[str, typer.Option(help="The schema's name.")] = "twdm") -> None:
    """Show the statements that `install` executes, for a migration of your own."""

    async def main() -> None:
        say(Console(), care.install_sql(schema))

    run(main())


@database.command()
def resume(
    url: Url,
    nothing_lost: Annotated[
        bool,
        typer.Option("--nothing-lost", help="Nothing that was committed is missing, as with synchronous replication."),
    ] = False,
    lost: Annotated[
        bool,
        typer.Option(
            "--lost",
            help="Something may be missing: what waits is set aside as failed, for you to look at, and nothing is sent "
            "until the longest window is over.",
        ),
    ] = False,
) -> None:
    """Go on after a standby took over, or a backup was restored. Stop what sends before."""

    async def main() -> None:
        if lost == nothing_lost:
            raise InvalidInput(parameter="resume", problem="say either --lost or --nothing-lost")
        await care.resume(url, is_complete=nothing_lost)

    run(main())
