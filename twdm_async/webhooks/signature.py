"""Signatures of webhooks: X proves that a request comes from it, and the receiver proves that it knows the consumer
secret (pages *Securing webhooks*, *Challenge-response checks*).

Both signatures use the consumer secret: X signs the body of each webhook, and now and then it asks the receiver to sign
a token. Whoever could choose that token freely would get a valid signature for a forged body. Therefore a token that
could be a body is not signed.
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
    """Return the answer to a ``GET`` with a ``crc_token``, to be sent as JSON with status 200 (page *Challenge-response
    checks*).

    Args:
        consumer_secret: the app's API secret.
        crc_token: the token from the query, decoded.

    Raises:
        InvalidInput: `crc_token` is missing, is longer than 512 characters, or has characters that no token has.
    """
    if not isinstance(crc_token, str) or not _TOKEN.fullmatch(crc_token):
        raise InvalidInput(parameter="crc_token", problem="is missing, or is not a token as X sends it")
    return {"response_token": _signature(consumer_secret, crc_token.encode())}


def is_signed(consumer_secret: str, body: bytes, signature: str | None) -> bool:
    """Return whether a webhook comes from X (page *Securing webhooks*). The comparison takes constant time.

    Args:
        consumer_secret: the app's API secret.
        body: the raw bytes, as they came.
        signature: the header ``x-twitter-webhooks-signature``; ``None`` if it is missing.
    """
    if not isinstance(signature, str):
        return False
    return hmac.compare_digest(_signature(consumer_secret, body).encode(), signature.encode("utf-8", "replace"))


def _signature(consumer_secret: str, message: bytes) -> str:
    return _PREFIX + base64.b64encode(hmac.digest(consumer_secret.encode(), message, "sha256")).decode()
