"""Requests to a sandbox that runs in another process, to its own API under ``/_sandbox/``."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from twdm_async.errors import ConnectFailed, InvalidInput
from twdm_async.sandbox.guard import HEADER

_TIMEOUT: Final = ClientTimeout(total=30)


async def ask_sandbox(
    url: str, method: str, path: str, body: Any = None, query: dict[str, str] | None = None
) -> dict[str, Any]:
    """Send a request to the sandbox at `url`, and return its answer.

    Args:
        url: scheme, host and port.
        method: the HTTP method.
        path: the path of the call, after ``/_sandbox/``.
        body: the JSON body.
        query: the query parameters.

    Raises:
        ConnectFailed: no sandbox answers at `url`.
        InvalidInput: the sandbox refused the request.
    """
    try:
        async with (
            ClientSession(timeout=_TIMEOUT) as session,
            session.request(
                method, f"{url.rstrip('/')}/_sandbox/{path}", json=body, params=query, headers={HEADER: "twdm"}
            ) as response,
        ):
            answer: dict[str, Any] = await response.json()
    except (ClientError, OSError, ValueError):
        problem = f"there is no sandbox at {url}; start one with `twdm sandbox`, or name another with --url"
        raise ConnectFailed(endpoint="sandbox", problem=problem) from None
    if response.status != 200:
        raise InvalidInput(parameter="sandbox", problem=str(answer.get("error")))
    return answer
