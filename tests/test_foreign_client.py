"""tweepy, which knows nothing of us, finds in the sandbox the API that it knows."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
import requests_oauthlib
import tweepy

from tests.pictures import PNG

if TYPE_CHECKING:
    from twdm_async.sandbox import Sandbox


class PlainHttp(requests_oauthlib.OAuth1):
    """tweepy always writes https, and the sandbox speaks plain HTTP; so the URL is changed before tweepy's own signer
    signs it.
    """

    def __call__(self, r: Any) -> Any:
        r.url = r.url.replace("https://", "http://", 1)
        return super().__call__(r)


class Handler(tweepy.OAuth1UserHandler):
    def apply_auth(self) -> PlainHttp:
        return PlainHttp(self.consumer_key, self.consumer_secret, self.access_token, self.access_token_secret)


def foreign(sandbox: Sandbox, **changed: str) -> Any:
    keys = sandbox.credentials
    four = {
        "consumer_key": keys.consumer_key,
        "consumer_secret": keys.consumer_secret,
        "access_token": keys.access_token,
        "access_token_secret": keys.access_token_secret,
        **changed,
    }
    host = sandbox.url.removeprefix("http://")
    return tweepy.API(Handler(**four), host=host, upload_host=host)


async def test_it_sends_updates_and_uploads(sandbox: Sandbox) -> None:
    api = foreign(sandbox)
    message = await asyncio.to_thread(api.send_direct_message, 844385345234, "Hello & welcome! *~'() é")
    assert message.message_create["message_data"]["text"] == "Hello &amp; welcome! *~'() é"
    assert sandbox.messages[0].text == "Hello & welcome! *~'() é"
    user = await asyncio.to_thread(api.update_profile, name="Foreign & Co", description="a+b c*d")
    assert (user.name, user.description) == ("Foreign & Co", "a+b c*d")
    media = await asyncio.to_thread(api.simple_upload, "a.png", file=io.BytesIO(PNG))
    assert sandbox.media[media.media_id_string].content == PNG
    assert (await asyncio.to_thread(api.verify_credentials)).screen_name == "sandbox_brand"


@pytest.mark.parametrize("name", ["consumer_secret", "access_token_secret"])
async def test_with_one_character_of_a_secret_changed_it_is_refused(sandbox: Sandbox, name: str) -> None:
    secret = getattr(sandbox.credentials, name)
    api = foreign(sandbox, **{name: secret[:-1] + ("x" if secret[-1] != "x" else "y")})
    for call in (
        lambda: api.send_direct_message(5, "hello"),
        lambda: api.update_profile(name="x"),
        lambda: api.simple_upload("a.png", file=io.BytesIO(PNG)),
    ):
        with pytest.raises(tweepy.Unauthorized) as caught:
            await asyncio.to_thread(call)
        assert caught.value.api_codes == [32]
    assert not sandbox.messages
