"""Direct messages (page *Send a Direct Message with custom profile*)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from twdm_async.models.checks import checked_id
from twdm_async.models.direct_messages import DirectMessage
from twdm_async.quota.lanes import Lane
from twdm_async.resources.message_data import message_data
from twdm_async.transport.call import Caller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twdm_async.models.direct_messages import CallToAction, QuickReply
    from twdm_async.models.media import Media
    from twdm_async.quota.spec import Priority

_LONGEST_TEXT: Final = 10_000


@frozen
class DirectMessages:
    """Calls on direct messages."""

    _caller: Caller

    async def send(
        self,
        recipient_id: str | int,
        text: str | None = None,
        *,
        custom_profile_id: str | int | None = None,
        quick_replies: Sequence[QuickReply] | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Media | str | int | None = None,
        priority: Priority | None = None,
        max_wait: float | None = None,
        lane: str | Lane | None = None,
    ) -> DirectMessage:
        """Send one message (page *Send a Direct Message with custom profile*: POST direct_messages/events/new).

        It waits for quota: 1000 in 24 hours for the account, 15 000 for the app. It is never sent twice by itself.

        Args:
            recipient_id: the person's user id.
            text: at most 10 000 characters; may be left out if there is an attachment.
            custom_profile_id: the custom profile it shows under; the account's own name and picture if not given.
            quick_replies: 1 to 20 answers to tap.
            ctas: 1 to 3 buttons.
            attachment: an uploaded file, or its media id.
            priority: which waiting calls go first; :attr:`Priority.INTERACTIVE` if not given.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            lane: the line to wait in, which shares fairly with the others; one for each profile if not given.

        Raises:
            InvalidInput: something is wrong with the arguments; nothing was sent or spent.
            QuotaWaitTooLong: it would wait longer than `max_wait`.
            DeliveryUnknown: it left, and no readable answer came.
            NotAllowlisted, RecipientUnreachable, LooksAutomated, ResponseError: the API refused it.
            ConnectFailed: no byte left the machine.
        """
        recipient_id = checked_id(recipient_id, "recipient_id")
        data = message_data(text, limit=_LONGEST_TEXT, quick_replies=quick_replies, ctas=ctas, attachment=attachment)
        create: dict[str, Any] = {"target": {"recipient_id": recipient_id}, "message_data": data}
        if custom_profile_id is not None:
            create["custom_profile_id"] = checked_id(custom_profile_id, "custom_profile_id")
        if not isinstance(lane, Lane):
            lane = Lane(lane if lane is not None else create.get("custom_profile_id", ""))
        if priority is not None:
            lane = evolve(lane, priority=priority)
        return await self._caller.call(
            "direct_messages.send",
            {"event": {"type": "message_create", "message_create": create}},
            DirectMessage,
            recipient_id=recipient_id,
            text=text,
            lane=lane,
            max_wait=max_wait,
        )
