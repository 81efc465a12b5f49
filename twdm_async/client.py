"""The client: it wires the parts together, and closes those that it has made."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import itertools
import os
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, Unpack, get_args

from attrs import evolve

from twdm_async import telemetry
from twdm_async._clock import Clock
from twdm_async._log import quiet_logger
from twdm_async._numbers import checked_count, checked_number
from twdm_async._quiet import quiet_call
from twdm_async.agent import Agent
from twdm_async.credentials import Credentials
from twdm_async.endpoints import ENDPOINTS, Host, MediaApi
from twdm_async.errors import ClientClosed, InvalidInput, QuotaStoreFailed
from twdm_async.models.custom_profiles import checked_profile_id
from twdm_async.quota.lanes import Lane
from twdm_async.quota.limiter import QuotaLimiter, QuotaState
from twdm_async.quota.spec import Priority, QuotaTable
from twdm_async.quota.store.contract import QuotaStore
from twdm_async.quota.store.memory import MemoryQuotaStore
from twdm_async.resources.direct_messages import DirectMessages
from twdm_async.transport.call import Caller, checked_wait
from twdm_async.transport.http import HttpTransport
from twdm_async.transport.oauth1 import OAuth1Signer, checked_host

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import aiohttp

    from twdm_async.models.custom_profiles import CustomProfile
    from twdm_async.observers import Observer
    from twdm_async.resources.account import Account
    from twdm_async.resources.application import Application
    from twdm_async.resources.custom_profiles import CustomProfiles
    from twdm_async.resources.media import MediaUploads
    from twdm_async.resources.users import Users
    from twdm_async.resources.welcome_messages import WelcomeMessageRules, WelcomeMessages

_log = quiet_logger(__name__)

_VARIABLES: Final = {
    "TWDM_API_URL": "api_url",
    "TWDM_UPLOAD_URL": "upload_url",
    "TWDM_MAX_WAIT": "max_wait",
    "TWDM_QUOTA_STORE": "quota_store",
    "TWDM_PROXY": "proxy",
    "TWDM_CA_FILE": "ca_file",
}
"""The environment variables that :meth:`Client.from_env` reads, and the options that they set."""


class ClientOptions(TypedDict, total=False):
    """The types of the options of :class:`Client`, for functions that pass them on."""

    api_url: str
    upload_url: str | None
    quotas: QuotaTable | None
    quota_store: QuotaStore | None
    session: aiohttp.ClientSession | None
    timeout: float
    max_wait: float | None
    max_waiting: int
    uncounted_reads: bool
    media_api: MediaApi
    proxy: str | None
    ca_file: str | os.PathLike[str] | None
    trace_configs: Sequence[aiohttp.TraceConfig]
    observers: Sequence[Observer]
    clock: Clock | None


class Client:
    """A client of the API for one account of one app. Many agents may use it at the same time.

    Use it as ``async with Client(credentials) as client``, which also asks the quota store what is spent; or call
    :meth:`close` when done. A client belongs to the event loop in which it is first used.

    Besides the errors that it lists itself, every call that sends a request can raise these:

    - :class:`~twdm_async.errors.QuotaQueueFull`: `max_waiting` calls wait for the same quota already.
    - :class:`~twdm_async.errors.QuotaStoreFailed`: the quota store could not be read or written. ``async with`` raises
      this, too.
    - :class:`~twdm_async.errors.ClientClosed`: the client was closed.
    - :class:`~twdm_async.errors.WrongEventLoop`: the client was first used in another event loop or process.
    - :class:`~twdm_async.errors.InvalidInput`: `session` is closed.
    - :class:`~twdm_async.errors.IncompatibleAiohttp`: the installed aiohttp sends requests in a way that this library
      does not know.
    - :class:`~twdm_async.errors.InternalError`: a bug in this library.

    Args:
        credentials: the keys of the app and the account.
        api_url: scheme and host of the API; ``https://api.x.com`` works, too.
        upload_url: scheme and host of the upload API; the one that belongs to `api_url` if not given.
        quotas: the quotas of each endpoint; the documented ones if not given.
        quota_store: keeps the ledgers of what was spent. If not given, they are in memory and are lost when the process
            ends. All clients of an app should share one store. The client does not close it.
        session: an ``aiohttp.ClientSession`` whose connections are used. The client does not close it.
        trace_configs: ``aiohttp.TraceConfig`` objects that see aiohttp's own events, and the Authorization header.
        observers: functions that are called with an :class:`~twdm_async.observers.AttemptReport` after every attempt,
            in the context of the caller. If the application has imported OpenTelemetry, an observer that makes spans
            and metrics is added.
        timeout: seconds that one attempt may take once it is connected; connecting may take as long again.
        max_wait: seconds that a call may wait for quota; ``None`` waits as long as it takes.
        max_waiting: how many calls may wait for quota, for each endpoint.
        uncounted_reads: whether calls that only read may leave without being counted while the quota store fails. A
            call that writes never leaves uncounted.
        media_api: which of the API's two ways to upload is used: ``"v1.1"`` or ``"v2"``.
        proxy: the address of an HTTP proxy that all requests go through, such as
            ``"http://user:password@proxy.example.com:3128"``. Proxies that the environment names are used only if
            `session` has ``trust_env``.
        ca_file: the path of a file of certificates in PEM format, to trust besides the system's own.
        clock: the source of time, for tests; the machine's clocks if not given. `quota_store` needs the same.

    Attributes:
        custom_profiles: :class:`~twdm_async.resources.custom_profiles.CustomProfiles`
        direct_messages: :class:`~twdm_async.resources.direct_messages.DirectMessages`
        welcome_messages: :class:`~twdm_async.resources.welcome_messages.WelcomeMessages`
        welcome_message_rules: :class:`~twdm_async.resources.welcome_messages.WelcomeMessageRules`
        account: :class:`~twdm_async.resources.account.Account`
        application: :class:`~twdm_async.resources.application.Application`
        media: :class:`~twdm_async.resources.media.MediaUploads`
        users: :class:`~twdm_async.resources.users.Users`

    Raises:
        InvalidInput: an argument has the wrong type or is out of range; the host of `api_url` or `upload_url` is one
            that requests are not signed for; `proxy` is not an address; or `ca_file` cannot be read, or is given
            together with `session`.
    """

    @quiet_call
    def __init__(
        self,
        credentials: Credentials,
        *,
        api_url: str = "https://api.twitter.com",
        upload_url: str | None = None,
        quotas: QuotaTable | None = None,
        quota_store: QuotaStore | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        max_wait: float | None = None,
        max_waiting: int = 100_000,
        uncounted_reads: bool = False,
        media_api: MediaApi = "v1.1",
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        observers: Sequence[Observer] = (),
        clock: Clock | None = None,
    ) -> None:
        checked_number(timeout, "timeout")
        if media_api not in get_args(MediaApi):
            raise InvalidInput(parameter="media_api", problem=f"must be one of {', '.join(get_args(MediaApi))}")
        if not isinstance(credentials, Credentials):
            raise InvalidInput(parameter="credentials", problem="must be Credentials")
        if quotas is not None and not isinstance(quotas, QuotaTable):
            raise InvalidInput(parameter="quotas", problem="must be a QuotaTable")
        if quota_store is not None and not isinstance(quota_store, QuotaStore):
            raise InvalidInput(
                parameter="quota_store", problem="must be a QuotaStore, such as QuotaStore.from_url(...)"
            )
        if clock is not None and not isinstance(clock, Clock):
            raise InvalidInput(parameter="clock", problem="must be a Clock")
        if not isinstance(uncounted_reads, bool):
            raise InvalidInput(parameter="uncounted_reads", problem="must be True or False")
        checked_count(max_waiting, "max_waiting", 0)
        _check_observers(observers)
        self._credentials = credentials
        self._clock = clock = clock or Clock()
        api_url = checked_host(api_url, "api_url")
        # The API's own hosts come in pairs; a local double serves both APIs on one host.
        upload_url = api_url.replace("//api.", "//upload.") if upload_url is None else upload_url
        hosts = {Host.API: api_url, Host.UPLOAD: checked_host(upload_url, "upload_url")}
        self._http = HttpTransport(session, trace_configs, proxy=proxy, ca_file=ca_file)
        self._store = MemoryQuotaStore(clock=clock) if quota_store is None else quota_store
        if type(self._store.clock) is not type(clock):
            _log.warning(
                "client: the quota store has another clock; if one of them is moved, calls wait without end: give the "
                "store the client's clock, as in SQLiteQuotaStore(path, clock=sandbox.time)"
            )
        signer = OAuth1Signer(credentials, clock)
        self._limiter = QuotaLimiter(
            QuotaTable.default() if quotas is None else quotas,
            self._store,
            account=credentials.account,
            app=credentials.app,
            clock=clock,
            timeout=timeout,
            max_waiting=max_waiting,
            server_time=signer.server_time,
        )
        self._uncounted_reads = bool(uncounted_reads)
        self._caller = Caller(
            hosts,
            self._limiter,
            signer,
            self._http,
            credentials=credentials,
            clock=clock,
            timeout=timeout,
            max_wait=max_wait,
            uncounted_reads=self._uncounted_reads,
            observers=(*observers, *telemetry.observers()),
        )
        self._agents = itertools.count(1)
        self._media_api: MediaApi = media_api
        self._timeout = timeout
        self._opened_store: QuotaStore | None = None  # a store that from_env opened; it is closed with the client
        self._origin: Client | None = None  # whose view this is
        self.direct_messages: DirectMessages = DirectMessages(self._caller, credentials, timeout)

    @classmethod
    @quiet_call
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Unpack[ClientOptions]) -> Self:
        """Make a client with the keys and the settings in environment variables.

        The keys are those of :meth:`Credentials.from_env <twdm_async.Credentials.from_env>`. ``TWDM_API_URL``,
        ``TWDM_UPLOAD_URL``, ``TWDM_QUOTA_STORE`` (a URL for :meth:`QuotaStore.from_url
        <twdm_async.QuotaStore.from_url>`), ``TWDM_MAX_WAIT`` (seconds), ``TWDM_PROXY`` and ``TWDM_CA_FILE`` set the
        options of these names. A variable that is empty counts as not set.

        Args:
            environ: the variables; those of the process if not given.
            options: options of :class:`Client`. They override the environment.

        Returns:
            The client. The quota store that ``TWDM_QUOTA_STORE`` names is closed with it.

        Raises:
            InvalidInput: the keys are missing, or a variable or an option has a wrong value. The error names it.
        """
        environ = os.environ if environ is None else environ
        credentials = Credentials.from_env(environ)
        names = {name: variable for variable, name in _VARIABLES.items() if name not in options}
        given: dict[str, Any] = {name: environ[variable] for name, variable in names.items() if environ.get(variable)}
        try:
            if "max_wait" in given:
                given["max_wait"] = _seconds(given["max_wait"])
            opened = None
            if "quota_store" in given:
                opened = given["quota_store"] = QuotaStore.from_url(given["quota_store"], clock=options.get("clock"))
            given.update(options)
            client = cls(credentials, **given)
        except InvalidInput as error:
            parameter = "quota_store" if error.parameter == "url" else error.parameter
            problem = evolve(error, parameter=names.get(parameter, parameter))
        else:
            client._opened_store = opened
            return client
        raise problem

    def with_options(
        self, *, timeout: float | None = None, max_wait: float | None = None, observers: Sequence[Observer] = ()
    ) -> Self:
        """Return a client that shares everything with this one, but has other defaults for its calls.

        Connections, quotas, wait queues and what is known of messages are shared, and closing either client closes
        both. `observers` see the calls that are made with the returned client, and no others::

            seen = []
            await client.with_options(observers=[seen.append]).custom_profiles.get(profile)
            print(seen[-1].status, seen[-1].headers["x-rate-limit-remaining"], seen[-1].took)

        Args:
            timeout: seconds that one attempt may take; at most, and by default, this client's own ``timeout``, since
                the leases of slots are computed from that.
            max_wait: seconds that a call may wait for quota; ``math.inf`` waits as long as it takes. This client's own
                ``max_wait`` if not given.
            observers: functions that are called with an :class:`~twdm_async.observers.AttemptReport` after every
                attempt, in addition to this client's own.

        Raises:
            InvalidInput: `timeout` or `max_wait` is not a number in its range, or an observer is not callable or is a
                coroutine function.
        """
        _check_observers(observers)
        view = copy.copy(self)
        for name in [name for name in vars(view) if isinstance(getattr(type(self), name, None), cached_property)]:
            del vars(view)[name]
        view._origin = self  # noqa: SLF001 - it is an object of this class
        caller = self._caller.with_options(timeout=timeout, max_wait=max_wait, observers=observers)
        view._caller = caller  # noqa: SLF001 - as above
        view.direct_messages = DirectMessages(caller, self._credentials, self._timeout, self.direct_messages)
        return view

    @cached_property
    def account(self) -> Account:
        """Calls about the account itself."""
        from twdm_async.resources.account import Account  # noqa: PLC0415 - imported only if it is used

        return Account(self._caller)

    @cached_property
    def application(self) -> Application:
        """Calls about the app."""
        from twdm_async.resources.application import Application  # noqa: PLC0415 - as above

        return Application(self._caller)

    @cached_property
    def media(self) -> MediaUploads:
        """Calls that upload files."""
        from twdm_async.resources.media import MediaUploads  # noqa: PLC0415 - as above

        return MediaUploads(self._caller, self._clock, self._media_api)

    @cached_property
    def custom_profiles(self) -> CustomProfiles:
        """Calls about custom profiles."""
        from twdm_async.resources.custom_profiles import CustomProfiles  # noqa: PLC0415 - as above

        return CustomProfiles(self._caller, self.media)

    @cached_property
    def welcome_messages(self) -> WelcomeMessages:
        """Calls about welcome messages."""
        from twdm_async.resources.welcome_messages import WelcomeMessages  # noqa: PLC0415 - as above

        return WelcomeMessages(self._caller)

    @cached_property
    def welcome_message_rules(self) -> WelcomeMessageRules:
        """Calls about which welcome message is shown."""
        from twdm_async.resources.welcome_messages import WelcomeMessageRules  # noqa: PLC0415 - as above

        return WelcomeMessageRules(self._caller)

    @cached_property
    def users(self) -> Users:
        """Calls about other people's accounts."""
        from twdm_async.resources.users import Users  # noqa: PLC0415 - as above

        return Users(self._caller)

    @property
    def credentials(self) -> Credentials:
        """The keys of the app and the account. Their repr does not show them."""
        return self._credentials

    @property
    def quota_store(self) -> QuotaStore:
        """The quota store, which keeps the ledgers of what was spent."""
        return self._store

    @property
    def clock(self) -> Clock:
        """The source of time."""
        return self._clock

    def agent(
        self,
        profile: CustomProfile | str | int,
        *,
        name: str | None = None,
        weight: float = 1.0,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Agent:
        """Return an agent, which sends messages under `profile`. Each agent waits for quota in a lane of its own, and
        lanes share the quota fairly.

        Args:
            profile: a custom profile or its id.
            name: the name of its lane. Agents with the same name share a lane; if not given, no other agent does.
            weight: its share of the quota, compared with agents of weight 1; from a millionth to a billion.
            priority: the priority of its messages, unless :meth:`Agent.send <twdm_async.Agent.send>` gets another one.

        Raises:
            InvalidInput: `profile` is neither a profile nor a numeric id, `name` is not a string, `weight` is not a
                number in its range, or `priority` is not a Priority.
        """
        profile_id = checked_profile_id(profile, "profile")
        lane = Lane(name if name is not None else f"agent {next(self._agents)}", weight, priority)
        return Agent(self._caller, profile_id, lane)

    def quota_state(self) -> tuple[QuotaState, ...]:
        """Return the state of every quota of this account and its app, as far as this process knows it. Nothing is
        sent, and the quota store is not asked.
        """
        return self._limiter.state()

    async def seed_quotas(self) -> None:
        """Ask the API how much of each quota is left, and count what others have spent (page *GET
        application/rate_limit_status*; 180 in 15 minutes).

        Call it once if the quota store does not know what was spent before. The API does not list the calls that send
        messages, nor those that make or delete custom profiles; for these, see ``assume_spent`` of the quota store.

        Raises:
            QuotaWaitTooLong: the call would wait for quota longer than the client's ``max_wait``.
            ResponseError: the API refused the request.
            ConnectFailed: no connection could be made, or no answer came.
            MalformedResponse: the answer is not a list of quotas.
            QuotaStoreFailed: the quota store could not be read or written.
            TwdmError: an error that every call can raise; see :class:`Client`.
        """
        listing = await self.application.rate_limit_status()
        for endpoint in ENDPOINTS.values():
            window = listing.windows.get(endpoint.listed_as or "")
            if window is not None:
                self._limiter.learn_status(endpoint.family, window.remaining, window.reset)
        await self._limiter.look()

    async def close(self, timeout: float | None = 5.0) -> None:
        """Close the client. Calls that wait for quota end with an error. Closing twice does no harm.

        Args:
            timeout: seconds to wait for requests that are under way, including those whose callers have given up;
                ``None`` waits until they have ended. A message that is still under way after that ends in
                :class:`~twdm_async.errors.DeliveryUnknown`.

        Raises:
            InvalidInput: `timeout` is negative or not a number. Nothing was closed.
            WrongEventLoop: the client was first used in another event loop or process, and can be closed only there.
        """
        timeout = checked_wait(timeout, "timeout")
        self._caller.bind_loop()
        try:
            await self._caller.close(timeout)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._store.flush()
        finally:
            await self._close_opened_store()

    async def _close_opened_store(self) -> None:
        if self._opened_store is not None and not self._opened_store.is_closed:
            await self._opened_store.close()

    async def __aenter__(self) -> Self:
        self._caller.bind_loop()
        if self._limiter.is_closed:
            raise ClientClosed(endpoint="client")
        try:
            await self._limiter.look()  # so that a failing store is noticed now, and quota_state() is right
        except QuotaStoreFailed:
            if not self._uncounted_reads:
                await self._close_opened_store()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        http = getattr(self, "_http", None)  # absent if __init__ refused the arguments
        if http is not None and http.is_open and self._origin is None:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)


def _seconds(text: str) -> float:
    """Return `text` as a number.

    Raises:
        InvalidInput: `text` is not a number. The error names the parameter ``max_wait``.
    """
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(parameter="max_wait", problem="must be a number of seconds") from None


def _check_observers(observers: Sequence[Observer]) -> None:
    is_right = isinstance(observers, (list, tuple)) and all(callable(one) for one in observers)
    if not is_right or any(map(inspect.iscoroutinefunction, observers)):
        raise InvalidInput(
            parameter="observers", problem="must be a list of functions, and none that has to be awaited"
        )
