"""Custom profiles (pages *Custom profiles*, *POST custom_profiles/new*, *GET custom_profiles/:id*)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_length, is_id
from twdm_async.models.custom_profiles import CustomProfile, CustomProfilePage, checked_profile_id
from twdm_async.resources.listing import Listing
from twdm_async.resources.media import MediaUploads
from twdm_async.resources.message_data import media_id
from twdm_async.transport.call import Caller

if TYPE_CHECKING:
    from twdm_async.models.media import Media

_LONGEST_NAME: Final = 48


@frozen
class CustomProfiles:
    """Calls about custom profiles.

    The account must be verified and on X's allow-list; otherwise these calls raise
    :class:`~twdm_async.errors.NotAllowlisted`.
    """

    _caller: Caller
    _media: MediaUploads

    async def create(
        self,
        name: str,
        avatar: Media | Path | bytes | str | int,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
    ) -> CustomProfile:
        """Make a custom profile (page *POST custom_profiles/new*; 1000 a day).

        Args:
            name: the name that people see, of at most 48 characters. The API does not say how it counts them, so a name
                is refused here only if it is too long by every way of counting.
            avatar: the picture: an uploaded file (:class:`Media`) or its media id, or a path or the content in bytes,
                which is uploaded first. A string of digits is an id; any other string is a path.
            max_wait: seconds to wait for quota, for each request; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `name` is empty, too long or contains a character that cannot be sent; `avatar` is neither
                media nor a picture that the API takes; or `max_wait` or `timeout` is out of range. No profile was made.
            QuotaWaitTooLong: a request would wait for quota longer than `max_wait`.
            MediaFailed: the API could not process the picture.
            NotAllowlisted: the account may not use custom profiles.
            DeliveryUnknown: the request left, and no readable answer came; :meth:`list` shows whether there is such a
                profile.
            ResponseError: the API refused a request for another reason.
            ConnectFailed: no connection could be made, or no answer to the upload came. No profile was made.
            MalformedResponse: the answer to the upload cannot be read. No profile was made.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        checked_length(name, "name", _LONGEST_NAME)
        if isinstance(avatar, str) and not is_id(avatar):
            avatar = Path(avatar)
        if isinstance(avatar, (Path, bytes)):
            try:
                avatar = await self._media.upload(avatar, max_wait=max_wait, timeout=timeout)
            except InvalidInput as error:
                raise evolve(error, parameter="avatar") from None
        profile = {"name": name, "avatar": {"media": {"id": media_id(avatar, "avatar")}}}
        return await self._caller.call(
            "custom_profiles.create", {"custom_profile": profile}, CustomProfile, max_wait=max_wait, timeout=timeout
        )

    async def get(
        self, profile_id: CustomProfile | str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> CustomProfile:
        """Look up a custom profile (page *GET custom_profiles/:id*; 180 in 15 minutes).

        Args:
            profile_id: the profile or its id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `profile_id` is neither a profile nor a numeric id; or `max_wait` or `timeout` is out of
                range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotFound: there is no such profile.
            NotAllowlisted: the account may not use custom profiles.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a custom profile.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        path_id = checked_profile_id(profile_id, "profile_id")
        return await self._caller.call(
            "custom_profiles.get", {}, CustomProfile, path_id=path_id, max_wait=max_wait, timeout=timeout
        )

    def list(self, *, max_wait: float | None = None, timeout: float | None = None) -> Listing[CustomProfile]:
        """List all custom profiles of the account (page *GET custom_profiles/list*; 180 pages in 15 minutes).

        Nothing is sent, and no error is raised, before the list is read. A page may be empty and still not be the last.

        Args:
            max_wait: seconds to wait for quota, for each page; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `max_wait` or `timeout` is out of range.
            QuotaWaitTooLong: a page would wait for quota longer than `max_wait`.
            NotAllowlisted: the account may not use custom profiles.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: a page cannot be read, or names a cursor for the second time.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        return Listing(
            self._caller,
            "custom_profiles.list",
            CustomProfilePage,
            lambda page: page.custom_profiles,
            max_wait=max_wait,
            timeout=timeout,
        )

    async def delete(
        self, profile_id: CustomProfile | str | int, *, max_wait: float | None = None, timeout: float | None = None
    ) -> None:
        """Delete a custom profile (page *DELETE custom_profiles/destroy*; 1000 a day). Doing it twice does no harm.

        Args:
            profile_id: the profile or its id.
            max_wait: seconds to wait for quota; the client's ``max_wait`` if not given.
            timeout: seconds that one attempt may take; at most, and by default, the client's ``timeout``.

        Raises:
            InvalidInput: `profile_id` is neither a profile nor a numeric id; or `max_wait` or `timeout` is out of
                range.
            QuotaWaitTooLong: the call would wait for quota longer than `max_wait`.
            NotAllowlisted: the account may not use custom profiles.
            ResponseError: the API refused the request for another reason.
            ConnectFailed: no connection could be made, or no answer came.
            TwdmError: an error that every call can raise; see :class:`~twdm_async.Client`.
        """
        arguments: dict[str, Any] = {"id": checked_profile_id(profile_id, "profile_id")}
        await self._caller.call("custom_profiles.delete", arguments, type(None), max_wait=max_wait, timeout=timeout)
