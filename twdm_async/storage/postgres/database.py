"""Which database it is, and how it is connected to."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, ClassVar, Final

from twdm_async._numbers import checked_seconds
from twdm_async.errors import InvalidInput

_LEASE: Final = 15.0  # seconds
# A host that is cut off is noticed within half a minute.
_CONNECTING: Final = {
    "connect_timeout": 5, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 25_000, "application_name": "twdm_async",
}  # fmt: skip


class PostgresDatabase:
    """A PostgreSQL database (13 or later), for quotas, outboxes and inboxes. Needs the extra ``postgres``.

    Its tables are made by ``twdm database install``, in a schema of their own. It may be reached through PgBouncer, in
    transaction mode, too.

    Args:
        url: ``postgresql://user:password@host:port/database``, with any parameter that libpq knows, and with
            ``twdm_schema`` in place of `schema`.
        pool: in place of `url`, a pool of the application's own, a ``psycopg_pool.ConnectionPool`` or an
            ``AsyncConnectionPool``. It is not closed. A store, an outbox and an inbox need one connection each.
        schema: of the tables.
        lease: seconds without a sign of life after which a process is taken for dead, and others take over its work.

    Raises:
        InvalidInput: an argument is wrong, or the extra is not installed.
    """

    now: ClassVar = "extract(epoch FROM clock_timestamp())::float8"
    """What time it is, in SQL."""

    def __init__(
        self, url: str | None = None, *, pool: Any = None, schema: str = "twdm", lease: float = _LEASE
    ) -> None:
        self.library = _library()
        if (url is None) == (pool is None):
            raise InvalidInput(parameter="url", problem="give either the database's URL or a pool")
        conninfo: Any = pool.conninfo if url is None else url
        if url is None and not isinstance(conninfo, str):
            conninfo = f"dbname=pool-{id(pool):x}"  # only it knows
        try:
            if url is not None:
                conninfo, schema = _without_schema(url, schema)
            facts = self.library.conninfo.conninfo_to_dict(conninfo)
            for port in str(facts.get("port", "")).split(","):
                int(port or 0)
        except (self.library.ProgrammingError, ValueError, TypeError):
            problem = "must be like postgresql://user@host:5432/database"
            raise InvalidInput(parameter="url", problem=problem) from None
        if not isinstance(schema, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise InvalidInput(parameter="schema", problem="must be a name of lower-case letters, digits and _")
        self.schema = schema
        self.lease = checked_seconds(lease, "lease")
        if self.lease < 1.0:
            raise InvalidInput(parameter="lease", problem="must be 1 second or more")
        self.pool = pool
        self._facts = facts
        where = str(facts.get("host") or facts.get("hostaddr") or "")
        if "@" in where:
            problem = "names a host with an @; write one in a password as %40"
            raise InvalidInput(parameter="url", problem=problem)
        port = f":{facts['port']}" if "port" in facts else ""
        self.address = f"postgresql://{where}{port}/{facts.get('dbname') or facts.get('user') or ''}"
        """Which database it is, for errors and logs; without user and password."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostgresDatabase) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.address!r}, schema={self.schema!r})"

    @property
    def _key(self) -> tuple[str, str]:
        return self.address, self.schema

    def connect(self) -> Any:
        """Open a connection, outside of any pool.

        Raises:
            psycopg.Error: it cannot be reached, or does not let us in.
        """
        options = {**_CONNECTING, **self._facts}
        return self.library.connect(autocommit=True, prepare_threshold=None, **options)


def _without_schema(url: str, schema: str) -> tuple[str, str]:
    """Return `url` without the parameter that is ours, and its value."""
    address, _, query = url.partition("?")
    words = query.split("&")
    for word in [word for word in words if word.startswith("twdm_schema=")]:
        words.remove(word)
        schema = word.partition("=")[2]
    return "?".join(filter(None, (address, "&".join(words)))), schema


def _library() -> Any:
    try:
        import_module("psycopg.conninfo")
        return import_module("psycopg")
    except ImportError:
        problem = "PostgreSQL needs an extra: pip install 'twdm_async[postgres]'"
        raise InvalidInput(parameter="url", problem=problem) from None
