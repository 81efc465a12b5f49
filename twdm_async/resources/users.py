"""Other people's accounts (page *GET users/show*)."""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.users import User
from twdm_async.transport.call import Caller

_HANDLE: Final = re.compile(r"@?([A-Za-z0-9_]{1,20})")


@frozen
class Users:
    """Calls about other people's accounts."""

    _caller: Caller

    async def get(self, handle: str, *, max_wait: float | None = None, timeout: float | None = None) -> User:
        """Look up an account by its handle (page *GET users/show*; 900 in 15 minutes).

        Args:
            handle: the account's handle, with or without ``@``, in any case.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `handle` is not 1 to 20 letters, digits and underscores; or `max_wait` or `timeout` is out of
                range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: no account has this handle (code 50).
            Forbidden: the account is suspended (code 63).
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not an account.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        found = _HANDLE.fullmatch(handle) if isinstance(handle, str) else None
        if found is None:
            raise InvalidInput(parameter="handle", problem="must be a handle such as @jane: letters, digits and _")
        return await self._caller.call("users.get", {"screen_name": found[1]}, User, max_wait=max_wait, timeout=timeout)

    async def id_of(self, handle: str, *, max_wait: float | None = None, timeout: float | None = None) -> str:
        """Return the user id of the account with this handle (page *GET users/show*; 900 in 15 minutes).

        Messages are sent to user ids, because a handle may change its owner.

        Args:
            handle: see :meth:`get`.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput, QuotaWaitTooLong, NotFound, Forbidden, ResponseError, ConnectFailed: see :meth:`get`.
            MalformedResponse, TwdmError: see :meth:`get`, too.
        """
        return (await self.get(handle, max_wait=max_wait, timeout=timeout)).id
