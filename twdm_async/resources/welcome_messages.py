"""Welcome messages (page *POST direct_messages/welcome_messages/new*)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from twdm_async._quiet import quiet
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_id
from twdm_async.models.welcome_messages import WelcomeMessage
from twdm_async.resources.message_data import message_data
from twdm_async.transport.call import Caller
from twdm_async.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.models.direct_messages import CallToAction, QuickReply
    from twdm_async.models.media import Media

_LONGEST_TEXT: Final = 9_990
_NAME: Final = re.compile(r"[A-Za-z0-9\-_ #@]{1,100}")


@frozen
class WelcomeMessages:
    """Calls on welcome messages."""

    _caller: Caller

    @quiet
    async def create(
        self,
        text: str | None = None,
        *,
        name: str | None = None,
        quick_replies: Sequence[QuickReply] | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Media | str | int | None = None,
        custom_profile_id: str | int | None = None,
        max_wait: float | None = None,
    ) -> WelcomeMessage:
        """Make a welcome message (page *POST direct_messages/welcome_messages/new*).

        Args:
            text: at most 9990 characters; may be left out if there is an attachment.
            name: to find it again: at most 100 letters, digits, ``- _ # @`` and spaces.
            quick_replies: 1 to 20 answers to tap.
            ctas: 1 to 3 buttons.
            attachment: a file uploaded with ``shared=True``, or its media id.
            custom_profile_id: the custom profile it shows under. The documents say that welcome messages can have one,
                and do not say where it goes. It is passed as ``welcome_message.custom_profile_id``, which nobody has
                confirmed; look at the reply's ``custom_profile_id`` to see whether it was taken.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.

        Raises:
            InvalidInput: something is wrong with the arguments; nothing was sent or spent.
            DeliveryUnknown: it left, and no readable answer came.
            ResponseError: the API refused it.
        """
        data = message_data(text, limit=_LONGEST_TEXT, quick_replies=quick_replies, ctas=ctas, attachment=attachment)
        message: dict[str, Any] = {"message_data": data}
        if name is not None:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InvalidInput(
                    parameter="name", problem="must be 1 to 100 of ASCII letters, digits, - _ # @, space"
                )
            message["name"] = name
        if custom_profile_id is not None:
            message["custom_profile_id"] = checked_id(custom_profile_id, "custom_profile_id")
        return await self._caller.call(
            "welcome_messages.create",
            {"welcome_message": message},
            WelcomeMessage,
            message=Message(custom_profile_id=message.get("custom_profile_id"), text=text),
            max_wait=max_wait,
        )
