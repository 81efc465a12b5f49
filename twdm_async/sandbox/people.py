"""The people on the other side of a conversation, who write to an account, tap, type and read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define

from twdm_async._numbers import checked_count
from twdm_async.errors import InvalidInput
from twdm_async.models.media import HEAD, type_by_content
from twdm_async.sandbox.messages import new_event
from twdm_async.sandbox.records import Reading, StoredMedia, Typing
from twdm_async.sandbox.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twdm_async.sandbox.call import Json
    from twdm_async.sandbox.records import StoredMessage


@define(eq=False)
class Person:
    """A person who has a conversation with an account. Made by :meth:`twdm_async.sandbox.Sandbox.person`.

    What the person does is sent to the account's webhooks. Messages also appear in the account's list of messages.

    Args:
        id: the person's user id.
        account_id: the account's user id.
    """

    id: str
    account_id: str
    _state: State
    _url: str
    _tell_of_chat: Callable[[str, str], None]
    _story: Callable[[], list[str]]

    @property
    def inbox(self) -> Sequence[StoredMessage]:
        """The messages that the account has sent to this person through the API, in order."""
        return [one for one in self._state.messages if one.recipient_id == self.id and one.sender_id == self.account_id]

    @property
    def welcome(self) -> Mapping[str, Any] | None:
        """The welcome message that this person sees, as the API shows it; ``None`` if there is no rule for one."""
        for owner, rule in reversed(self._state.rules.values()):
            if owner == self.account_id:
                return self._state.welcome_messages[rule["welcome_message_id"]][1]
        return None

    async def receives(self, n: int = 1, *, timeout: float = 10.0) -> list[StoredMessage]:
        """Wait for the next messages to this person. Each message is returned only once.

        This method returns only after the clients have read the answers to their requests, so that the clock may be
        moved then. If an answer does not come, as with the fault ``silence``, it waits at most a second for it.

        Args:
            n: the number of messages.
            timeout: seconds to wait for all of them.

        Returns:
            The messages, in the order in which the sandbox accepted them.

        Raises:
            InvalidInput: `n` is not a positive whole number.
            AssertionError: the messages have not come in time, or a webhook or its handler has failed. The error says
                what has happened instead.
        """
        __tracebackhide__ = True  # so that pytest shows the line of the caller
        checked_count(n, "n")
        key, journal = (self.account_id, self.id), self._state.journal
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            seen, first = journal.last, self._state.received[key]
            new = self.inbox[first : first + n]
            if len(new) == n:
                self._state.received[key] += n
                try:
                    await self._state.quiet()
                except BaseException:
                    self._state.received[key] -= n
                    raise
                return [*new]
            left = deadline - asyncio.get_running_loop().time()
            if self._state.problems or left <= 0 or not await journal.wait(seen, within=left):
                break
        why = "and a webhook has failed" if self._state.problems else f"within {timeout:g} s"
        story = "\n".join(self._story())
        raise AssertionError(f"person {self.id} has received {len(new)} of {n} messages, {why}.\n{story}")

    def writes(self, text: str = "", *, file: bytes | None = None, attachment: Mapping[str, Any] | None = None) -> str:
        """Write to the account, and return the event's id.

        Args:
            text: the text of the message.
            file: the content of a picture, an animation or a film that is attached; the account can download it.
            attachment: a location, in the form in which the API shows it.

        Raises:
            InvalidInput: `text` contains a lone surrogate, or `file` is of no type that a message can have.
        """
        data: Json = {"text": text} | ({"attachment": dict(attachment)} if attachment else {})
        return self._send(data, None if file is None else self._stored(file))

    def _stored(self, file: bytes) -> StoredMedia:
        content_type = type_by_content(file[:HEAD])
        if content_type is None:
            raise InvalidInput(parameter="file", problem="is not a picture, an animation or a film")
        media = StoredMedia(self._state.new_id(), self.id, file, content_type, None, shared=False, uses=1)
        self._state.media[media.id] = media
        return media

    def taps(self, label: str) -> str:
        """Tap the quick reply with this label, and return the event's id. The quick reply is that of the latest message
        that offers it, or else of the welcome message.

        Raises:
            InvalidInput: no message offers this quick reply.
        """
        offers: list[Any] = [one.body["message_data"].get("quick_reply") for one in reversed(self.inbox)]
        offers.append((self.welcome or {}).get("message_data", {}).get("quick_reply"))
        options = [option for offer in offers if offer for option in offer.get("options", [])]
        for option in options:
            if option["label"] == label:
                response = {key: option[key] for key in ("metadata",) if key in option}
                return self._send({"text": label, "quick_reply_response": {"type": "options"} | response})
        raise InvalidInput(parameter="label", problem="no message offers this answer")

    def gets(self, text: str) -> str:
        """Send a message to this person from the account, as if somebody wrote it by hand in the app, and return the
        event's id. The message does not count against the quota, but uses up a free reply if there is one.

        Raises:
            InvalidInput: `text` contains a lone surrogate.
        """
        self._state.use_credit(self.account_id, self.id)
        return self._tell(self.account_id, self.id, {"text": text})

    def chats(self) -> None:
        """Write in an encrypted conversation. Webhooks in a format of X Activity get an event whose content they cannot
        read.
        """
        self._tell_of_chat(self.id, self.account_id)

    def types(self) -> None:
        """Send a typing indicator to the account."""
        typing = Typing(self.id, self.account_id)
        self._state.journal.add("typing", typing)
        self._state.on_event("typing", typing)

    def reads(self) -> None:
        """Mark everything that the account has written as read.

        Raises:
            InvalidInput: the account has written nothing.
        """
        if not self.inbox:
            raise InvalidInput(parameter="inbox", problem="there is nothing to read")
        reading = Reading(self.id, self.account_id, self.inbox[-1].id)
        self._state.journal.add("read", reading)
        self._state.on_event("read", reading)

    def _send(self, data: Json, media: StoredMedia | None = None) -> str:
        self._state.open_credit(self.account_id, self.id)
        return self._tell(self.id, self.account_id, data, media)

    def _tell(self, sender_id: str, recipient_id: str, data: Json, media: StoredMedia | None = None) -> str:
        try:
            data["text"].encode()
        except UnicodeEncodeError:
            raise InvalidInput(parameter="text", problem="must not contain a lone surrogate") from None
        event_id = self._state.new_id()
        content = (data, data["text"], media)
        event = new_event(self._state, event_id, self.account_id, (sender_id, recipient_id), content, self._url)
        self._state.journal.add("message", event)
        self._state.on_event("message", event.shown)
        return event_id
