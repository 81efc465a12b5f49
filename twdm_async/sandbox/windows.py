"""Quotas as the API counts them: in fixed windows that begin with the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twdm_async.quota.spec import Quota, QuotaTable, Scope
from twdm_async.sandbox.records import Breach, Window

if TYPE_CHECKING:
    from collections.abc import Mapping


class Windows:
    """Counts requests, and refuses those over the limit.

    Args:
        quotas: the quotas to enforce.
    """

    def __init__(self, quotas: QuotaTable) -> None:
        self._quotas = quotas
        self._current: dict[tuple[str, Scope, str, float], Window] = {}
        self.history: list[Window] = []
        self.breaches: list[Breach] = []

    def count(self, family: str, owners: Mapping[Scope, str], now: float) -> tuple[bool, Window | None]:
        """Count a request, unless one of its quotas is spent.

        Args:
            family: the endpoint family.
            owners: the user id of the account, and the name of the app.
            now: seconds on the sandbox's clock (``Clock.monotonic``).

        Returns:
            Whether the request is let in, and the window that the reply's headers report: that of the account's quota,
            if there is one.
        """
        windows = [self._window(family, quota, owners[quota.scope], now) for quota in self._quotas[family].quotas]
        own = next((window for window in windows if window.scope is Scope.USER), None)
        spent = [window for window in windows if window.count >= window.limit]
        if spent:
            self.breaches.append(Breach(now, family, spent[0].scope, spent[0].owner))
            return False, own
        for window in windows:
            window.count += 1
        return True, own

    def current(self, now: float) -> list[Window]:
        """Return the windows that have not ended."""
        return [window for window in self._current.values() if window.ends > now]

    def clear(self) -> None:
        """Forget all windows and breaches."""
        self._current.clear()
        self.history.clear()
        self.breaches.clear()

    def left(self, family: str, account: str, now: float) -> tuple[int, int, float]:
        """Return, for the first quota of an account in a family: the limit, how many requests are left, and the seconds
        until the window ends.
        """
        quota = next(quota for quota in self._quotas[family].quotas if quota.scope is Scope.USER)
        window = self._current.get((family, quota.scope, account, quota.per))
        if window is None or window.ends <= now:
            return quota.limit, quota.limit, quota.per
        return quota.limit, quota.limit - window.count, window.ends - now

    def _window(self, family: str, quota: Quota, owner: str, now: float) -> Window:
        key = (family, quota.scope, owner, quota.per)
        window = self._current.get(key)
        if window is None or window.ends <= now:
            window = Window(family, quota.scope, owner, quota.limit, now, now + quota.per)
            self._current[key] = window
            self.history.append(window)
        return window
