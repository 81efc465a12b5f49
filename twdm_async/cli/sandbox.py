"""``twdm sandbox``: run a local double of the API; and, from another terminal, be a person in it."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from typing import Annotated, Any

import typer
from attrs import asdict

from twdm_async.cli.ask_sandbox import ask_sandbox
from twdm_async.cli.connect import run
from twdm_async.cli.signals import on_signal
from twdm_async.cli.terminal import as_json, complain, show
from twdm_async.errors import InvalidInput
from twdm_async.sandbox import Fault, Sandbox

sandbox = typer.Typer(help="Run a local double of the API, or be a person in it.", invoke_without_command=True)

PersonId = Annotated[str, typer.Argument(help="The person's user id.", metavar="PERSON")]
Url = Annotated[
    str,
    typer.Option("--url", envvar="TWDM_SANDBOX", help="The address that `twdm sandbox` prints.", show_default=True),
]
_URL = "http://127.0.0.1:8765"


@sandbox.callback()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="The address to listen at. Whoever can reach it can read and write everything in it.")
    ] = "127.0.0.1",
    time_scale: Annotated[float, typer.Option(help="How many times as fast the quotas' windows pass.")] = 1.0,
    list_lag: Annotated[
        float, typer.Option(min=0, help="Seconds after which new messages appear in the list, at the most.")
    ] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="What goes wrong with one request in ten, such as reset; as often as you like."),
    ] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(help="Where events are sent, as soon as it answers the check; as often as you like."),
    ] = None,
) -> None:
    """Run a local double of the API until Ctrl-C. Its address shows a page on which you see what people see."""
    if context.invoked_subcommand is None:
        run(_serve(webhook or [], fault or [], port=port, host=host, time_scale=time_scale, list_lag=(0.0, list_lag)))
        return
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        complain(f"--{given[0].replace('_', '-')} is for starting a sandbox; `--url` after the command names one")
        raise typer.Exit(2)


async def _serve(webhooks: list[str], kinds: list[str], **options: Any) -> None:
    double = Sandbox(faults=[Fault(kind, probability=0.1) for kind in kinds], **options)
    if wrong := [url for url in webhooks if not url.startswith(("http://", "https://"))]:
        raise InvalidInput(parameter="--webhook", problem=f"{wrong[0]} is no http or https URL")
    try:
        await double.start()
    except OSError as error:
        complain(f"port {double.port} cannot be had: {error.strerror}")
        raise typer.Exit(1) from None
    keys = asdict(double.credentials)
    memory = tempfile.TemporaryDirectory(prefix="twdm_sandbox_")  # what is spent here is not remembered elsewhere
    typer.echo(f"# See what people see: {double.url}/")
    typer.echo("# In another terminal, these let every twdm command use it:")
    for name, value in {
        "API_URL": double.url,
        "SANDBOX": double.url,
        **keys,
        "QUOTA_STORE": f"sqlite:///{memory.name}/quota.db",
    }.items():
        typer.echo(f"export TWDM_{name.upper()}={value}")
    stop = asyncio.Event()
    on_signal(signal.SIGTERM, stop.set)
    subscribing = [asyncio.create_task(_subscribe(double, url)) for url in webhooks]
    try:
        await stop.wait()
    finally:
        for task in subscribing:
            task.cancel()
        memory.cleanup()
        await double.close()
        typer.echo(f"# {len(double.messages)} messages, {len(double.breaches)} requests over a quota", err=True)


async def _subscribe(double: Sandbox, url: str) -> None:
    """Subscribe a webhook, also one that is started later than the sandbox."""
    told = ""
    while True:
        try:
            await double.subscribe(url)
        except InvalidInput as error:
            if error.problem != told:
                typer.echo(f"# {url}: {error.problem}; trying again every second", err=True)
            told = error.problem
            await asyncio.sleep(1.0)
        else:
            typer.echo(f"# {url}: events are sent there", err=True)
            return


@sandbox.command()
def say(
    person: PersonId, text: Annotated[str, typer.Argument(help="What the person writes.")], url: Url = _URL
) -> None:
    """Write to the account as a person."""
    show(_ask(url, "POST", f"people/{person}/write", {"text": text}))


@sandbox.command()
def tap(
    person: PersonId, label: Annotated[str, typer.Argument(help="The quick reply to tap.")], url: Url = _URL
) -> None:
    """Tap a quick reply as a person."""
    show(_ask(url, "POST", f"people/{person}/tap", {"label": label}))


@sandbox.command()
def read(person: PersonId, url: Url = _URL) -> None:
    """Read all messages as a person."""
    _ask(url, "POST", f"people/{person}/read", {})


@sandbox.command()
def log(
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="How many, the latest ones.")] = 50,
    messages: Annotated[bool, typer.Option("--messages", help="Messages, not requests.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="Only requests that were refused or went wrong.")] = False,
    url: Url = _URL,
) -> None:
    """Show the requests that came, and why they were refused; or the messages. One JSON object a line."""
    what = "messages" if messages else "requests"
    query = {"most": str(most)} | ({"refused": "true"} if refused and not messages else {})
    for one in _ask(url, "GET", what, query=query)[what]:
        typer.echo(as_json(one))


@sandbox.command()
def time(
    by: Annotated[str | None, typer.Argument(help="How far to move it, such as +15min or +24h.")] = None,
    url: Url = _URL,
) -> None:
    """Show the time in the sandbox, or move it forward."""
    show(_ask(url, "GET", "time") if by is None else _ask(url, "POST", "time", {"advance": by}))


@sandbox.command()
def quotas(url: Url = _URL) -> None:
    """Show what is spent, as the sandbox counts it."""
    show(_ask(url, "GET", "quotas")["quotas"])


@sandbox.command()
def fault(
    kind: Annotated[str | None, typer.Argument(help="What is to go wrong; all that is on if not given.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Switch it off; without a kind, switch all off.")] = False,
    probability: Annotated[float, typer.Option(min=0, max=1, help="How often.")] = 1.0,
    url: Url = _URL,
) -> None:
    """Show what goes wrong on purpose, or switch it on or off."""
    if off:
        show(_ask(url, "DELETE", "faults", query={"kind": kind} if kind else None)["faults"])
    elif kind is None:
        show(_ask(url, "GET", "faults")["faults"])
    else:
        show(_ask(url, "POST", "faults", {"kinds": kind, "probability": probability}))


@sandbox.command()
def webhook(
    target: Annotated[str, typer.Argument(help="The webhook's URL.", metavar="WEBHOOK")],
    off: Annotated[bool, typer.Option("--off", help="Send it nothing any more.")] = False,
    url: Url = _URL,
) -> None:
    """Send events to a webhook, after a check that it knows the consumer secret."""
    if off:
        show(_ask(url, "DELETE", "webhooks", query={"url": target})["webhooks"])
    else:
        show(_ask(url, "POST", "webhooks", {"url": target})["webhooks"])


@sandbox.command()
def clear(url: Url = _URL) -> None:
    """Forget all messages, requests and what was spent."""
    _ask(url, "POST", "clear", {})


def _ask(url: str, method: str, path: str, body: Any = None, query: dict[str, str] | None = None) -> Any:
    return run(ask_sandbox(url, method, path, body, query))
