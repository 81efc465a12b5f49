"""Options for what a message may have besides its text: quick replies, buttons, an attachment."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from attrs import evolve

from twdm_async.cli.terminal import standard_input
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import is_id
from twdm_async.models.quick_replies import CallToAction, QuickReply
from twdm_async.resources.direct_messages import outgoing

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from twdm_async.client import Client
    from twdm_async.models.media import Media, MediaCategory

CHOICES: Final = click.option(
    "--choice",
    multiple=True,
    metavar="LABEL[=METADATA]",
    help="A quick reply to tap. Give this option up to 20 times.",
)
BUTTONS: Final = click.option(
    "--button", multiple=True, metavar="LABEL=URL", help="A button that opens a page. Give this option up to 3 times."
)
ATTACHMENT: Final = click.option(
    "--attach", metavar="FILE|ID", help="A picture, animation or film to upload and attach, or its media id."
)

_CATEGORIES: Final[dict[str, MediaCategory]] = {".gif": "dm_gif", ".mp4": "dm_video", ".mov": "dm_video"}


def text_or_input(text: str) -> str:
    """Return `text`, or the content of standard input if `text` is ``-``.

    Raises:
        InvalidInput: standard input is not UTF-8, or `text` is not in the encoding of the command line.
    """
    if text != "-":
        if any("\udc80" <= character <= "\udcff" for character in text):  # bytes that could not be decoded
            problem = f"is not in the encoding of the command line ({sys.getfilesystemencoding()})"
            raise InvalidInput(parameter="text", problem=problem)
        return text
    try:
        return standard_input().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidInput(parameter="text", problem="standard input is not UTF-8") from None


def checked_message(
    recipient: str, text: str, profile: str | None, choices: Sequence[str], buttons: Sequence[str], attach: str | None
) -> dict[str, Any]:
    """Check a message, so that nothing is uploaded for one that cannot be sent. Return the arguments of
    :meth:`DirectMessages.send <twdm_async.resources.direct_messages.DirectMessages.send>` for it, except for recipient
    and attachment.

    Raises:
        InvalidInput: the message cannot be sent.
    """
    words = text_or_input(text) or (None if attach is not None else "")  # a file alone is a message, too
    message: dict[str, Any] = {
        "text": words,
        "custom_profile_id": profile,
        "quick_replies": quick_replies(choices),
        "ctas": _ctas(buttons),
    }
    outgoing(recipient, **message, attachment="1" if attach else None)
    return message


def quick_replies(choices: Sequence[str]) -> list[QuickReply] | None:
    """Return the answers to tap; ``None`` if there are none.

    Raises:
        InvalidInput: a label or its metadata cannot be sent.
    """
    split = [choice.partition("=") for choice in choices]
    with named("choice"):
        return [QuickReply(label, metadata=metadata or None) for label, _, metadata in split] or None


def _ctas(buttons: Sequence[str]) -> list[CallToAction] | None:
    """Return the buttons; ``None`` if there are none.

    Raises:
        InvalidInput: a button has no URL, or cannot be sent.
    """
    split = [button.partition("=") for button in buttons]
    if any(not url for _, _, url in split):
        raise InvalidInput(parameter="button", problem="must be LABEL=URL, such as 'Our shop=https://example.com'")
    with named("button"):
        return [CallToAction(label, url) for label, _, url in split] or None


async def attachment(client: Client, given: str | None) -> Media | str | None:
    """Upload the file to be attached, unless `given` is a media id; ``-`` is standard input.

    Raises:
        InvalidInput: the file cannot be read, or no message can have a file of its kind.
    """
    if given is None or is_id(given):
        return given
    category = _CATEGORIES.get(Path(given).suffix.lower(), "dm_image")
    with named("attach"):
        return await client.media.upload(standard_input() if given == "-" else given, category=category)


@contextlib.contextmanager
def named(option: str) -> Generator[None]:
    """Let an InvalidInput name the option instead of a parameter of the library."""
    try:
        yield
    except InvalidInput as error:
        raise evolve(error, parameter=option) from None
