"""``twdm sandbox``: run a local double of the API; and, from another terminal, act as a person in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from twdm_async._json import is_array, is_object
from twdm_async.cli.ask_sandbox import ask_sandbox
from twdm_async.cli.failure import Failure
from twdm_async.cli.options import Options, command, log_to_terminal, until_done
from twdm_async.cli.signals import told_to_stop
from twdm_async.cli.terminal import as_json, note, show
from twdm_async.errors import ConnectFailed, InvalidInput
from twdm_async.outbox import Outbox
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

_TIMES: Final = ("at", "ends", "now")  # the sandbox's names of moments

_PERSON = click.argument("person")
_URL = click.option(
    "--url",
    envvar="TWDM_SANDBOX",
    default=lambda: f"http://127.0.0.1:{os.environ.get('TWDM_SANDBOX_PORT') or 8765}",
    show_default="http://127.0.0.1:8765",
    help="The address that `twdm sandbox` prints.",
)


@click.group(invoke_without_command=True)
@click.option(
    "--port",
    envvar="TWDM_SANDBOX_PORT",
    type=click.IntRange(0, 65_535),
    default=8765,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on. Everybody who can reach it can read and change everything in the sandbox.",
)
@click.option(
    "--time-scale",
    type=float,
    default=1.0,
    show_default=True,
    help="The factor by which quota windows are shortened; with 86400, a window of a day lasts a second.",
)
@click.option(
    "--list-lag",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest time until a new message appears in the list of messages.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND",
    help="Let one request in ten go wrong with a fault of this kind.",
)
@click.option(
    "--outbox",
    metavar="PLACE",
    help="An outbox whose held messages the page shows, to approve or reject them: a file, or "
    "postgresql://HOST/DATABASE.",
)
@click.option("--webhook", "webhooks", multiple=True, metavar="URL", help="Send events to the webhook at this URL.")
@click.option("--json", "as_json", is_flag=True, help="Print the address and the environment as JSON.")
@click.option("-v", "--verbose", count=True, help="Log what the sandbox does.")
@click.pass_context
def sandbox(
    context: click.Context,
    /,
    faults: Sequence[str],
    webhooks: Sequence[str],
    list_lag: float,
    outbox: str | None,
    as_json: bool,
    verbose: int,
    **given: Any,
) -> None:
    """Run a local double of the API, or act as a person in it.

    Without a command, a sandbox runs until Ctrl-C; its address shows a page on which you see what people see. The
    commands use a sandbox that runs already.
    """
    if context.invoked_subcommand is None:
        log_to_terminal(verbose)
        double = _double(faults, webhooks, list_lag, given)
        until_done(_serve(double, webhooks, Options(as_json=as_json, outbox=outbox)))
        return
    sources = {name: context.get_parameter_source(name) for name in context.params}
    typed = [name for name, source in sources.items() if source is click.core.ParameterSource.COMMANDLINE]
    if typed:
        option = next(one for one in context.command.params if one.name == typed[0])
        raise Failure(
            f"{option.opts[-1]} is for starting a sandbox; to name one that runs, give --url after the command", 2
        )


def _double(faults: Sequence[str], webhooks: Sequence[str], list_lag: float, given: dict[str, Any]) -> Sandbox:
    if wrong := [url for url in webhooks if not url.startswith(("http://", "https://"))]:
        raise Failure(f"--webhook: {wrong[0]} is not an http or https URL", 2)
    try:
        kinds = [Fault(kind, probability=0.1) for kind in faults]
        return Sandbox(faults=kinds, list_lag=(0.0, list_lag), **given)
    except InvalidInput as error:
        option = {"time_scale": "--time-scale", "kinds": "--fault", "kind": "--fault"}.get(
            error.parameter, error.parameter
        )
        problem = error.problem
    raise Failure(f"{option}: {problem}", 2)


@contextlib.asynccontextmanager
async def _shown_outbox(double: Sandbox, place: str | None) -> AsyncGenerator[None]:
    """Show the held messages of the outbox in `place`, if one is given."""
    if place is None:
        yield
        return
    async with double.client() as client, Outbox(client, place) as outbox:
        double.outbox = outbox
        yield
        double.outbox = None


async def _serve(double: Sandbox, webhooks: Sequence[str], options: Options) -> None:
    try:
        await double.start()
    except OSError as error:
        problem = f"cannot listen on {double.host}, port {double.port}: {error.strerror}"
        with contextlib.suppress(ConnectFailed, InvalidInput):
            await ask_sandbox(double.url, "GET", "time")
            problem = f"a sandbox runs at {double.url} already"
        raise Failure(problem) from None
    memory = tempfile.TemporaryDirectory(
        prefix="twdm_sandbox_"
    )  # a store of its own, so that sandbox quotas stay out of the user's store
    double.environment["TWDM_QUOTA_STORE"] = f"sqlite:///{memory.name}/quota.db"
    if options.as_json:
        show(options, {"url": double.url, "environment": double.environment})
    else:
        click.echo(f"# See what people see: {double.url}/")
        click.echo('# Set these variables to use it from programs; or, in another shell: eval "$(twdm sandbox env)"')
        _print_exports(double.environment)
    subscribing = [asyncio.create_task(_subscribe(double, url)) for url in webhooks]
    try:
        with told_to_stop() as stop:
            async with _shown_outbox(double, options.outbox):
                await stop.wait()
    finally:
        for task in subscribing:
            task.cancel()
        memory.cleanup()
        await double.close()
        note(f"# {len(double.messages)} messages, {len(double.breaches)} requests over a quota")


def _print_exports(environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        click.echo(f"export {name}={value}")
    sys.stdout.flush()  # a program at the other end of a pipe may wait for it


async def _subscribe(double: Sandbox, url: str) -> None:
    """Subscribe a webhook. Try again every second until that works, because it may start later than the sandbox."""
    told = ""
    while True:
        try:
            await double.subscribe(url)
        except InvalidInput as error:
            if error.problem != told:
                note(f"# {url}: {error.problem}; trying again every second")
            told = error.problem
            await asyncio.sleep(1.0)
        else:
            note(f"# {url}: events are sent there")
            return


@command(sandbox, "env")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a sandbox that is starting.",
)
@_URL
async def env(options: Options, wait: float, url: str) -> None:
    """Print the environment variables for using a sandbox.

    With `eval "$(twdm sandbox env)"`, twdm and Client.from_env() use the sandbox.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            answer = await ask_sandbox(url, "GET", "environment")
            break
        except ConnectFailed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
    if options.as_json:
        show(options, answer["environment"])
    else:
        _print_exports(answer["environment"])


def _show(options: Options, answer: Any) -> None:
    """Print an answer of the sandbox, with its times as all commands print them."""
    show(options, _with_times(answer))


def _with_times(answer: Any) -> Any:
    if is_array(answer):
        return [_with_times(one) for one in answer]
    if not is_object(answer):
        return answer
    return {
        name: datetime.fromtimestamp(value / 1000, UTC) if name in _TIMES else _with_times(value)
        for name, value in answer.items()
    }


@command(sandbox, "say")
@_PERSON
@click.argument("text")
@_URL
async def say(options: Options, person: str, text: str, url: str) -> None:
    """Write TEXT to the account, as a person.

    PERSON is the person's user id.
    """
    _show(options, await ask_sandbox(url, "POST", f"people/{person}/write", {"text": text}))


@command(sandbox, "tap")
@_PERSON
@click.argument("label")
@_URL
async def tap(options: Options, person: str, label: str, url: str) -> None:
    """Tap the quick reply called LABEL, as a person.

    PERSON is the person's user id.
    """
    _show(options, await ask_sandbox(url, "POST", f"people/{person}/tap", {"label": label}))


@command(sandbox, "read")
@_PERSON
@_URL
async def read(options: Options, person: str, url: str) -> None:
    """Read all messages, as a person.

    PERSON is the person's user id.
    """
    _show(options, await ask_sandbox(url, "POST", f"people/{person}/read", {}))


@command(sandbox, "log")
@click.option("--most", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many to show.")
@click.option("--messages", is_flag=True, help="Show messages instead of requests.")
@click.option("--refused", is_flag=True, help="Show only requests that were refused or went wrong.")
@_URL
async def log(options: Options, most: int, messages: bool, refused: bool, url: str) -> None:
    """Show the latest requests, or the latest messages.

    A request that was refused is shown with the reason. Without --json, each is one JSON object on a line.
    """
    what = "messages" if messages else "requests"
    query = {"most": str(most)} | ({"refused": "true"} if refused and not messages else {})
    found = (await ask_sandbox(url, "GET", what, query=query))[what]
    if options.as_json:
        _show(options, found)
    else:
        for one in found:
            click.echo(as_json(_with_times(one)))


@command(sandbox, "time")
@click.argument("by", required=False)
@_URL
async def time_(options: Options, by: str | None, url: str) -> None:
    """Show the time in the sandbox, or move it forward.

    BY is how far to move it, such as +15min or +24h. It moves half a percent further, so that a quota window of that
    length is surely over.
    """
    if by is None:
        _show(options, await ask_sandbox(url, "GET", "time"))
    else:
        _show(options, await ask_sandbox(url, "POST", "time", {"advance": by}))


@command(sandbox, "quotas")
@_URL
async def quotas(options: Options, url: str) -> None:
    """Show how much of each quota is spent, as the sandbox counts it."""
    _show(options, (await ask_sandbox(url, "GET", "quotas"))["quotas"])


@command(sandbox, "fault")
@click.argument("kind", required=False)
@click.option("--off", is_flag=True, help="Switch this fault off; without KIND, switch off all faults.")
@click.option(
    "--probability", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="The part of requests."
)
@_URL
async def fault(options: Options, kind: str | None, off: bool, probability: float, url: str) -> None:
    """Show the faults that are switched on, or switch one on.

    With KIND, requests go wrong with a fault of this kind.
    """
    if off:
        _show(options, (await ask_sandbox(url, "DELETE", "faults", query={"kind": kind} if kind else None))["faults"])
    elif kind is None:
        _show(options, (await ask_sandbox(url, "GET", "faults"))["faults"])
    else:
        _show(options, await ask_sandbox(url, "POST", "faults", {"kinds": kind, "probability": probability}))


@command(sandbox, "webhook")
@click.argument("webhook")
@click.option("--off", is_flag=True, help="Send no more events to this webhook.")
@_URL
async def webhook_(options: Options, webhook: str, off: bool, url: str) -> None:
    """Send events to the webhook at the URL WEBHOOK.

    Before that, the sandbox checks that the webhook knows the consumer secret.
    """
    if off:
        answer = await ask_sandbox(url, "DELETE", "webhooks", query={"url": webhook})
    else:
        answer = await ask_sandbox(url, "POST", "webhooks", {"url": webhook})
    _show(options, answer["webhooks"])


@command(sandbox, "clear")
@_URL
async def clear(options: Options, url: str) -> None:
    """Forget all messages and requests, and what was spent of the quotas."""
    _show(options, await ask_sandbox(url, "POST", "clear", {}))
