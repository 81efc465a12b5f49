"""Agents: the people and bots that send messages from the same account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from twdm_async._quiet import quiet
from twdm_async.quota.lanes import Lane
from twdm_async.resources.direct_messages import send_message
from twdm_async.transport.call import Caller

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from twdm_async.models import CallToAction, DirectMessage, LocationRequest, QuickReply, TextInput
    from twdm_async.quota.spec import Priority
    from twdm_async.resources.message_data import Attachable


@frozen
class Agent:
    """A person or a bot that sends messages under one custom profile. :meth:`twdm_async.Client.agent` makes it.

    Args:
        custom_profile_id: the id of the custom profile.
        lane: the lane in which its messages wait for quota.
    """

    _caller: Caller
    custom_profile_id: str
    lane: Lane

    @quiet
    def send(
        self,
        recipient_id: str | int,
        text: str | None = None,
        *,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
        priority: Priority | None = None,
        max_wait: float | None = None,
        timeout: float | None = None,
        lane: str | Lane | None = None,
    ) -> Coroutine[Any, Any, DirectMessage]:
        """Send one message under this agent's custom profile (page *Send a Direct Message with custom profile*: POST
        direct_messages/events/new).

        The arguments are those of :meth:`DirectMessages.send
        <twdm_async.resources.direct_messages.DirectMessages.send>`. If not given, `priority` and `lane` are the agent's
        own. A `lane` that is a string names a lane with the weight and the priority of the agent's own.

        Raises:
            InvalidInput, QuotaWaitTooLong, DeliveryUnknown, NotAllowlisted, RecipientUnreachable: see
                :meth:`DirectMessages.send <twdm_async.resources.direct_messages.DirectMessages.send>`.
            LooksAutomated, ResponseError, ConnectFailed, TwdmError: see there, too.
        """
        return send_message(
            self._caller,
            recipient_id,
            text,
            self.custom_profile_id,
            quick_replies,
            ctas,
            attachment,
            priority,
            max_wait,
            timeout,
            evolve(self.lane, key=lane) if isinstance(lane, str) else self.lane if lane is None else lane,
        )
