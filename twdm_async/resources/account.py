"""The account that posts (pages *POST account/update_profile*, *GET account/verify_credentials*)."""

from __future__ import annotations

from attrs import frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_characters
from twdm_async.models.users import User
from twdm_async.resources.access import AccessFinding, check_access
from twdm_async.transport.call import Caller


@frozen
class Account:
    """Calls about the account that the client's keys belong to."""

    _caller: Caller

    async def update_profile(
        self,
        name: str | None = None,
        url: str | None = None,
        location: str | None = None,
        description: str | None = None,
        include_entities: bool | None = None,
        skip_status: bool | None = None,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> User:
        """Change the account's own profile (page *POST account/update_profile*; 15 in 15 minutes). Only the fields that
        are given change. An empty string clears a field.

        Args:
            name: the display name.
            url: the URL of a web page; the API puts ``http://`` before it if it has no scheme.
            location: a place, in any words.
            description: a few words about the account.
            include_entities: whether the answer contains the links in its texts.
            skip_status: whether the answer leaves out the account's last post.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Returns:
            The account, with its new profile.

        Raises:
            InvalidInput: none of `name`, `url`, `location` and `description` is given; a text is not a string, or
                contains a character that no request can carry; or another argument has the wrong type or range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            Forbidden: a text is too long (code 120). The API says which, and how long it may be.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not an account.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        texts = {"name": name, "url": url, "location": location, "description": description}
        arguments = {key: checked_characters(value, key) for key, value in texts.items() if value is not None}
        if not arguments:
            raise InvalidInput(parameter="name", problem="give at least one of name, url, location, description")
        arguments |= _flags(include_entities=include_entities, skip_status=skip_status)
        return await self._caller.call("account.update_profile", arguments, User, max_wait=max_wait, timeout=timeout)

    async def verify_credentials(
        self,
        *,
        include_entities: bool | None = None,
        skip_status: bool | None = None,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> User:
        """Return the account that the keys belong to (page *GET account/verify_credentials*; 75 in 15 minutes).

        Args:
            include_entities: whether the answer contains the links in its texts.
            skip_status: whether the answer leaves out the account's last post.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: an argument has the wrong type or range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            Unauthorized: the API does not accept the keys.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not an account.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments = _flags(include_entities=include_entities, skip_status=skip_status)
        return await self._caller.call(
            "account.verify_credentials", arguments, User, max_wait=max_wait, timeout=timeout
        )

    async def check_access(self, *, max_wait: float | None = 0.0) -> tuple[AccessFinding, ...]:
        """Find out what the account and its keys may do, and say in words what is missing. This sends up to three
        requests (pages *GET account/verify_credentials*, *GET direct_messages/events/list*, *GET
        custom_profiles/list*), each of which spends a quota of its own; the list of messages may be read only 15 times
        in 15 minutes.

        Args:
            max_wait: seconds to wait for quota, for each request; ``None`` means the client's ``max_wait``.

        Returns:
            A finding about the keys; and if they work, one each about the badge, direct messages and custom profiles.
            Every error of a request becomes a finding, and none is raised.
        """
        return await check_access(self._caller, max_wait)


def _flags(**flags: bool | None) -> dict[str, str]:
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in given.items():
        if not isinstance(value, bool):
            raise InvalidInput(parameter=key, problem="must be True or False")
    return {key: "true" if value else "false" for key, value in given.items()}
