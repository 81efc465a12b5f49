"""One of many who write from the same account."""

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
    """A person or a bot that writes under one custom profile. Made by :meth:`twdm_async.Client.agent`.

    Args:
        custom_profile_id: the profile its messages show under.
        lane: its own line where messages wait for quota.
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
        """Send one message under this agent's profile.

        Arguments and errors are those of :meth:`DirectMessages.send
        <twdm_async.resources.direct_messages.DirectMessages.send>`; `priority` and `lane` are the agent's own if not
        given.
        """
        return send_message(
            self._caller,
            recipient_id,
            text,
            custom_profile_id=self.custom_profile_id,
            quick_replies=quick_replies,
            ctas=ctas,
            attachment=attachment,
            priority=priority,
            max_wait=max_wait,
            timeout=timeout,
            lane=evolve(self.lane, key=lane) if isinstance(lane, str) else lane or self.lane,
        )
