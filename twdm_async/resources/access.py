"""Finding out what an account and its keys may do, by asking the API, and saying it in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from twdm_async import errors
from twdm_async.models.custom_profiles import CustomProfilePage
from twdm_async.models.direct_messages import DirectMessagePage
from twdm_async.models.users import User

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from twdm_async.transport.call import Caller

_WORDS: Final = {
    32: "The four keys do not belong together, or one was copied wrongly.",
    63: "The account is suspended.",
    64: "The account is suspended.",
    87: "The account is not on the allow-list for this.",
    89: "The token is not valid any more; make a new one.",
    93: "The app may not see Direct Messages: give it 'Read, Write, and Direct Messages', then make a new token.",
    99: "The keys cannot be verified.",
    135: "This machine's clock is wrong; set it.",
    215: "The four keys are not those of OAuth 1.0a.",
    220: "These keys may not use this.",
    261: "The app may not write; X has restricted it.",
    326: "The account is locked; log in and unlock it.",
    416: "The app is suspended.",
    453: "The app's access level does not include this; these calls need an enterprise or partner plan.",
}


@frozen
class AccessFinding:
    """A finding about one thing that an account needs.

    Args:
        what: the thing: ``"keys"``, ``"verified"``, ``"direct messages"`` or ``"custom profiles"``.
        ok: whether the account has it; ``None`` if that could not be found out.
        words: what is missing and what to do about it, or that nothing is missing.
    """

    what: str
    ok: bool | None
    words: str


async def check_access(caller: Caller, max_wait: float | None) -> tuple[AccessFinding, ...]:
    """Find out about the keys, the badge, direct messages and custom profiles. An error of a request becomes a
    finding.
    """
    user, keys = await _try("keys", lambda: caller.call("account.verify_credentials", {}, User, max_wait=max_wait))
    if not isinstance(user, User):
        return (keys,)
    badge = AccessFinding("verified", ok=True, words="The account carries a badge.")
    if not user.verified:
        words = "The API does not show a badge on the account; custom profiles need one."
        badge = AccessFinding("verified", ok=False if user.verified is False else None, words=words)
    _, messages = await _try(
        "direct messages",
        lambda: caller.call("direct_messages.list", {"count": "1"}, DirectMessagePage, max_wait=max_wait),
    )
    _, profiles = await _try(
        "custom profiles",
        lambda: caller.call("custom_profiles.list", {"count": "1"}, CustomProfilePage, max_wait=max_wait),
    )
    who = AccessFinding("keys", ok=True, words=f"They are those of @{user.screen_name} ({user.id}).")
    return who, badge, messages, profiles


async def _try(what: str, ask: Callable[[], Awaitable[Any]]) -> tuple[Any, AccessFinding]:
    try:
        answer = await ask()
    except (errors.Unauthorized, errors.Forbidden, errors.NotFound, errors.BadRequest) as error:
        known = [words for code, words in _WORDS.items() if code in error.codes]
        if isinstance(error, errors.NotAllowlisted) and not known:
            known = [_WORDS[87]]
        return None, AccessFinding(what, ok=False, words=" ".join([*known, f"(The API said: {error})"]))
    except errors.TwdmError as error:
        return None, AccessFinding(what, ok=None, words=f"It could not be found out: {error}")
    return answer, AccessFinding(what, ok=True, words="Allowed.")
