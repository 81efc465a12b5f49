"""The client: wires the parts together, and owns what must be closed."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any, Self

from twdm_async._clock import Clock
from twdm_async.agent import Agent
from twdm_async.credentials import Credentials
from twdm_async.endpoints import Host
from twdm_async.errors import InvalidInput
from twdm_async.models.checks import checked_id
from twdm_async.models.custom_profiles import CustomProfile
from twdm_async.quota.lanes import Lane
from twdm_async.quota.limiter import QuotaLimiter, QuotaState
from twdm_async.quota.spec import Priority, QuotaTable, checked_positive
from twdm_async.quota.store.memory import MemoryQuotaStore
from twdm_async.resources.account import Account
from twdm_async.resources.custom_profiles import CustomProfiles
from twdm_async.resources.direct_messages import DirectMessages
from twdm_async.resources.media import MediaUploads
from twdm_async.resources.welcome_messages import WelcomeMessages
from twdm_async.transport.call import Caller
from twdm_async.transport.http import HttpTransport
from twdm_async.transport.oauth1 import OAuth1Signer, checked_host

if TYPE_CHECKING:
    import aiohttp

    from twdm_async.quota.store.contract import QuotaStore


class Client:
    """One account of one app. Many agents may use it at the same time.

    Use it as ``async with Client(credentials) as client``, or call :meth:`close` when done. It belongs to the event
    loop it is first used in.

    Args:
        credentials: the keys of app and account.
        api_url: scheme and host of the API; ``https://api.x.com`` works too.
        upload_url: scheme and host of the upload API.
        quotas: what binds each endpoint; the documented quotas if not given.
        quota_store: where the ledgers live; one in memory if not given. Share one among the clients of an app.
        session: an ``aiohttp.ClientSession`` whose connections are used; it is never closed here.
        timeout: seconds one attempt may take, from the connection on.
        max_wait: seconds a call may wait for quota; ``None`` waits as long as it takes.
        clock: where time comes from; for tests.

    Attributes:
        custom_profiles: :class:`~twdm_async.resources.custom_profiles.CustomProfiles`
        direct_messages: :class:`~twdm_async.resources.direct_messages.DirectMessages`
        welcome_messages: :class:`~twdm_async.resources.welcome_messages.WelcomeMessages`
        account: :class:`~twdm_async.resources.account.Account`
        media: :class:`~twdm_async.resources.media.MediaUploads`

    Raises:
        InvalidInput: a host that requests are not signed for, or a time that is no positive number.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        api_url: str = "https://api.twitter.com",
        upload_url: str = "https://upload.twitter.com",
        quotas: QuotaTable | None = None,
        quota_store: QuotaStore | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        max_wait: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        checked_positive(timeout, "timeout")
        if not isinstance(credentials, Credentials):
            raise InvalidInput(parameter="credentials", problem="must be Credentials")
        if quotas is not None and not isinstance(quotas, QuotaTable):
            raise InvalidInput(parameter="quotas", problem="must be a QuotaTable")
        clock = clock or Clock()
        hosts = {
            Host.API: checked_host(api_url, "api_url"),
            Host.UPLOAD: checked_host(upload_url, "upload_url"),
        }
        self._http = HttpTransport(session, timeout)
        self._limiter = QuotaLimiter(
            QuotaTable.default() if quotas is None else quotas,
            MemoryQuotaStore(clock=clock) if quota_store is None else quota_store,
            account=credentials.account,
            app=credentials.app,
            clock=clock,
            timeout=timeout,
        )
        self._caller = Caller(hosts, self._limiter, OAuth1Signer(credentials, clock), self._http, clock, max_wait)
        self._agents = itertools.count(1)
        self.account = Account(self._caller)
        self.media = MediaUploads(self._caller)
        self.custom_profiles = CustomProfiles(self._caller, self.media)
        self.direct_messages = DirectMessages(self._caller)
        self.welcome_messages = WelcomeMessages(self._caller)

    def agent(
        self,
        profile: CustomProfile | str | int,
        *,
        name: str | None = None,
        weight: float = 1.0,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Agent:
        """Somebody who writes under `profile`. Each agent waits for quota in a lane of its own, and lanes share fairly.

        Args:
            profile: a custom profile or its id.
            name: of its lane; agents of the same name share one. A name of its own if not given.
            weight: its share of the quota beside agents of weight 1.
            priority: what its messages have if they do not say.

        Raises:
            InvalidInput: the id is none, or the weight is not a positive number.
        """
        profile_id = checked_id(profile.id if isinstance(profile, CustomProfile) else profile, "profile")
        lane = Lane(name if name is not None else f"agent {next(self._agents)}", weight, priority)
        return Agent(self.direct_messages, profile_id, lane)

    def quota_state(self) -> tuple[QuotaState, ...]:
        """Every documented quota of this account and its app, and how far it is used."""
        return self._limiter.state()

    async def close(self, timeout: float = 5.0) -> None:
        """End the client. Calls that wait for quota end with an error; closing twice does no harm.

        Args:
            timeout: seconds to wait for requests that are under way. A message still under way after that ends in
                :class:`~twdm_async.errors.DeliveryUnknown`.
        """
        self._limiter.close()
        await self._http.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        http = getattr(self, "_http", None)  # absent if the arguments were refused
        if http is not None and http.is_open:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
