"""The posting account itself (pages *POST account/update_profile*, *GET account/verify_credentials*)."""

from __future__ import annotations

from attrs import frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_characters
from twdm_async.models.users import User
from twdm_async.resources.access import AccessFinding, check_access
from twdm_async.transport.call import Caller


@frozen
class Account:
    """Calls on the account that posts."""

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
        """Change what the account's own profile says (page *POST account/update_profile*). Only what is given is sent.

        Args:
            name: the display name.
            url: a web page; ``http://`` is put before it if it has no scheme.
            location: a place, in any words.
            description: a few words about the account. An empty string clears this or any other field.
            include_entities: whether the answer has the links of its texts.
            skip_status: whether the answer leaves out the last post.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: nothing to change was given, or a text that no request can carry.
            Forbidden: a text is too long (code 120); the API says which and what its maximum is.
            ResponseError, ConnectFailed: it could not be done.
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
        """The account that the keys belong to (page *GET account/verify_credentials*; 75 in 15 minutes).

        Args:
            include_entities: whether the answer has the links of its texts.
            skip_status: whether the answer leaves out the last post.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            Unauthorized: the keys are not accepted.
            ResponseError, ConnectFailed, MalformedResponse: it could not be had.
        """
        arguments = _flags(include_entities=include_entities, skip_status=skip_status)
        return await self._caller.call(
            "account.verify_credentials", arguments, User, max_wait=max_wait, timeout=timeout
        )

    async def check_access(self, *, max_wait: float | None = 0.0) -> tuple[AccessFinding, ...]:
        """Find out what the account and its keys are good for, and what is missing, in words. It takes a read of three
        quotas: of the account, of its messages (15 in 15 minutes) and of its custom profiles.

        Args:
            max_wait: seconds to wait for quota, for each of them; ``None`` waits as long as it takes.

        Returns:
            One finding for the keys; and if they are good, one each for the badge, direct messages and custom profiles.
        """
        return await check_access(self._caller, max_wait)


def _flags(**flags: bool | None) -> dict[str, str]:
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in given.items():
        if not isinstance(value, bool):
            raise InvalidInput(parameter=key, problem="must be True or False")
    return {key: "true" if value else "false" for key, value in given.items()}
