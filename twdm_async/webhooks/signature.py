"""That a webhook comes from X, and that whoever listens is who they say (pages *Securing webhooks*, *Challenge-response
checks*).

Both use the consumer secret: X signs the body of each webhook, and asks for the signature of a token now and then. So
whoever could choose the token freely would be given the signature of a body of their own making. Therefore no token is
answered that could be a body.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import Final

from twdm_async._quiet import quiet_call
from twdm_async.errors import InvalidInput

_TOKEN: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{1,512}")
_PREFIX: Final = "sha256="


@quiet_call
def crc_response(consumer_secret: str, crc_token: str) -> dict[str, str]:
    """What to answer, as JSON and with status 200, to a ``GET`` with a ``crc_token`` (page *Challenge-response
    checks*).

    Args:
        consumer_secret: the app's API secret.
        crc_token: as it came in the query, decoded.

    Raises:
        InvalidInput: it is no such token.
    """
    if not isinstance(crc_token, str) or not _TOKEN.fullmatch(crc_token):
        raise InvalidInput(parameter="crc_token", problem="is missing, or is no such token")
    return {"response_token": _signature(consumer_secret, crc_token.encode())}


def is_signed(consumer_secret: str, body: bytes, signature: str | None) -> bool:
    """Whether a webhook comes from X (page *Securing webhooks*). It takes the same time whatever the signature is.

    Args:
        consumer_secret: the app's API secret.
        body: the raw bytes, as they came.
        signature: the header ``x-twitter-webhooks-signature``; ``None`` if there is none.
    """
    if not isinstance(signature, str):
        return False
    return hmac.compare_digest(_signature(consumer_secret, body).encode(), signature.encode("utf-8", "replace"))


def _signature(consumer_secret: str, message: bytes) -> str:
    return _PREFIX + base64.b64encode(hmac.digest(consumer_secret.encode(), message, "sha256")).decode()
