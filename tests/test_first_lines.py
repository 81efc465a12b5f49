"""The first lines of a program: a client from the environment, options for some calls, lists, handles, proxies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import math
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from attrs import asdict

import twdm_async
from tests.pictures import PNG
from tests.scripted import http, serving
from tests.support import HANGS
from twdm_async import (
    Client,
    ClientOptions,
    DeliveryUnknown,
    InvalidInput,
    MalformedResponse,
    MemoryQuotaStore,
    NotFound,
    Page,
    QuotaTable,
    QuotaWaitTooLong,
)
from twdm_async.quota.spec import Quota
from twdm_async.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async import AttemptReport


def environment(sandbox: Sandbox, **more: str) -> dict[str, str]:
    keys = {f"TWDM_{name.upper()}": value for name, value in asdict(sandbox.credentials).items()}
    return keys | {"TWDM_API_URL": sandbox.url} | more


# ---- from_env ----


async def test_from_env_has_keys_address_store_and_patience(sandbox: Sandbox, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/quota.db"
    async with Client.from_env(environment(sandbox, TWDM_QUOTA_STORE=store, TWDM_MAX_WAIT="0.5")) as client:
        await client.direct_messages.send("5", "hello")
        await client.custom_profiles.create("Anna", PNG)  # the upload goes to the same host
        assert client.quota_store.address == store
    assert client.quota_store.is_closed
    one_a_day = QuotaTable.default().replace("direct_messages.send", Quota(1, per=86_400))
    variables = environment(sandbox, TWDM_QUOTA_STORE=store, TWDM_MAX_WAIT="0.5")
    async with Client.from_env(variables, quotas=one_a_day) as client:
        with pytest.raises(QuotaWaitTooLong):  # the file remembers the first message
            await client.direct_messages.send("5", "hello")


async def test_the_store_of_a_client_that_cannot_begin_is_closed(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "quota.db").write_bytes(b"no database")
    client = Client.from_env(environment(sandbox, TWDM_QUOTA_STORE=f"sqlite:///{tmp_path}/quota.db"))
    with pytest.raises(twdm_async.QuotaStoreFailed):
        await client.__aenter__()
    assert client.quota_store.is_closed


async def test_options_go_before_the_environment(sandbox: Sandbox) -> None:
    variables = environment(
        sandbox, TWDM_API_URL="https://example.com", TWDM_MAX_WAIT="no number", TWDM_QUOTA_STORE="?"
    )
    async with MemoryQuotaStore() as store:
        async with Client.from_env(variables, api_url=sandbox.url, max_wait=1, quota_store=store) as client:
            await client.direct_messages.send("5", "hello")
        assert not store.is_closed, "it is the caller's"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TWDM_API_URL", "https://example.com"), ("TWDM_UPLOAD_URL", "nowhere"), ("TWDM_MAX_WAIT", "soon"),
        ("TWDM_MAX_WAIT", "-1"), ("TWDM_MAX_WAIT", "nan"), ("TWDM_QUOTA_STORE", "quota.db"), ("TWDM_PROXY", "proxy:1"),
        ("TWDM_CA_FILE", "/nowhere/ca.pem"),
    ],
)  # fmt: skip
def test_from_env_names_the_variable_that_is_wrong(variable: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Client.from_env(environment(Sandbox(), TWDM_API_URL="http://127.0.0.1:1") | {variable: value})
    assert caught.value.parameter == variable


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWDM_CONSUMER_KEY", "X_API_KEY", "TWITTER_CONSUMER_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInput, match="set TWDM_CONSUMER_KEY, "):
        Client.from_env()
    for name, value in environment(Sandbox(), TWDM_API_URL="", TWDM_QUOTA_STORE="").items():
        monkeypatch.setenv(name, value)
    assert Client.from_env().credentials == Sandbox().credentials


def test_the_options_are_those_of_the_client() -> None:
    parameters = inspect.signature(Client.__init__).parameters
    own = {name for name, one in parameters.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(ClientOptions.__annotations__) == own
    assert {name: str(kind) for name, kind in ClientOptions.__annotations__.items()} == {
        name: f"ForwardRef({str(parameters[name].annotation)!r}, module='twdm_async.client')" for name in own
    }


@pytest.mark.parametrize(
    ("api_url", "upload"),
    [
        ("https://api.twitter.com", "https://upload.twitter.com"), ("https://api.x.com/", "https://upload.x.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)  # fmt: skip
def test_the_upload_host_goes_with_the_api_host(api_url: str, upload: str) -> None:
    client = Client(Sandbox().credentials, api_url=api_url)
    assert list(client._caller._hosts.values()) == [api_url.rstrip("/"), upload]


def test_what_people_look_for_is_there() -> None:
    from twdm_async.outbox import Outbox  # noqa: PLC0415 - one of two places
    from twdm_async.webhooks import Webhook  # noqa: PLC0415 - as above

    assert (twdm_async.Sandbox, twdm_async.Outbox, twdm_async.Webhook) == (Sandbox, Outbox, Webhook)
    assert twdm_async.__version__.count(".") == 2


# ---- with_options, timeout ----


async def test_an_observer_of_some_calls_sees_those_and_no_others(client: Client) -> None:
    seen: list[AttemptReport] = []
    watched = client.with_options(observers=[seen.append])
    profile = await client.custom_profiles.create("Anna", PNG)
    await asyncio.gather(watched.custom_profiles.get(profile), client.account.verify_credentials())
    await watched.agent(profile).send("5", "hello")
    assert [report.endpoint for report in seen] == ["custom_profiles.get", "direct_messages.send"]
    assert seen[0].status == 200
    assert seen[0].headers["X-Rate-Limit-Remaining"] == "179"
    assert "headers" not in repr(seen[0])


async def test_a_view_shares_quotas_messages_and_the_end(sandbox: Sandbox) -> None:
    quotas = QuotaTable.default().replace("direct_messages.send", Quota(2, per=86_400))
    sandbox.faults.append(Fault("reset", endpoint="direct_messages.send", nth=2))
    async with sandbox.client(quotas=quotas) as client:
        view = client.with_options(max_wait=0.2)
        await client.direct_messages.send("5", "one")
        with pytest.raises(DeliveryUnknown) as unknown:
            await view.direct_messages.send("5", "two")
        with pytest.raises(QuotaWaitTooLong):
            await view.direct_messages.send("5", "three")
        (settled,) = await client.direct_messages.reconcile(unknown.value)
        assert settled.delivered
        assert view.direct_messages.reconciler is client.direct_messages.reconciler
        assert view.media is not client.media
        assert [state.used for state in view.quota_state()] == [state.used for state in client.quota_state()]
        waiting = asyncio.ensure_future(view.with_options(max_wait=math.inf).direct_messages.send("5", "four"))
        await asyncio.sleep(0.3)
        assert not waiting.done(), "a view of a view, which waits as long as it takes"
        waiting.cancel()
        await asyncio.wait([waiting])
        del view
        await view_of(client).close()
        with pytest.raises(twdm_async.ClientClosed):
            await client.direct_messages.send("5", "five")


def view_of(client: Client) -> Client:
    return client.with_options()


async def test_a_closed_client_says_so_wherever_it_is_used(client: Client) -> None:
    await client.close()
    for call in (client.__aenter__, client.seed_quotas, client.account.verify_credentials):
        with pytest.raises(twdm_async.ClientClosed):
            await call()


async def test_a_view_keeps_its_client(sandbox: Sandbox) -> None:
    view = sandbox.client().with_options()
    gc.collect()
    await view.account.verify_credentials()  # a ResourceWarning of the client would fail the test
    await view.close()


async def test_a_view_that_nobody_closes_is_not_complained_of(client: Client) -> None:
    await view_of(client).account.verify_credentials()  # a ResourceWarning would fail the test


@pytest.mark.parametrize("timeout", [0, -1, 30.5, math.nan, math.inf, "1", True])
async def test_a_timeout_is_at_most_the_client_s(client: Client, timeout: Any) -> None:
    for call in (
        lambda: client.direct_messages.send("5", "hello", timeout=timeout),
        lambda: client.account.verify_credentials(timeout=timeout),
        lambda: client.custom_profiles.list(timeout=timeout).page(),
    ):
        with pytest.raises(InvalidInput, match="timeout: must be a number from 1e-06 to 30"):
            await call()
    with pytest.raises(InvalidInput, match="timeout"):
        client.with_options(timeout=timeout)
    assert all(state.used == state.in_flight == 0 for state in client.quota_state())


@pytest.mark.slow
async def test_a_call_s_own_timeout_ends_it(sandbox: Sandbox) -> None:
    sandbox.faults.append(Fault("silence"))
    async with sandbox.client(timeout=HANGS) as client:
        with pytest.raises(DeliveryUnknown):
            await client.direct_messages.send("5", "hello", timeout=0.1)
        with pytest.raises(DeliveryUnknown):
            await client.with_options(timeout=0.1).direct_messages.send("5", "hello")
        with pytest.raises(DeliveryUnknown):
            await client.agent("7").send("5", "hello", timeout=0.1)
        with pytest.raises(twdm_async.TwdmError):
            await client.media.upload(PNG, timeout=0.05)


def test_every_call_that_waits_has_a_timeout() -> None:
    client, lacking = Client(Sandbox().credentials), []
    for resource in ("account", "application", "custom_profiles", "direct_messages", "media", "users",
                     "welcome_messages", "welcome_message_rules"):  # fmt: skip
        for name, method in inspect.getmembers(getattr(client, resource), inspect.isroutine):
            parameters = {} if name.startswith("_") else inspect.signature(method).parameters
            # deliver is the outbox's; check_access asks several times
            if "max_wait" in parameters and "timeout" not in parameters and name not in {"deliver", "check_access"}:
                lacking.append(f"{resource}.{name}")
    assert lacking == []


# ---- lists ----


@pytest.fixture
async def many(sandbox: Sandbox, client: Client) -> list[str]:
    """The ids of 120 custom profiles, in the order of the list."""
    media = await client.media.upload(PNG)
    made = [(await client.custom_profiles.create(f"Agent {number}", media)).id for number in range(120)]
    sandbox.requests.clear()
    return made


async def test_a_list_is_read_by_items_by_pages_or_its_first(client: Client, sandbox: Sandbox, many: list[str]) -> None:
    assert [profile.id async for profile in client.custom_profiles.list()] == many
    assert len(sandbox.requests) == 3
    listing = client.custom_profiles.list()
    page = await listing.page()
    assert isinstance(page, Page)
    assert [profile.id for profile in page.items] == many[:50]
    following = await listing.page(page.next_cursor)
    last = await listing.page(following.next_cursor)
    assert ([profile.id for profile in last.items], last.next_cursor) == (many[100:], None)
    assert [len(page.items) async for page in listing.pages()] == [50, 50, 20]
    for n, requests in ((1, 1), (50, 1), (51, 2), (500, 3)):
        sandbox.requests.clear()
        assert [profile.id for profile in await client.custom_profiles.list().first(n)] == many[:n]
        assert len(sandbox.requests) == requests


async def test_nothing_is_sent_before_a_list_is_used(client: Client, sandbox: Sandbox, many: list[str]) -> None:
    listing = client.custom_profiles.list()
    assert not sandbox.requests
    async with contextlib.aclosing(listing):
        assert (await anext(listing)).id == many[0]
        async for profile in listing:  # goes on
            assert profile.id == many[1]
            break
    assert [profile async for profile in listing] == [], "closed"


async def test_a_list_goes_on_after_an_error_or_a_cancellation(sandbox: Sandbox, many: list[str]) -> None:
    sandbox.faults.append(Fault("404_page", endpoint="custom_profiles.list", nth=2))
    async with sandbox.client() as client:
        listing, found = client.custom_profiles.list(), list[str]()
        for _ in range(3):
            with contextlib.suppress(NotFound):
                async for profile in listing:
                    found.append(profile.id)
        assert found == many, "nothing is missing, and nothing comes twice"
        listing = client.custom_profiles.list()
        reading = asyncio.ensure_future(anext(listing))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        both = await asyncio.gather(anext(listing), anext(listing))
        assert [profile.id for profile in both] == many[:2]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3"])
async def test_the_first_of_a_list_are_a_number(client: Client, sandbox: Sandbox, n: Any) -> None:
    with pytest.raises(InvalidInput, match="n: must be a whole number"):
        await client.direct_messages.list().first(n)
    for cursor in ("", "a\nb", "x" * 5000, 7):
        with pytest.raises(InvalidInput, match="cursor"):
            await client.direct_messages.list().page(cursor)  # type: ignore[arg-type]  # that is what is tested
    assert not sandbox.requests


async def test_a_list_that_goes_in_circles_ends(client: Client) -> None:
    circle = http(b'{"custom_profiles":[],"next_cursor":"same"}', "200 OK", "Content-Type: application/json")
    async with serving(circle) as server, Client(client.credentials, api_url=server.url) as other:
        for read in (other.custom_profiles.list().first(1), anext(other.custom_profiles.list())):
            with pytest.raises(MalformedResponse, match="cursor"):
                await read
        assert len(server.requests) == 4


# ---- profiles ----


async def test_a_profile_stands_for_its_id_wherever_one_is_taken(sandbox: Sandbox, tmp_path: Path) -> None:
    async with sandbox.client() as client, twdm_async.Outbox(client, tmp_path / "outbox.db") as outbox:
        profile = await client.custom_profiles.create("Anna", PNG)
        await client.direct_messages.send("5", "hello", custom_profile_id=profile)
        drafts = [twdm_async.Draft("5", "hello", custom_profile_id=profile)]
        assert [outcome.error async for outcome in client.direct_messages.send_many(drafts)] == [None]
        await outbox.put("5", "hello", custom_profile_id=profile)
        await outbox.drain()
        assert [message.custom_profile_id for message in sandbox.messages] == [profile.id] * 3
        made = await client.welcome_messages.create("hello", custom_profile_id=profile)
        assert made.custom_profile_id == profile.id
        assert await client.custom_profiles.get(profile) == profile
        await client.custom_profiles.delete(profile)
    for wrong in (made, None, "anna", -1):
        with pytest.raises(InvalidInput, match="profile: must be a CustomProfile or its id"):
            client.agent(wrong)  # type: ignore[arg-type]  # that is what is tested


# ---- handles ----


async def test_a_handle_leads_to_an_id(client: Client, sandbox: Sandbox) -> None:
    sandbox.handles["Jane_Doe"] = "844385345234"
    assert await client.users.id_of("@jane_doe") == await client.users.id_of("JANE_DOE") == "844385345234"
    assert await client.users.id_of("@person_99") == "99"
    brand = await client.users.get("@sandbox_brand")
    assert (brand.id, brand.verified) == (sandbox.credentials.user_id, True)
    with pytest.raises(NotFound) as caught:
        await client.users.id_of("@nobody")
    assert caught.value.codes == (50,)
    status = await client.application.rate_limit_status("users")
    assert status.windows["/users/show/:id"].remaining == 895
    for wrong in ("", "@", "a b", "jane-doe", "@@jane", "x" * 21, 5, None, "jane\n"):
        with pytest.raises(InvalidInput, match="handle"):
            await client.users.id_of(wrong)  # type: ignore[arg-type]  # that is what is tested


# ---- proxies and certificates ----


async def test_a_proxy_gets_every_request(sandbox: Sandbox, tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            there, back = await asyncio.open_connection("127.0.0.1", int(heads[-1].split()[1].rpartition(b":")[2]))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65_536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
        writer.close()

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    answers: list[bytes] = []

    async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                answers.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(http(b'{"id_str": "7"}', "200 OK", "Content-Type: application/json"))
        writer.close()

    async with (
        await asyncio.start_server(api, "127.0.0.1", 0, ssl=context) as server,
        await asyncio.start_server(relay, "127.0.0.1", 0) as proxy,
    ):
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy_url = f"http://me:secret@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        options: ClientOptions = {"api_url": url, "proxy": proxy_url, "ca_file": tmp_path / "ca.pem"}
        async with Client(sandbox.credentials, **options) as client:
            assert (await client.account.verify_credentials()).id == "7"
        async with Client(sandbox.credentials, api_url=url, proxy=proxy_url) as client:
            with pytest.raises(twdm_async.ConnectFailed, match="certificate"):
                await client.account.verify_credentials()
    assert heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic " in heads[0]
    assert b"Authorization: OAuth" not in heads[0]
    assert len(answers) == 1


async def test_a_proxy_that_is_not_there_is_named_without_its_password(sandbox: Sandbox) -> None:
    async with sandbox.client(proxy="http://me:secret@127.0.0.1:1") as client:
        with pytest.raises(twdm_async.ConnectFailed, match=r"\(by the proxy 127\.0\.0\.1:1\)") as caught:
            await client.account.verify_credentials()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://me:\u20ac@127.0.0.1:1",
        "",
        "proxy.example.com",
        "socks5://127.0.0.1:1",
        "http://",
        "http://a:b@c:99999",
        5,
    ],
)
def test_a_proxy_is_an_address_and_its_password_stays_inside(proxy: Any) -> None:
    with pytest.raises(InvalidInput, match="proxy: must be the address of an HTTP proxy") as caught:
        Client(Sandbox().credentials, proxy=proxy)
    assert "a:b" not in str(caught.value)


async def test_a_file_of_certificates_holds_some(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for path, problem in ((tmp_path / "empty.pem", "holds no certificate"), (tmp_path / "none.pem", "cannot be read")):
        with pytest.raises(InvalidInput, match=f"ca_file: .*{path.name} {problem}"):
            Client(Sandbox().credentials, ca_file=str(path))
    import aiohttp  # noqa: PLC0415 - only here

    async with aiohttp.ClientSession() as session:
        with pytest.raises(InvalidInput, match="ca_file: belongs to the connector"):
            Client(Sandbox().credentials, session=session, ca_file=tmp_path / "empty.pem")


# ---- what is imported ----


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        (
            "import twdm_async",
            ["aiohttp", "attrs", "cattrs", "click", "rich", "redis", "sqlite3", "twdm_async.sandbox"],
        ),
        (
            "from twdm_async import Desk, Outbox",
            [
                "agents",
                "click",
                "langchain_core",
                "mcp",
                "microsoft_agents",
                "pydantic",
                "pydantic_ai",
                "twdm_async.adapters",
            ],
        ),
        (
            "from twdm_async import Client, Credentials, QuotaTable",
            [
                "click",
                "rich",
                "redis",
                "psycopg",
                "sqlite3",
                "twdm_async.cli",
                "twdm_async.sandbox",
                "twdm_async.outbox",
            ],
        ),
        (
            "import sys; sys.argv = ['twdm', '--help']; from twdm_async.cli.root import run; run()",
            ["aiohttp", "attrs", "rich", "yaml", "asyncio", "twdm_async.client", "twdm_async.sandbox"],
        ),
    ],
)
def test_an_import_pays_for_nothing_that_is_not_used(program: str, absent: list[str]) -> None:
    asked = f"{program}\nimport sys\nprint('loaded:', *(name for name in {absent} if name in sys.modules))"
    environ = {name: value for name, value in os.environ.items() if name != "TWDM_LOG"}
    done = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


@pytest.mark.parametrize(
    "options",
    [
        {"session": 5}, {"api_url": 5}, {"clock": 5}, {"uncounted_reads": "no"}, {"observers": 5}, {"observers": len},
        {"observers": None}, {"proxy": 5}, {"ca_file": 5},
    ],
    ids=str,
)  # fmt: skip
def test_options_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        Client(Sandbox().credentials, **options)
