"""``twdm database``: the tables in a PostgreSQL database."""

from __future__ import annotations

import click

from twdm_async import database as tables
from twdm_async.cli.options import Options, command
from twdm_async.cli.terminal import show
from twdm_async.errors import InvalidInput


@click.group()
def database() -> None:
    """Create and check the tables of outboxes, inboxes and quotas in a PostgreSQL database.

    URL is postgresql://USER@HOST/DATABASE, with ?twdm_schema=NAME if the schema is not called twdm. If it is not given,
    it is taken from TWDM_DATABASE.
    """


_URL = click.argument("url", envvar="TWDM_DATABASE")


@command(database, "install")
@_URL
async def install(options: Options, url: str) -> None:
    """Create the schema and its tables. Running this twice does no harm."""
    await tables.install(url)
    show(options, {"installed": True})


@command(database, "upgrade")
@_URL
async def upgrade(options: Options, url: str) -> None:
    """Bring the tables up to date, even while other processes send."""
    await tables.install(url)
    show(options, {"up to date": True})


@command(database, "check")
@_URL
async def check(options: Options, url: str) -> None:
    """Check that the tables exist and are up to date.

    This also shows which processes use them.
    """
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
    "--nothing-lost",
    is_flag=True,
    help="No committed transaction is missing, as is the case with synchronous replication.",
)
@click.option(
    "--lost",
    is_flag=True,
    help="Some transactions may be missing. Waiting messages that may have been sent are set aside as failed, for you "
    "to look at, and nothing is sent until the longest quota window has passed.",
)
async def resume(options: Options, url: str, nothing_lost: bool, lost: bool) -> None:
    """Go on after a failover or a restored backup. First stop every process that sends."""
    if lost == nothing_lost:
        raise InvalidInput(parameter="resume", problem="give either --lost or --nothing-lost")
    await tables.resume(url, is_complete=nothing_lost)
    show(options, {"resumed": True})
