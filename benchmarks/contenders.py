"""The clients that are compared: each sends one message. Clients that are not installed are left out.

Only this library's client has quotas and lanes, and tracks the delivery of a message; the bare POST does not even sign.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiohttp

from benchmarks.server import BODY, KEYS, PATH, PERSON, PROFILE, TEXT, WIDE
from twdm_async import Client

Send = Callable[[], Awaitable[object]]
Contender = Callable[[str, int], AbstractAsyncContextManager[Send]]
"""Takes the URL of the server, and the number of sends that will be under way at once."""

_FOUR: Final = {
    "consumer_key": KEYS.consumer_key,
    "consumer_secret": KEYS.consumer_secret,
    "access_token": KEYS.access_token,
    "access_token_secret": KEYS.access_token_secret,
}


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


@contextlib.asynccontextmanager
async def bare_post(url: str, _: int) -> AsyncGenerator[Send]:
    """Make a POST with an aiohttp session, and read the reply."""
    async with _session() as session:

        async def send() -> None:
            headers = {"Content-Type": "application/json"}
            async with session.post(url + PATH, data=BODY, headers=headers) as response:
                await response.read()

        yield send


@contextlib.asynccontextmanager
async def ours(url: str, _: int) -> AsyncGenerator[Send]:
    """Send with this library: with quotas of account and app, signing, models and delivery tracking."""
    async with Client(KEYS, api_url=url, upload_url=url, quotas=WIDE) as client:
        yield lambda: client.direct_messages.send(PERSON, TEXT, custom_profile_id=PROFILE)


@contextlib.asynccontextmanager
async def ours_by_session(url: str, _: int) -> AsyncGenerator[Send]:
    """Send with this library through an aiohttp session, as it does if there is a proxy or a trace."""
    traces = [aiohttp.TraceConfig()]
    async with Client(KEYS, api_url=url, upload_url=url, quotas=WIDE, trace_configs=traces) as client:
        yield lambda: client.direct_messages.send(PERSON, TEXT, custom_profile_id=PROFILE)


class _Redirected:
    """A session that sends every request to the benchmark's server, since the host is fixed in tweepy."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    def request(self, method: str, _: object, **options: Any) -> Any:
        return self._session.request(method, self._url + PATH, **options)


@contextlib.asynccontextmanager
async def tweepy_async(url: str, _: int) -> AsyncGenerator[Send]:
    """Send with tweepy's ``AsyncClient`` and one session for all requests; by itself, tweepy opens one for each."""
    tweepy: Any = importlib.import_module("tweepy.asynchronous")
    async with _session() as session:
        client = tweepy.AsyncClient(**_FOUR)
        client.session = _Redirected(session, url)
        yield lambda: client.create_direct_message(participant_id=PERSON, text=TEXT)


@contextlib.asynccontextmanager
async def peony(url: str, _: int) -> AsyncGenerator[Send]:
    module: Any = importlib.import_module("peony")
    message = {
        "event": {
            "type": "message_create",
            "message_create": {
                "target": {"recipient_id": PERSON},
                "message_data": {"text": TEXT},
                "custom_profile_id": PROFILE,
            },
        }
    }
    async with _session() as session:
        client = module.BasePeonyClient(**_FOUR, base_url=url, session=session)

        async def send() -> None:
            await client["", "1.1"].direct_messages.events.new.post(_json=message)

        yield send


class _Plain:
    """An adapter for requests that sends https URLs as plain HTTP, since tweepy always writes https."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def send(self, request: Any, **options: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return self._adapter.send(request, **options)

    def close(self) -> None:
        self._adapter.close()


@contextlib.asynccontextmanager
async def tweepy_threads(url: str, at_once: int) -> AsyncGenerator[Send]:
    """Call tweepy's ``API`` in threads, since it blocks; each thread has its own ``API`` object."""
    tweepy: Any = importlib.import_module("tweepy")
    mine = threading.local()

    def api() -> Any:
        api = tweepy.API(tweepy.OAuth1UserHandler(*_FOUR.values()), host=url.removeprefix("http://"))
        api.session.mount("https://", _Plain(api.session.get_adapter("http://")))
        return api

    def send() -> None:
        if not hasattr(mine, "api"):
            mine.api = api()
        mine.api.send_direct_message(PERSON, TEXT)

    with ThreadPoolExecutor(at_once) as pool:
        yield lambda: asyncio.get_running_loop().run_in_executor(pool, send)


@contextlib.asynccontextmanager
async def httpx_oauthlib(url: str, _: int) -> AsyncGenerator[Send]:
    httpx: Any = importlib.import_module("httpx")
    oauth1: Any = importlib.import_module("oauthlib.oauth1")
    signer = oauth1.Client(*_FOUR.values())
    async with httpx.AsyncClient(trust_env=False, timeout=60.0) as client:  # with as many connections as it likes

        async def send() -> None:
            _, headers, _ = signer.sign(url + PATH, "POST", headers={"Content-Type": "application/json"})
            (await client.post(url + PATH, content=BODY, headers=headers)).json()

        yield send


CONTENDERS: Final[dict[str, tuple[Contender, str]]] = {
    "bare aiohttp POST": (bare_post, "aiohttp"),
    "twdm_async": (ours, "twdm_async"),
    "twdm_async, by the session": (ours_by_session, "twdm_async"),
    "peony": (peony, "peony"),
    "tweepy AsyncClient": (tweepy_async, "tweepy.asynchronous"),
    "tweepy in threads": (tweepy_threads, "tweepy"),
    "httpx + oauthlib": (httpx_oauthlib, "httpx"),
}
"""The clients by name, each with the module that it needs."""


def installed() -> dict[str, Contender]:
    """Return the contenders whose modules are installed."""
    found: dict[str, Contender] = {}
    for name, (contender, module) in CONTENDERS.items():
        with contextlib.suppress(Exception):  # some raise errors of their own where a part is missing
            importlib.import_module(module)
            found[name] = contender
    return found
