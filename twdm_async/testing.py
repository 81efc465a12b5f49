"""The pytest plugin: a sandbox and a client for each test that asks for them.

It needs pytest-asyncio, in either mode, or anyio with its asyncio backend. A test requests the fixtures by name::

    async def test_my_bot(twdm_sandbox, twdm_client):
        await twdm_sandbox.subscribe(my_bot(twdm_client))
        anna = twdm_sandbox.person(844385345234)
        anna.writes("Hello")
        [answer] = await anna.receives()
        assert answer.text == "Hi, how can I help?"

``@pytest.mark.twdm(...)`` configures the test's sandbox: it takes the arguments of
:class:`twdm_async.sandbox.Sandbox`. `quotas` may also be a mapping, such as ``{"direct_messages.send": "3/24h"}``. To
configure the sandboxes of all tests of a module or a folder, override the fixture ``twdm_options``.

An option of the marker replaces the option of the same name in ``twdm_options``; the other options stay.

A test fails if a webhook fails in it: if an event is set aside because its handler failed, or if a webhook answers with
another status than 200. If a test makes a webhook fail on purpose, it calls ``twdm_sandbox.problems.clear()``
afterwards.
"""

from __future__ import annotations

import asyncio
import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from twdm_async.client import Client
    from twdm_async.quota.spec import QuotaTable
    from twdm_async.sandbox import Sandbox

_ANSWER_WITHIN: Final = 60.0  # seconds: a busy machine may be slow
_SETTLE_WITHIN: Final = 5.0  # seconds, after the test

_settled = WeakSet["Sandbox"]()
_of_test = pytest.StashKey["Sandbox"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "twdm(**options): how the sandbox of twdm_async is to be, such as quotas={'direct_messages.send': '3/24h'}, "
        "faults=['reset'], autojump=True; see twdm_async.sandbox.Sandbox.",
    )


@pytest.fixture
def twdm_options() -> dict[str, Any]:
    """Return arguments for :class:`twdm_async.sandbox.Sandbox`; none by default. Override this fixture. A test's marker
    takes precedence over it.
    """
    return {}


@pytest.fixture
def twdm_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Return a :class:`twdm_async.sandbox.Sandbox` for this test alone. It runs in the test's event loop."""
    sandbox: Sandbox = request.getfixturevalue(f"_twdm_sandbox_{_runner(request)}")
    return sandbox


@pytest.fixture
def twdm_client(request: pytest.FixtureRequest) -> Client:
    """Return a :class:`twdm_async.Client` that is connected to the test's sandbox."""
    client: Client = request.getfixturevalue(f"_twdm_client_{_runner(request)}")
    return client


def _runner(request: pytest.FixtureRequest) -> str:
    """Return the name of the plugin that runs the test; for pytest-asyncio, with the scope of the test's event loop."""
    if "anyio_backend" in request.fixturenames:
        if request.getfixturevalue("anyio_backend_name") != "asyncio":
            pytest.skip("twdm_async runs in asyncio")
        return "anyio"
    if not request.config.pluginmanager.has_plugin("asyncio"):
        raise pytest.UsageError("the fixtures of twdm_async need pytest-asyncio, or anyio and its marker")
    marker = request.node.get_closest_marker("asyncio")
    asked = marker.kwargs.get("loop_scope") if marker is not None else None
    try:
        usual = request.config.getini("asyncio_default_test_loop_scope")
    except ValueError:  # pytest-asyncio before 0.26 does not have this option
        usual = "function"
    return f"asyncio_{asked or usual}"


def _sandbox_fixture(decorate: Callable[..., Any], name: str) -> Any:
    """Make the fixture that opens a sandbox. `decorate` is the fixture decorator of the plugin that runs the test."""

    async def open_sandbox(request: pytest.FixtureRequest, twdm_options: dict[str, Any]) -> AsyncGenerator[Sandbox]:
        from twdm_async.sandbox import Sandbox  # noqa: PLC0415 - imported when it is used
        from twdm_async.webhooks import webhook  # noqa: PLC0415 - as above

        options: dict[str, Any] = {"webhook_timeout": _ANSWER_WITHIN, **twdm_options}
        for marker in reversed([*request.node.iter_markers("twdm")]):  # the closest marker comes last, and wins
            if marker.args:
                raise pytest.UsageError("the marker twdm takes named options only, such as twdm(autojump=True)")
            options |= marker.kwargs
        options["quotas"] = _quotas(options.get("quotas"))
        async with Sandbox(**options) as sandbox:
            request.node.stash[_of_test] = sandbox
            webhook.failure_observers.append(sandbox.complain)
            try:
                yield sandbox
                await _settle(sandbox)
            finally:
                webhook.failure_observers.remove(sandbox.complain)
        if _of_test in request.node.stash:
            _fail_if_webhooks_did(sandbox)

    return decorate(open_sandbox, name=name)


def _client_fixture(decorate: Callable[..., Any], name: str) -> Any:
    """Make the fixture that opens a client. `decorate` is as for :func:`_sandbox_fixture`."""

    async def open_client(twdm_sandbox: Sandbox) -> AsyncGenerator[Client]:
        async with twdm_sandbox.client() as client:
            yield client
            await _settle(twdm_sandbox)  # handlers may still need the client for their replies

    return decorate(open_client, name=name)


_runners: dict[str, Callable[..., Any]] = {"anyio": pytest.fixture}
if find_spec("pytest_asyncio") is not None:
    _asyncio_fixture = import_module("pytest_asyncio").fixture
    for _scope in ("function", "class", "module", "package", "session"):  # of the test's event loop
        _runners[f"asyncio_{_scope}"] = partial(_asyncio_fixture, loop_scope=_scope)
for _name, _decorate in _runners.items():  # pytest finds fixtures among the module's attributes
    globals()[f"_sandbox_{_name}"] = _sandbox_fixture(_decorate, f"_twdm_sandbox_{_name}")
    globals()[f"_client_{_name}"] = _client_fixture(_decorate, f"_twdm_client_{_name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        result = yield
    except BaseException:
        if _of_test in item.stash:
            del item.stash[_of_test]  # one report is enough
        raise
    if _of_test in item.stash:
        _fail_if_webhooks_did(item.stash[_of_test])
    return result


async def _settle(sandbox: Sandbox) -> None:
    """Wait, at most once for each sandbox, until the delivered events are handled. If a webhook has failed already, do
    not wait.
    """
    if not sandbox.problems and sandbox not in _settled:
        _settled.add(sandbox)
        try:
            async with asyncio.timeout(_SETTLE_WITHIN):
                await sandbox.delivered()
        except TimeoutError:
            problem = f"{_SETTLE_WITHIN:g} s after the test, a webhook is still handling an event, or has not answered"
            warnings.warn(pytest.PytestWarning(f"{problem}; the test does not tell whether it fails"), stacklevel=1)


def _fail_if_webhooks_did(sandbox: Sandbox) -> None:
    if sandbox.problems:
        problems = "\n".join(sandbox.problems)
        sandbox.problems.clear()
        pytest.fail(f"A webhook failed:\n{problems}", pytrace=False)


def _quotas(given: QuotaTable | Mapping[str, Any] | None) -> QuotaTable:
    """Return `given` as a quota table. Unless it is a table already, its rows have no pace, so that no test waits for
    one.
    """
    from twdm_async.quota.spec import Quota, QuotaTable  # noqa: PLC0415 - imported when it is used
    from twdm_async.sandbox.clock import seconds_of  # noqa: PLC0415 - as above

    if isinstance(given, QuotaTable):
        return given
    table = QuotaTable.default()
    for family in table:
        table = table.replace(family, *table[family].quotas, reserve=table[family].reserve)
    for family, one in (given or {}).items():
        limit, _, per = one.partition("/") if isinstance(one, str) else ("", "", "")
        quota: Any = Quota(int(limit), per=seconds_of(per, "quotas")) if limit.isdigit() else one
        table = table.replace(family, quota)
    return table
