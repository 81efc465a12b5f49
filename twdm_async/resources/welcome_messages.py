"""Welcome messages and their rules (pages *Welcome messages*, *POST direct_messages/welcome_messages/new*,
*.../rules/new*).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import frozen

from twdm_async._log import quiet_logger
from twdm_async._quiet import quiet
from twdm_async.errors import (
    DeliveryUnknown,
    InvalidInput,
    NotFound,
    RateLimited,
    ResponseError,
    TwdmError,
)
from twdm_async.models.checks import checked_id
from twdm_async.models.custom_profiles import checked_profile_id
from twdm_async.models.welcome_messages import (
    WelcomeMessage,
    WelcomeMessagePage,
    WelcomeMessageRule,
    WelcomeMessageRulePage,
)
from twdm_async.resources.listing import Listing
from twdm_async.resources.message_data import Attachable, message_data
from twdm_async.transport.call import Caller
from twdm_async.transport.wire import Message

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.models.quick_replies import CallToAction, LocationRequest, QuickReply, TextInput

_LONGEST_TEXT: Final = 9_990
_PAUSES: Final = (0.0, 0.5, 2.0, 8.0)  # seconds before each try to make the old rule again
_NAME: Final = re.compile(r"[A-Za-z0-9\-_ #@]{1,100}")

T = TypeVar("T")

_log = quiet_logger(__name__)


@frozen
class WelcomeMessages:
    """Calls about welcome messages."""

    _caller: Caller

    @quiet
    async def create(
        self,
        text: str | None = None,
        *,
        name: str | None = None,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
        custom_profile_id: CustomProfile | str | int | None = None,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> WelcomeMessage:
        """Make a welcome message (page *POST direct_messages/welcome_messages/new*). People see it only when a rule
        names it: :meth:`WelcomeMessageRules.set_default`.

        Args:
            text: at most 9990 characters; may be left out if there is an attachment.
            name: a name to find it by, of at most 100 ASCII letters, digits, ``- _ # @`` and spaces.
            quick_replies: 1 to 20 answers to tap; or a :class:`TextInput` or :class:`LocationRequest`.
            ctas: 1 to 3 buttons.
            attachment: a file uploaded with ``shared=True``, or its media id; or a :class:`SharedCoordinate` or
                :class:`SharedPlace`.
            custom_profile_id: the custom profile it shows under, or its id. The API's documents say that a welcome
                message can have one, but not in which field. It is sent as ``welcome_message.custom_profile_id``, which
                nobody has confirmed; if the answer does not repeat it, a warning is logged.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: the text is missing, blank, too long or contains a character that cannot be sent; `name` is
                too long or contains another character; there are too many quick replies or buttons; or another argument
                has the wrong type or range. Nothing was sent, and no quota was spent.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            DeliveryUnknown: the request left, and no readable answer came; :meth:`list` shows whether the message was
                made.
            NotAllowlisted: the account may not use custom profiles.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made; nothing was sent.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
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
            message["custom_profile_id"] = checked_profile_id(custom_profile_id, "custom_profile_id")
        made = await self._caller.call(
            "welcome_messages.create",
            {"welcome_message": message},
            WelcomeMessage,
            message=Message(custom_profile_id=message.get("custom_profile_id"), text=text),
            max_wait=max_wait,
            timeout=timeout,
        )
        if made.custom_profile_id != message.get("custom_profile_id"):
            _log.warning("welcome message %s: the API did not say that it shows under the custom profile", made.id)
        return made

    async def get(
        self, welcome_message_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> WelcomeMessage:
        """Look up a welcome message (page *GET direct_messages/welcome_messages/show*; 15 in 15 minutes).

        Args:
            welcome_message_id: the welcome message's id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `welcome_message_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such message.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a welcome message.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"id": checked_id(welcome_message_id, "welcome_message_id")}
        return await self._caller.call(
            "welcome_messages.get", arguments, WelcomeMessage, max_wait=max_wait, timeout=timeout
        )

    def list(self, *, max_wait: float | None = None, timeout: float | None = None) -> Listing[WelcomeMessage]:
        """List all welcome messages of the account (page *GET direct_messages/welcome_messages/list*; 15 pages of 50 in
        15 minutes). Nothing is sent, and no error is raised, before the list is read.

        Args:
            max_wait: seconds to wait for quota, for each page; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: a page would wait for quota longer than `max_wait`.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: a page cannot be read, or names a cursor for the second time.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        return Listing(
            self._caller,
            "welcome_messages.list",
            WelcomeMessagePage,
            lambda page: page.welcome_messages or (),
            max_wait=max_wait,
            timeout=timeout,
        )

    @quiet
    async def update(
        self,
        welcome_message_id: str | int,
        text: str | None = None,
        *,
        quick_replies: Sequence[QuickReply] | TextInput | LocationRequest | None = None,
        ctas: Sequence[CallToAction] | None = None,
        attachment: Attachable | None = None,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> WelcomeMessage:
        """Replace the content of a welcome message (page *PUT direct_messages/welcome_messages/update*). A part that is
        not given is removed. The name stays.

        Args:
            welcome_message_id: the welcome message's id.
            text: see :meth:`create`.
            quick_replies: see :meth:`create`.
            ctas: see :meth:`create`.
            attachment: see :meth:`create`.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `welcome_message_id` is not a numeric id, or another argument is wrong, as in :meth:`create`.
                Nothing was sent, and no quota was spent.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such message.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a welcome message.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        path_id = checked_id(welcome_message_id, "welcome_message_id")
        data = message_data(text, limit=_LONGEST_TEXT, quick_replies=quick_replies, ctas=ctas, attachment=attachment)
        return await self._caller.call(
            "welcome_messages.update",
            {"message_data": data},
            WelcomeMessage,
            path_id=path_id,
            message=Message(text=text),
            max_wait=max_wait,
            timeout=timeout,
        )

    async def delete(
        self, welcome_message_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> None:
        """Delete a welcome message (page *DELETE direct_messages/welcome_messages/destroy*).

        Args:
            welcome_message_id: the welcome message's id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `welcome_message_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such message, perhaps because an earlier call deleted it.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"id": checked_id(welcome_message_id, "welcome_message_id")}
        await self._caller.call("welcome_messages.delete", arguments, type(None), max_wait=max_wait, timeout=timeout)


@frozen
class WelcomeMessageRules:
    """Calls about the rule that says which welcome message everybody sees."""

    _caller: Caller

    async def create(
        self,
        welcome_message: WelcomeMessage | str | int,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> WelcomeMessageRule:
        """Make a rule (page *POST direct_messages/welcome_messages/rules/new*).

        The API's documents contradict each other: either an account has one rule, and the old one must be deleted
        first; or it can have several, and the newest holds. :meth:`set_default` works in both cases.

        Args:
            welcome_message: the welcome message that everybody is to see, or its id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `welcome_message` is neither a welcome message nor a numeric id; or `max_wait` or `timeout` is
                out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            DeliveryUnknown: the request left, and no readable answer came; :meth:`list` shows whether the rule was
                made.
            ResponseError: the API refused the request, with code 214 if the account does not accept messages from
                everybody.
            ConnectFailed: no connection could be made; nothing was sent.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"welcome_message_rule": {"welcome_message_id": _id_of(welcome_message)}}
        return await self._caller.call(
            "welcome_message_rules.create", arguments, WelcomeMessageRule, max_wait=max_wait, timeout=timeout
        )

    async def get(
        self, rule_id: str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> WelcomeMessageRule:
        """Look up a rule (page *GET direct_messages/welcome_messages/rules/show*; 15 in 15 minutes).

        Args:
            rule_id: the rule's id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `rule_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such rule.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a rule.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"id": checked_id(rule_id, "rule_id")}
        return await self._caller.call(
            "welcome_message_rules.get", arguments, WelcomeMessageRule, max_wait=max_wait, timeout=timeout
        )

    def list(self, *, max_wait: float | None = None, timeout: float | None = None) -> Listing[WelcomeMessageRule]:
        """List all rules of the account (page *GET direct_messages/welcome_messages/rules/list*; 15 pages of 50 in 15
        minutes). Nothing is sent, and no error is raised, before the list is read.

        Args:
            max_wait: seconds to wait for quota, for each page; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: a page would wait for quota longer than `max_wait`.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: a page cannot be read, or names a cursor for the second time.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        return Listing(
            self._caller,
            "welcome_message_rules.list",
            WelcomeMessageRulePage,
            lambda page: page.welcome_message_rules or (),
            max_wait=max_wait,
            timeout=timeout,
        )

    async def delete(self, rule_id: str | int, *, max_wait: float | None = None, timeout: float | None = None) -> None:
        """Delete a rule (page *DELETE direct_messages/welcome_messages/rules/destroy*).

        Args:
            rule_id: the rule's id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `rule_id` is not a numeric id; or `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such rule, perhaps because an earlier call deleted it.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = {"id": checked_id(rule_id, "rule_id")}
        await self._caller.call(
            "welcome_message_rules.delete", arguments, type(None), max_wait=max_wait, timeout=timeout
        )

    async def set_default(
        self,
        welcome_message: WelcomeMessage | str | int,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> WelcomeMessageRule:
        """Show everybody this welcome message from now on (guide *Welcome messages*, *Setting a default*).

        The new rule is made before the old ones are deleted. If the API refuses a second rule, and the welcome message
        exists, the old rules are deleted first; and if the API then refuses the new rule, the old one is made again. So
        the account keeps a rule, even if the caller is cancelled: a replacement that has begun is then completed first.
        Calling this again after an error does no harm.

        Args:
            welcome_message: the welcome message, or its id.
            max_wait: seconds to wait for quota, for each request; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Returns:
            The rule that holds now.

        Raises:
            InvalidInput: `welcome_message` is neither a welcome message nor a numeric id; or `max_wait` or `timeout` is
                out of range.
            QuotaWaitTooLong: a request would wait for quota longer than `max_wait`.
            DeliveryUnknown: the request for the new rule left, no readable answer came, and the list of rules does not
                show it.
            ResponseError: the API refused a request, with code 214 if the account does not accept messages from
                everybody.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: an answer cannot be read.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        welcome_message_id = _id_of(welcome_message)
        old = [rule async for rule in self.list(max_wait=max_wait, timeout=timeout)]
        standing = [rule for rule in old if rule.welcome_message_id == welcome_message_id]
        if standing:
            await _to_the_end(self._delete_all([rule for rule in old if rule is not standing[-1]]))
            return standing[-1]
        try:
            new = await self._create_surely(welcome_message_id, old, max_wait, timeout)
        except RateLimited:
            raise
        except ResponseError as error:
            if not old:
                raise
            refusal = error
        else:
            await _to_the_end(self._delete_all(old))
            return new
        try:
            await self._caller.call(
                "welcome_messages.get", {"id": welcome_message_id}, WelcomeMessage, max_wait=max_wait, timeout=timeout
            )
        except NotFound:
            raise refusal.with_traceback(None) from None
        return await _to_the_end(self._replace(welcome_message_id, old))

    async def _create_surely(
        self,
        welcome_message_id: str,
        old: Sequence[WelcomeMessageRule],
        max_wait: float | None,
        timeout: float | None,
    ) -> WelcomeMessageRule:
        """Make a rule. If no answer comes, look for it in the list of rules."""
        try:
            return await self.create(welcome_message_id, max_wait=max_wait, timeout=timeout)
        except DeliveryUnknown as error:
            unknown = error
        known = {rule.id for rule in old}
        async for rule in self.list(max_wait=max_wait, timeout=timeout):
            if rule.id not in known and rule.welcome_message_id == welcome_message_id:
                return rule
        raise unknown.with_traceback(None)

    async def _replace(self, welcome_message_id: str, old: Sequence[WelcomeMessageRule]) -> WelcomeMessageRule:
        """Delete the old rules, then make the new one. If that fails, make an old one again."""
        try:
            await self._delete_all(old)
            return await self._create_surely(welcome_message_id, old, None, None)
        except TwdmError as error:
            problem = error
        before = next((rule.welcome_message_id for rule in old if rule.welcome_message_id), None)
        if before is not None:
            await self._restore(before)
        raise problem.with_traceback(None)

    async def _restore(self, welcome_message_id: str) -> None:
        """Try several times to make a rule. A refusal ends this, too, if the account has a rule: a request without an
        answer may have made one.
        """
        for pause in _PAUSES:
            await self._caller.clock.sleep(pause)
            with contextlib.suppress(TwdmError):
                try:
                    await self.create(welcome_message_id, max_wait=math.inf)
                except ResponseError:
                    if not await self.list(max_wait=0.0).first(1):
                        continue
                return
        _log.error("welcome messages: the account may have no rule now; the last one could not be made again")

    async def _delete_all(self, rules: Sequence[WelcomeMessageRule]) -> None:
        for rule in rules:
            with contextlib.suppress(NotFound):  # somebody else deleted it first
                await self.delete(rule.id)


async def _to_the_end(change: Coroutine[Any, Any, T]) -> T:
    """Await `change`, which must not be left half done: if the caller is cancelled, complete it first."""
    task = asyncio.ensure_future(change)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it: no caller gets it
        raise


def _id_of(welcome_message: WelcomeMessage | str | int) -> str:
    given = welcome_message.id if isinstance(welcome_message, WelcomeMessage) else welcome_message
    return checked_id(given, "welcome_message")
