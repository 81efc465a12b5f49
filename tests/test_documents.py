"""Every block of code of every page is run as a reader pastes it, against a sandbox that the environment names.

Python blocks are programs, and are run by Python; those that run until Ctrl-C get a message to answer, and then Ctrl-C.
Shell blocks are run by bash, in a folder that looks like a clone. All of these are long tests.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser

from tests.support import HANGS
from twdm_async.database import install
from twdm_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.forked import ForkServer
    from tests.postgres_server import PostgresServer

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES: Final = ("python", "sh", "ipython", "sql")
DATABASE: Final = "postgresql://owner@db.example.com/brand"
"""Stands in the pages for a database of the reader's."""
ENDLESS: Final = "until Ctrl-C"
ADAPTED: Final = {"twdm_async.adapters.mcp": "mcp"}
"""The frameworks of adapters that pages import."""
SEPARATE: Final = {"Try it", "Test it"}
"""Headings in README whose commands are run in a clone of their own, since they make an environment."""


def examples() -> list[tuple[str, str, str]]:
    """Where each block is, its language, and what it says."""
    sybil = Sybil([CodeBlockParser(language, lambda _: None) for language in LANGUAGES])
    found: list[tuple[str, str, str]] = []
    for page in PAGES:
        heading = ""
        headings = {
            number: line for number, line in enumerate(page.read_text().splitlines(), 1) if line.startswith("#")
        }
        for example in sybil.parse(page):
            assert isinstance(example, Example)
            heading = next((headings[n] for n in range(example.line, 0, -1) if n in headings), "")
            if heading.strip("# ") not in SEPARATE:
                found.append((f"{page.name}:{example.line}", language_of(page, example), str(example.parsed)))
    return found


def language_of(page: Path, example: Example) -> str:
    fence = page.read_text().splitlines()[example.line - 1]
    return fence.strip("`{} ").removeprefix("code-block").strip("} ")


EXAMPLES: Final = examples()


def blocks(language: str) -> list[Any]:
    return [
        pytest.param(where, block, id=where)
        for where, its_language, block in EXAMPLES
        if its_language == language and not is_file(block)
    ]


def is_file(block: str) -> bool:
    """Whether the block is a file of several that belong together, as its first line says."""
    return bool(re.match(r"# \w+\.py\n", block))


def need(*modules: str) -> None:
    """Skip what needs a package that is not installed; where the extra ``recipes`` is, nothing may be skipped."""
    tops = [ADAPTED.get(name, name.split(".")[0]) for name in modules]
    missing = [name for name in tops if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("TWDM_RECIPES"):
        pytest.skip(f"needs {', '.join(missing)}", allow_module_level=True)


def imported(program: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has in a clone."""
    (tmp_path / "docs").mkdir()
    for picture in ("anna.png", "ben.png"):
        shutil.copy(ROOT / "docs" / picture, tmp_path / "docs")
    shutil.copytree(ROOT / "docs/examples", tmp_path / "docs/examples")
    return tmp_path


@pytest.fixture
async def double() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


def environment(folder: Path, sandbox: Sandbox | None = None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.split("_")[0] not in {"TWDM", "X", "TWITTER"}}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    state = {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "PATH": path, "NO_COLOR": "1"}
    return kept | state | ({} if sandbox is None else sandbox.environment) | more


async def run(*command: str, folder: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a command to its end, in a group of processes of its own, which ends with it."""
    with tempfile.TemporaryFile() as said:  # a pipe would be waited for as long as a process in the background has it
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(HANGS):
                await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        return process.returncode or 0, said.read().decode()


def test_every_block_is_run_somewhere() -> None:
    """A fence in another language is no code: output, a configuration file, or a directive of the documentation. The
    JSON is a host's settings for `twdm mcp`, which its own test uses.
    """
    fences = {
        fence
        for page in PAGES
        for fence in re.findall(r"^```([^\s`].*)$", page.read_text(), re.MULTILINE)
        if not fence.startswith("{")
    }
    assert fences <= {*LANGUAGES, "json"}, "blocks in other languages are not run"
    assert len(EXAMPLES) > 25


@pytest.mark.soak
@pytest.mark.parametrize(("where", "block"), blocks("python"))
@pytest.mark.timeout(2 * HANGS)
async def test_a_python_block_is_a_program_that_works(
    where: str,
    block: str,
    folder: Path,
    double: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    fork_server: ForkServer,
    request: pytest.FixtureRequest,
) -> None:
    need(*imported(block) - set(sys.stdlib_module_names))
    if ENDLESS in surrounding(where) and "poll(" in block:
        await run_until_it_answers(block, folder, monkeypatch)
        return
    environ = environment(folder, double, TWDM_MAX_WAIT="20")
    if DATABASE in block or "psycopg" in block:
        server: PostgresServer = request.getfixturevalue("postgres")
        environ["TWDM_DATABASE"] = server.url
        block = block.replace(DATABASE, server.url)
        await install(server.url)
    (folder / "program.py").write_text(block)
    process = await fork_server.start("python", [str(folder), "program.py"], environ)
    is_endless = ENDLESS in surrounding(where)
    if is_endless:
        await asyncio.sleep(3.0)
        process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 0 or (is_endless and b"KeyboardInterrupt" in err), out + err
    assert not double.breaches


def surrounding(where: str) -> str:
    """The block, and the two lines of the page before it."""
    name, _, line = where.rpartition(":")
    page = next(page for page in PAGES if page.name == name)
    lines = page.read_text().splitlines()
    end = next(n for n in range(int(line), len(lines)) if lines[n].startswith("```"))
    return "\n".join(lines[max(0, int(line) - 4) : end])


async def run_until_it_answers(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program that polls in this process, with a clock that jumps, until it has answered a message."""
    program = ast.parse(block)
    last = program.body.pop()
    assert ast.unparse(last) == "asyncio.run(main())"
    monkeypatch.chdir(folder)
    async with Sandbox(autojump=True) as sandbox:
        for name, value in sandbox.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("twdm_async.client.Clock", lambda: sandbox.time)
        names: dict[str, Any] = {}
        exec(compile(program, "block", "exec"), names)  # noqa: S102 - our own
        answering = asyncio.create_task(names["main"]())
        while not any(one.endpoint == "direct_messages.list" for one in sandbox.requests):
            await asyncio.sleep(0.01)
        sandbox.person(5).writes("Hello")
        [answer] = await sandbox.person(5).receives(timeout=HANGS)
        assert answer.text == "Thank you!"
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


@pytest.mark.soak
@pytest.mark.parametrize(("where", "block"), blocks("sh"))
@pytest.mark.timeout(2 * HANGS)
async def test_a_shell_block_works(where: str, block: str, folder: Path, request: pytest.FixtureRequest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    environ = environment(folder, TWDM_SANDBOX_PORT=str(port))
    lines = [line for line in block.splitlines() if not installs(line)]
    if DATABASE in block:
        server: PostgresServer = request.getfixturevalue("postgres")
        lines = [line.replace(DATABASE, server.url) for line in lines]
    code, said = await run("bash", "-euo", "pipefail", "-c", "\n".join(lines), folder=folder, environ=environ)
    assert code == 0, f"{where}: {said}"
    assert "Traceback" not in said


def installs(line: str) -> bool:
    """Whether the line installs the package, which it is; the extras it names must exist."""
    found = re.search(r"pip install '\.(?:\[([\w,]+)\])?'", line)
    if found and found[1]:
        assert set(found[1].split(",")) <= set(metadata.metadata("twdm_async").get_all("Provides-Extra") or ())
    return found is not None


@pytest.mark.soak
@pytest.mark.timeout(2 * HANGS)
async def test_the_cells_of_a_notebook_work(folder: Path, double: Sandbox) -> None:
    need("IPython")
    cells = [block for _, language, block in EXAMPLES if language == "ipython"]
    (folder / "notebook.py").write_text(NOTEBOOK.format(cells=cells))
    code, said = await run(sys.executable, "notebook.py", folder=folder, environ=environment(folder, double))
    assert code == 0, said
    assert [message.text for message in double.messages] == ["Hello from a notebook"]


NOTEBOOK: Final = """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in {cells!r}:
    shell.run_cell(cell).raise_error()
"""
