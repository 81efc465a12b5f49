"""``twdm mcp``: a server of the Model Context Protocol, whose tools send messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

import click

from twdm_async.cli.connect import open_client_and_outbox
from twdm_async.cli.failure import Failure
from twdm_async.cli.options import ACCOUNT, OUTBOX, Options, command
from twdm_async.cli.signals import told_to_stop
from twdm_async.cli.terminal import note
from twdm_async.desk import Desk
from twdm_async.quota.spec import Quota

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from mcp.server.mcpserver import MCPServer


@command(None, "mcp", ACCOUNT, OUTBOX)
@click.option(
    "--name",
    "names",
    multiple=True,
    required=True,
    metavar="NAME=PROFILE",
    help="A name under which messages may be sent, and the id of its custom profile. NAME= alone stands for the "
    "account's own name and picture. Can be given several times.",
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="ID",
    help="A person to whom messages may be sent; everybody if not given. Can be given several times.",
)
@click.option(
    "--ask",
    is_flag=True,
    help="Let the person in front of the client approve each message; hold it if the client cannot ask.",
)
@click.option("--hold", is_flag=True, help="Hold each message until somebody approves it: `twdm outbox approve`.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many messages may be sent to one person within an hour.",
)
@click.option(
    "--http",
    "port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Serve streamable HTTP on this port of 127.0.0.1, at /mcp, until Ctrl-C; 0 takes a free one. If not given, "
    "standard input and output are the connection.",
)
async def mcp(
    options: Options,
    names: Sequence[str],
    recipients: Sequence[str],
    ask: bool,
    hold: bool,
    limit: int,
    port: int | None,
) -> None:
    """Let models send messages by the Model Context Protocol (MCP).

    The tools are send_message and message_state. What they send goes through the outbox, so that a repeated call sends
    nothing twice. With --http, everybody who can reach the port of this machine can send messages.
    """
    profiles = {name: profile or None for name, _, profile in (one.partition("=") for one in names)}
    if ask and hold:
        raise Failure("--ask and --hold are two ways to ask a person; choose one", 2)
    if len(profiles) < len(names):
        raise Failure("--name: a name is given twice", 2)
    if unnamed := [one for one in names if "=" not in one or one.startswith("=")]:
        raise Failure(f"--name: {unnamed[0]} is not NAME=PROFILE", 2)
    async with open_client_and_outbox(options) as (client, outbox):
        try:
            from twdm_async.adapters.mcp import server  # noqa: PLC0415 - imported only if it is used
        except ModuleNotFoundError:
            raise Failure("MCP needs an extra: pip install 'twdm_async[cli,mcp]'", 2) from None
        desk = Desk(
            client,
            outbox,
            profiles,
            recipients=recipients or None,
            hold=hold,
            limit=Quota(limit, per=3600.0),
        )
        async with outbox.running():
            made = server(desk, asks=ask)
            is_over = await (_serve_stdio(made) if port is None else _serve(made, port))
    if not is_over:
        os._exit(0)  # the SDK's thread reads standard input until that is closed


async def _serve_stdio(made: MCPServer) -> bool:
    """Serve standard input and output until the client closes them, or until the process is told to stop. Return
    whether the client has closed them.
    """
    with told_to_stop() as stop:
        serving, stopping = asyncio.create_task(made.run_stdio_async()), asyncio.create_task(stop.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    if not serving.done():
        return False
    with contextlib.suppress(BaseExceptionGroup):  # the client no longer reads
        serving.result()
    return True


async def _serve(made: MCPServer, port: int) -> bool:
    """Serve streamable HTTP until the process is told to stop."""
    import uvicorn  # noqa: PLC0415 - imported only if it is used

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield  # signals are this command's business

    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise Failure(f"cannot listen on 127.0.0.1, port {port}: {error.strerror}") from None
    config = uvicorn.Config(made.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=5)
    serving = Server(config)
    with told_to_stop() as stop:
        task = asyncio.create_task(serving.serve(sockets=[listening]))
        note(f"# http://127.0.0.1:{listening.getsockname()[1]}/mcp")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        serving.should_exit = True
        await task
    return True
