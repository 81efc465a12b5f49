"""A real PostgreSQL for tests: its own process, on a free port of this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.redis_server import free_port

_DEBIAN = Path("/usr/lib/postgresql")
_QUICK = {
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "1GB",
    "autovacuum_naptime": "5s",
}


def find() -> Path | None:
    """The folder of the server's programs: on PATH, Debian's, or that of the wheel pgserver; ``None`` if there is none."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    if found := sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])):
        return found[-1].parent
    spec = find_spec("pgserver")
    wheel = Path(spec.origin).parent / "pginstall/bin" if spec is not None and spec.origin else None
    return wheel if wheel is not None and (wheel / "initdb").exists() else None


class PostgresServer:
    """One server. It does not run as root, so where the tests do, it has a user of its own.

    Args:
        programs: the folder of its programs.
        settings: of its configuration, besides those that make tests quick. They do without ``fsync``, which protects
            from power cuts only; ``{"fsync": "on"}`` where time is measured.
    """

    def __init__(self, programs: Path, **settings: str) -> None:
        self._programs = programs
        self._settings = {**_QUICK, **settings}
        self._folder = tempfile.TemporaryDirectory(prefix="twdm_async_postgres_")
        self.data = Path(self._folder.name) / "data"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if _is_root() else {}
        if _is_root():
            if "pgserver" in programs.parts:  # in a folder that may be root's alone
                installed, copied = programs.parents[2], Path(self._folder.name)
                for name in ("pgserver", "pgserver.libs"):
                    shutil.copytree(installed / name, copied / name, symlinks=True)
                self._programs = copied / programs.relative_to(installed)
            shutil.chown(self._folder.name, "nobody")

    @property
    def url(self) -> str:
        return f"postgresql://twdm@127.0.0.1:{self.port}/postgres"

    def make(self) -> None:
        """Make an empty cluster, as a copy of one that is kept for all runs: making it takes a second or two. So all
        of them are one system to PostgreSQL.
        """
        options = ["-U", "twdm", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C", "--wal-segsize=1"]
        version = subprocess.run([self._programs / "initdb", "--version"], capture_output=True, check=True).stdout  # noqa: S603 - a program that was just found
        digest = hashlib.sha256(version + repr(options).encode()).hexdigest()[:12]
        name = f"twdm_async_cluster_{os.geteuid()}_{digest}.tar"
        folder, kept = self.data.parent, Path(tempfile.gettempdir()) / name
        if kept.is_file() and kept.lstat().st_uid == os.geteuid():
            subprocess.run(["tar", "-x", "-f", kept, "-C", folder], check=True)  # noqa: S603, S607 - any will do
            return
        self._run("initdb", "-D", str(self.data), *options)
        draft = folder / name
        subprocess.run(["tar", "-c", "-f", draft, "-C", folder, self.data.name], check=True)  # noqa: S603, S607 - as above
        draft.replace(kept)

    def start(self) -> None:
        settings = {
            "port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "", **self._settings,
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = (self.data.parent / "log").open("ab")
        self.process = subprocess.Popen(  # noqa: S603 - a program that was just found
            [str(self._programs / "postgres"), "-D", str(self.data), *options],
            stdout=log,
            stderr=log,
            cwd="/",
            **self._as,
        )
        log.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError as error:
                assert time.monotonic() < deadline, f"the server does not start: {error}"
                assert self.process.poll() is None, (self.data.parent / "log").read_text()[-2000:]
                time.sleep(0.02)
            else:
                return

    def crash(self) -> None:
        """End it at once, as a crash does: what was not written is in its log only."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def copy_to(self, other: PostgresServer) -> None:
        """Copy what it holds now, as a backup does."""
        self._run("pg_basebackup", "-D", str(other.data), "-d", self.url, "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Let a standby become the primary."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("SELECT pg_promote()")

    def _run(self, program: str, *options: str) -> None:
        command = [str(self._programs / program), *options]
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", **self._as)  # noqa: S603 - as above
        assert done.returncode == 0, done.stderr.decode()

    def __enter__(self) -> Self:
        self.make()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()
        self._folder.cleanup()


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0
