"""The cost of the parts of a send, each measured by itself: signing, reading, the import, the first send."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import timeit
from typing import TYPE_CHECKING, Any, Final

from oauthlib import oauth1

from benchmarks.report import Figure, median, ratio
from benchmarks.server import BODY, FIRST_ID, KEYS, PATH, PERSON, REPLY, TEXT, answering
from twdm_async._clock import Clock
from twdm_async.endpoints import ENDPOINTS
from twdm_async.models.direct_messages import DirectMessage, DirectMessagePage
from twdm_async.transport import wire
from twdm_async.transport.oauth1 import OAuth1Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_ROUNDS: Final = 15
_URL: Final = "https://api.twitter.com"


def in_turns(parts: dict[str, Callable[[], object]], times: int) -> dict[str, list[float]]:
    """Run the parts in turns. Return the seconds for one call of each part, in each round."""
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_ROUNDS):
        for name, part in parts.items():
            taken[name].append(timeit.timeit(part, "gc.enable()", number=times, globals={"gc": gc}) / times)
    return taken


async def signing() -> AsyncIterator[Figure]:
    """Measure the signing of a send, compared with oauthlib's client."""
    request = wire.Request(ENDPOINTS["direct_messages.send"], _URL, PATH, body=BODY, content_type=wire.JSON)
    signer = OAuth1Signer(KEYS, Clock())
    theirs: Any = oauth1.Client(
        KEYS.consumer_key, KEYS.consumer_secret, KEYS.access_token, KEYS.access_token_secret
    )  # as its documentation makes one, once
    headers = {"Content-Type": "application/json"}
    taken = in_turns(
        {"ours": lambda: signer.sign(request), "theirs": lambda: theirs.sign(_URL + PATH, "POST", None, headers)}, 300
    )
    faster = ratio(taken["theirs"], taken["ours"])
    yield Figure("signing a send", f"{median(taken['ours'])}; oauthlib's Client.sign takes {faster} times as long")


async def reading() -> AsyncIterator[Figure]:
    """Measure the conversion of a reply to a model, compared with ``json.loads`` of the reply."""
    send, listing = ENDPOINTS["direct_messages.send"], ENDPOINTS["direct_messages.list"]
    one = REPLY % (FIRST_ID, PERSON.encode())
    page = json.dumps({"events": 50 * [json.loads(one)["event"]]}, separators=(",", ":")).encode()  # as the API does
    cases: list[tuple[str, Any, bytes, type[Any]]] = [
        ("one message", send, one, DirectMessage),
        ("a page of 50", listing, page, DirectMessagePage),
    ]
    for name, endpoint, body, model in cases:
        reply = wire.Reply(200, {"Content-Type": wire.JSON}, body)
        taken = in_turns(
            {
                "read": lambda e=endpoint, r=reply, m=model: wire.read(e, r, m),  # type: ignore[misc]  # bound now
                "json": lambda b=body: json.loads(b),  # type: ignore[misc]  # as above
            },
            1000 if model is DirectMessage else 50,
        )
        yield Figure(f"reading {name}", f"{median(taken['read'])}: {ratio(taken['read'], taken['json'])} x json.loads")


_FIRST_POST = f"""
import asyncio, sys, aiohttp
async def main():
    async with aiohttp.ClientSession() as session:
        async with session.post(sys.argv[1] + {PATH!r}, data={BODY!r}) as response:
            await response.json()
asyncio.run(main())
"""
_FIRST_SEND = f"""
import asyncio, sys
from twdm_async import Client, Credentials
async def main():
    keys = Credentials(consumer_key="a", consumer_secret="b", access_token="1-c", access_token_secret="d")
    async with Client(keys, api_url=sys.argv[1]) as client:
        await client.direct_messages.send({PERSON!r}, {TEXT!r})
asyncio.run(main())
"""


async def beginning() -> AsyncIterator[Figure]:
    """Measure the import, and the first send of a process."""
    programs = {
        "import": "from twdm_async import Client",
        "dependencies": "import aiohttp, attrs, cattrs",
        "first send": _FIRST_SEND,
        "first post": _FIRST_POST,
    }
    taken: dict[str, list[float]] = {name: [] for name in programs}
    with answering() as url:
        for program in programs.values():
            _cpu_of(program, url)  # whatever is not compiled yet, is then
        for _ in range(_ROUNDS):
            for name, program in programs.items():
                taken[name].append(_cpu_of(program, url))
    yield Figure(
        "import twdm_async",
        f"{ratio(taken['import'], taken['dependencies'])} x the CPU of importing aiohttp, attrs and cattrs",
    )
    yield Figure(
        "a program that sends one message",
        f"{median(taken['first send'])} of CPU: {ratio(taken['first send'], taken['first post'])} x one that makes one "
        "POST with aiohttp",
    )


def _cpu_of(program: str, url: str) -> float:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # compiled once, as where users run it
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program, url], check=True, env=environment)  # noqa: S603 - our own
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
