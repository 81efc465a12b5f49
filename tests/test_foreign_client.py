"""tweepy and twython, which know nothing of us, find in the sandbox the API that they know."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
import requests_oauthlib
import tweepy
import twython

from tests.pictures import GIF, PNG

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


OPTIONS = [
    {"label": "Red", "description": "warm", "metadata": "r"},
    {"label": "Blue", "description": "cold", "metadata": "b"},
]
BUTTONS = [{"type": "web_url", "label": "Look", "url": "https://example.com/?a=1&b=2"}]


def family_of_tweepy(sandbox: Sandbox) -> list[str]:
    """Everything around a message. Returns what the listing told, the newest first."""
    api = foreign(sandbox)
    media = api.chunked_upload("a.gif", file=io.BytesIO(GIF), file_type="image/gif", media_category="dm_gif")
    rich = api.send_direct_message(
        5,
        "Which one?",
        quick_reply_options=OPTIONS,
        ctas=BUTTONS,
        attachment_type="media",
        attachment_media_id=media.media_id_string,
    )
    data = rich.message_create["message_data"]
    assert data["quick_reply"]["options"] == OPTIONS
    assert data["ctas"][0]["tco_url"].startswith("https://t.co/")
    assert data["attachment"]["media"]["id_str"] == media.media_id_string
    sandbox.person(5).taps("Blue")
    for number in range(4):
        api.send_direct_message(5, f"number {number} & more")
    texts = [
        message.message_create["message_data"]["text"]
        for page in tweepy.Cursor(api.get_direct_messages, count=2).pages()
        for message in page
    ]
    api.indicate_direct_message_typing(5)
    api.mark_direct_message_read(rich.id, 5)
    assert api.get_direct_message(rich.id).id == rich.id
    api.delete_direct_message(rich.id)
    with pytest.raises(tweepy.NotFound) as caught:
        api.get_direct_message(rich.id)
    assert caught.value.api_codes == [34]
    return texts


def family_of_twython(sandbox: Sandbox) -> list[str]:
    """The same."""
    keys = sandbox.credentials
    api = twython.Twython(keys.consumer_key, keys.consumer_secret, keys.access_token, keys.access_token_secret)
    api.api_url = f"{sandbox.url}/%s"  # as a format, that is how it keeps it
    data = {"text": "Which one?", "quick_reply": {"type": "options", "options": OPTIONS}, "ctas": BUTTONS}
    create = {"target": {"recipient_id": "5"}, "message_data": data}
    rich = api.send_direct_message(event={"type": "message_create", "message_create": create})["event"]
    assert rich["message_create"]["message_data"]["quick_reply"]["options"] == OPTIONS
    sandbox.person(5).taps("Blue")
    for number in range(4):
        create = {"target": {"recipient_id": "5"}, "message_data": {"text": f"number {number} & more"}}
        api.send_direct_message(event={"type": "message_create", "message_create": create})
    texts: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = api.get_direct_messages(count=2, **more)
        texts += [event["message_create"]["message_data"]["text"] for event in page["events"]]
        if "next_cursor" not in page:
            break
        more = {"cursor": page["next_cursor"]}
    api.post("direct_messages/indicate_typing", params={"recipient_id": "5"})
    api.post("direct_messages/mark_read", params={"recipient_id": "5", "last_read_event_id": rich["id"]})
    assert api.get_direct_message(id=rich["id"])["event"]["id"] == rich["id"]
    api.destroy_direct_message(id=rich["id"])
    with pytest.raises(twython.TwythonError) as caught:
        api.get_direct_message(id=rich["id"])
    assert caught.value.error_code == 404
    return texts


@pytest.mark.soak
@pytest.mark.parametrize("family", [family_of_tweepy, family_of_twython])
async def test_quick_replies_buttons_lists_deleting_typing_reading(sandbox: Sandbox, family: Any) -> None:
    texts = await asyncio.to_thread(family, sandbox)
    assert texts[:5] == [*(f"number {number} &amp; more" for number in (3, 2, 1, 0)), "Blue"]
    assert texts[5].startswith("Which one?")
    assert len(texts) == 6
    assert len(sandbox.typing) == len(sandbox.reading) == 1
    statuses = [
        request.status
        for request in sandbox.requests
        if "indicate_typing" in request.path or "mark_read" in request.path
    ]
    assert statuses == [204, 204]
