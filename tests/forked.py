"""Programs as processes of their own, each forked off one that has imported everything: importing is most of what a
short command costs.

``python -m tests.forked SOCKET`` is that process. For each connection to SOCKET it gets what to run and where its output
goes, and tells the process' number and, when it has ended, its exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ROOT: Final = Path(__file__).parents[1]
_WIDTH: Final = 16  # of a process' number as it is told; the exit code may follow before that is read


class Forked:
    """One process. It is used as those of ``asyncio.create_subprocess_exec`` are."""

    def __init__(self, connection: socket.socket, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.pid = int(connection.recv(_WIDTH, socket.MSG_WAITALL))
        self.returncode: int | None = None
        self._ended = asyncio.ensure_future(self._wait(connection))

    async def communicate(self) -> tuple[bytes, bytes]:
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, which is told in a moment
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def _wait(self, connection: socket.socket) -> int:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            self.returncode = int(await reader.read(16))
        finally:
            writer.close()
        return self.returncode


class ForkServer:
    """The process that others are forked off."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="twdm_async_forked_")
        self._address = f"{self._folder.name}/socket"
        environ = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}  # some libraries look when they are imported
        command = [sys.executable, "-W", "error", "-m", "tests.forked", self._address]
        self._process = subprocess.Popen(command, cwd=_ROOT, env=environ)  # noqa: S603 - this Python

    async def start(self, program: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Forked:
        """Start a process.

        Args:
            program: ``cli`` for the command ``twdm``, ``python`` for a file in a folder (its arguments), or the name of
                a module of the tests.
            arguments: its arguments.
            environ: its environment.
        """
        connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                connection.connect(self._address)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert self._process.poll() is None, "it did not start"
                await asyncio.sleep(0.02)
        pipes = [os.pipe() for _ in range(2)]
        asked = json.dumps([program, list(arguments), dict(environ)]).encode()
        socket.send_fds(connection, [len(asked).to_bytes(4)], [end for _, end in pipes])
        connection.sendall(asked)
        for _, end in pipes:
            os.close(end)
        return Forked(connection, *[await _reader(end) for end, _ in pipes])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


class _ReadOnce(asyncio.StreamReaderProtocol):
    """A pipe that is closed at its end: asyncio does so in any case, uvloop asks."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


async def _reader(end: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: _ReadOnce(reader), os.fdopen(end, "rb"))
    return reader


# ---- in the process that others are forked off ----


def _serve(address: str) -> None:
    import rich.table  # noqa: F401, PLC0415 - so that it is there

    from tests import drainer, inserter, receiver, sender  # noqa: F401, PLC0415 - as above
    from twdm_async.cli import root  # noqa: PLC0415 - as above

    for name in root._COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()):  # click imports the rest when it shows one
            root.run([name, "--help"])
    gc.collect()
    gc.freeze()  # else each child copies what is shared, as soon as it counts what is garbage

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    alive: dict[int, socket.socket] = {}
    parent = os.getppid()
    while os.getppid() == parent:
        if select.select([listener], [], [], 0.005 if alive else 0.5)[0]:
            connection, _ = listener.accept()
            process = _fork(listener, connection)
            alive[process] = connection
            connection.sendall(b"%*d" % (_WIDTH, process))
        for process in list(alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError), alive.pop(process) as connection:
                    connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))


def _fork(listener: socket.socket, connection: socket.socket) -> int:
    length, ends, _, _ = socket.recv_fds(connection, 4, 2)
    asked = b""
    while len(asked) < int.from_bytes(length):
        asked += connection.recv(65_536)
    process = os.fork()
    if process == 0:
        listener.close()
        connection.close()
        for number, end in enumerate(ends, 1):
            os.dup2(end, number)
            os.close(end)
        os._exit(_run(*json.loads(asked)))
    for end in ends:
        os.close(end)
    return process


def _run(program: str, arguments: list[str], environ: dict[str, str]) -> int:
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    # Those that were made for other files remember what could be done with these.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, it is ignored
    sys.argv = [program, *arguments]
    code: Any = 0
    try:
        if program == "cli":
            from twdm_async.cli import main  # noqa: PLC0415 - it was imported before the fork

            main()
        elif program == "python":
            folder, file = arguments
            os.chdir(folder)
            sys.argv = [file]
            runpy.run_path(file, run_name="__main__")
        else:
            asyncio.run(sys.modules[f"tests.{program}"].main(*arguments))
    except SystemExit as error:
        code = error.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)  # noqa: T201 - as Python does
    except BaseException:  # noqa: BLE001 - as Python does
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    _serve(*sys.argv[1:])
