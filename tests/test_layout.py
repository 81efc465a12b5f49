"""The house stands as it was drawn: imports only go down, and what is exported is what is there."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from pathlib import Path
from typing import Final

import pytest

import twdm_async
from twdm_async.endpoints import ENDPOINTS
from twdm_async.quota.spec import QuotaTable

PACKAGE: Final = Path(twdm_async.__file__).parent

# The first name that a module's name begins with says its floor. 'aside' may look down on everything; nothing looks at
# it but floor 7.
FLOORS: Final = {
    "errors": 0,
    "_clock": 0,
    "_json": 0,
    "_lazy": 0,
    "_log": 0,
    "__main__": 7.5,
    "_forks": 0,
    "_quiet": 0,
    "_numbers": 0,
    "observers": 1,
    "headers": 1,
    "telemetry": 1,
    "storage": 1,
    "models": 1,
    "endpoints": 1,
    "credentials": 1,
    "quota.spec": 1,
    "quota": 2,
    "transport.wire": 2,
    "transport.oauth1": 2,
    "transport.retry": 2,
    "transport.http": 3,
    "transport.attempt": 3,
    "transport.direct": 3,
    "transport.session": 3,
    "transport.places": 4,
    "transport.call": 4,
    "transport": 2,
    "resources": 5,
    "client": 6,
    "agent": 6,
    "outbox": 7,
    "webhooks": 7,
    "database": 7,
    "desk": 7.2,
    "adapters": 7.3,
    "cli": 7.5,
    "sandbox": 6.5,
    "testing": 7.5,
}


def floor_of(module: str) -> float:
    name = module.removeprefix("twdm_async.")
    matching = [key for key in FLOORS if name == key or name.startswith(f"{key}.")]
    assert matching, f"{module} stands on no floor"
    return FLOORS[max(matching, key=len)]


def modules() -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of this file, in functions and for the type checkers' eyes included."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that this file imports."""
    found: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module
                for alias in node.names
            }
    return {name for name in found if name.split(".")[0] == "twdm_async"}


@functools.cache
def edges() -> list[tuple[str, str]]:
    known = modules()
    return [(name, target) for name, path in known.items() for target in sorted(imported(path, known))]


def test_imports_only_go_down() -> None:
    upwards = [
        f"{name} imports {target}"
        for name, target in edges()
        if name != "twdm_async" and target != "twdm_async" and floor_of(target) > floor_of(name)
    ]
    assert upwards == []
    assert len(edges()) > 100


def test_nothing_below_looks_at_the_sandbox_or_the_command_line() -> None:
    below = [name for name in modules() if name != "twdm_async" and floor_of(name) <= 6]
    assert len(below) > 25
    for name, target in edges():
        if name in below:
            assert not target.startswith(("twdm_async.sandbox", "twdm_async.cli")), f"{name} imports {target}"


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for name, target in edges():
        # A package's __init__ only gathers names; whoever imports from the package imports it.
        graph.setdefault(name, set()).add(target)
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*above, name))
            done.add(name)

    for name in list(graph):
        visit(name, ())


def test_only_aiohttp_s_own_place_touches_it() -> None:
    users = {
        name
        for name, path in modules().items()
        if any(
            isinstance(node, ast.Import) and any(alias.name == "aiohttp" for alias in node.names)
            for node in imports(path)
        )
    }
    # The client names the type of a session that it is lent.
    at_the_wire = {f"twdm_async.transport.{name}" for name in ("http", "attempt", "direct", "session")}
    assert users == {*at_the_wire, "twdm_async.client"}


@pytest.mark.parametrize(
    "name", ["twdm_async", "twdm_async.models", "twdm_async.sandbox", "twdm_async.quota.store", "twdm_async.webhooks"]
)
def test_all_is_what_is_exported(name: str) -> None:
    module = importlib.import_module(name)
    public = {key for key in dir(module) if not key.startswith("_") and not inspect.ismodule(getattr(module, key))}
    public -= {"TYPE_CHECKING", "lazily"}  # what says what is imported when it is used
    assert sorted(module.__all__) == sorted(public)
    assert sorted(module.__all__) == list(module.__all__), "keep it sorted"


def test_the_errors_are_all_exported() -> None:
    errors = importlib.import_module("twdm_async.errors")
    assert set(errors.__all__) <= set(twdm_async.__all__)


def test_the_error_tree_in_the_docstring_is_the_tree() -> None:
    errors = importlib.import_module("twdm_async.errors")
    assert errors.__doc__
    for name in errors.__all__:
        assert f" {name} " in errors.__doc__.replace("\n", " ") or f"\n    {name}\n" in errors.__doc__, name


def test_every_endpoint_has_quotas() -> None:
    assert {row.family for row in ENDPOINTS.values()} == set(QuotaTable.default())


def test_no_module_is_called_after_nothing() -> None:
    assert not {path.stem for path in modules().values()} & {"utils", "helpers", "common", "manager", "misc"}
