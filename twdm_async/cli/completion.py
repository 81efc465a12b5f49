"""``twdm completion``: let a shell complete commands and options with the Tab key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from twdm_async.cli.options import Options, command
from twdm_async.cli.root import root
from twdm_async.cli.terminal import show


@command(None, "completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
async def completion(options: Options, shell: str) -> None:
    """Print a script that lets a shell complete commands and options.

    In bash: `eval "$(twdm completion bash)"`, in zsh: `eval "$(twdm completion zsh)"`, in fish:
    `twdm completion fish | source`.
    """
    kind = get_completion_class(shell)
    assert kind is not None, "it is one of the choices"  # noqa: S101 - click has them all
    script = kind(root, {}, "twdm", "_TWDM_COMPLETE").source()
    if options.as_json:
        show(options, {"script": script})
    else:
        click.echo(script)
