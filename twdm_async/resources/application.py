"""The API's own list of its quotas (page *GET application/rate_limit_status*)."""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.rate_limits import RateLimitStatus
from twdm_async.transport.call import Caller

_GROUP: Final = re.compile(r"[a-z_0-9]+")


@frozen
class Application:
    """Calls about the app."""

    _caller: Caller

    async def rate_limit_status(
        self, *groups: str, max_wait: float | None = None, timeout: float | None = None
    ) -> RateLimitStatus:
        """Return the state of the API's rate limit windows (page *GET application/rate_limit_status*; 180 in 15
        minutes). The API does not list the calls that send messages, or that make or delete custom profiles.

        Args:
            groups: the groups to list, such as ``"direct_messages"`` and ``"custom_profiles"``; all if none is given.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: a group is not a string of lower-case letters, digits and underscores; or `max_wait` or
                `timeout` is out of range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a list of quotas.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        if not all(isinstance(group, str) and _GROUP.fullmatch(group) for group in groups):
            raise InvalidInput(parameter="groups", problem="must be words such as direct_messages")
        arguments = {"resources": ",".join(groups)} if groups else {}
        return await self._caller.call(
            "application.rate_limit_status", arguments, RateLimitStatus, max_wait=max_wait, timeout=timeout
        )
