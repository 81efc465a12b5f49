"""``twdm database``: the tables in a PostgreSQL database."""

from __future__ import annotations

import click

from twdm_async import database as tables
from twdm_async.cli.options import Options, command
from twdm_async.cli.terminal import show
from twdm_async.errors import InvalidInput


@click.group()
def database() -> None:
    """The tables of outboxes, inboxes and quotas in a PostgreSQL database.

    URL is postgresql://USER@HOST/DATABASE, with ?twdm_schema=NAME for another schema than twdm. If it is not given, it
    is taken from TWDM_DATABASE.
    """


_URL = click.argument("url", envvar="TWDM_DATABASE")


@command(database, "install")
@_URL
async def install(options: Options, url: str) -> None:
    """Create the schema and its tables. Doing it twice does no harm."""
    await tables.install(url)
    show(options, {"installed": True})


@command(database, "upgrade")
@_URL
async def upgrade(options: Options, url: str) -> None:
    """Bring the tables up to date, while others send."""
    await tables.install(url)
    show(options, {"up to date": True})


@command(database, "check")
@_URL
async def check(options: Options, url: str) -> None:
    """Check that the tables are there and up to date, and show which processes use them."""
    show(options, list(await tables.check(url)))


@command(database, "sql")
@click.option("--schema", default="twdm", show_default=True, help="The schema's name.")
async def sql(options: Options, schema: str) -> None:
    """Show the statements that `install` executes, for a migration of your own."""
    statements = tables.install_sql(schema)
    if options.as_json:
        show(options, {"sql": statements})
    else:
        click.echo(statements)


@command(database, "resume")
@_URL
@click.option(
    "--nothing-lost", is_flag=True, help="Nothing that was committed is missing, as with synchronous replication."
)
@click.option(
    "--lost",
    is_flag=True,
    help="Something may be missing: what waits is set aside as failed, for you to look at, and nothing is sent until "
    "the longest window is over.",
)
async def resume(options: Options, url: str, nothing_lost: bool, lost: bool) -> None:
    """Go on after a standby took over, or a backup was restored. First stop every process that sends."""
    if lost == nothing_lost:
        raise InvalidInput(parameter="resume", problem="give either --lost or --nothing-lost")
    await tables.resume(url, is_complete=nothing_lost)
    show(options, {"resumed": True})
