"""The PostgreSQL database that an application names, and how connections to it are opened."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, ClassVar, Final

from twdm_async._numbers import checked_seconds
from twdm_async.errors import InvalidInput

_LEASE: Final = 15.0  # seconds
# With these, a connection to a host that is cut off fails within half a minute.
_CONNECTING: Final = {
    "connect_timeout": 5, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 25_000, "application_name": "twdm_async",
}  # fmt: skip


class PostgresDatabase:
    """A PostgreSQL database (13 or later), for quotas, outboxes and inboxes. Needs the extra ``postgres``.

    ``twdm database install`` creates the tables, in a schema of their own. Connections may also go through PgBouncer in
    transaction mode.

    Args:
        url: ``postgresql://user:password@host:port/database``. It may have any parameter that libpq knows, and
            ``twdm_schema``, which takes the place of `schema`.
        pool: in place of `url`, a pool that belongs to the application: a ``psycopg_pool.ConnectionPool`` or an
            ``AsyncConnectionPool``. It is never closed here. A store, an outbox and an inbox need one connection each.
        schema: the schema of the tables: lower-case letters, digits and underscores, not beginning with a digit.
        lease: seconds, at least 1. A process that has given no sign of life for so long is taken for dead, and other
            processes take over its work.

    Raises:
        InvalidInput: `url` is wrong, both or neither of `url` and `pool` are given, `schema` or `lease` is wrong, or
            the extra is not installed.
    """

    now: ClassVar[str] = "extract(epoch FROM clock_timestamp())::float8"
    """The present time in seconds since 1970, as an expression in SQL."""

    def __init__(
        self, url: str | None = None, *, pool: Any = None, schema: str = "twdm", lease: float = _LEASE
    ) -> None:
        self.library: Any = _library()
        if (url is None) == (pool is None):
            raise InvalidInput(parameter="url", problem="give either the database's URL or a pool")
        conninfo: Any = pool.conninfo if url is None else url
        if url is None and not isinstance(conninfo, str):
            conninfo = f"dbname=pool-{id(pool):x}"  # only the pool knows where it connects to
        try:
            if url is not None:
                conninfo, schema = _without_schema(url, schema)
            facts = self.library.conninfo.conninfo_to_dict(conninfo)
            for port in str(facts.get("port", "")).split(","):
                int(port or 0)
        except (self.library.ProgrammingError, ValueError, TypeError):
            problem = "must be like postgresql://user@host:5432/database"
            raise InvalidInput(parameter="url", problem=problem) from None
        self.schema: str = checked_schema(schema)
        self.lease: float = checked_seconds(lease, "lease")
        if self.lease < 1.0:
            raise InvalidInput(parameter="lease", problem="must be 1 second or more")
        self.pool = pool
        self._facts = facts
        where = str(facts.get("host") or facts.get("hostaddr") or "")
        if "@" in where:
            problem = "has an @ in the host's name; if the @ belongs to the password, write it as %40"
            raise InvalidInput(parameter="url", problem=problem)
        port = f":{facts['port']}" if "port" in facts else ""
        self.address: str = f"postgresql://{where}{port}/{facts.get('dbname') or facts.get('user') or ''}"
        """The address of the database, for errors and logs; without user and password."""

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
            psycopg.Error: the server could not be reached, or refused the connection.
        """
        options = {**_CONNECTING, **self._facts}
        return self.library.connect(autocommit=True, prepare_threshold=None, **options)


def checked_schema(schema: str) -> str:
    """Return `schema`.

    Raises:
        InvalidInput: it is not a name of lower-case letters, digits and underscores.
    """
    if not isinstance(schema, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
        raise InvalidInput(parameter="schema", problem="must be a name of lower-case letters, digits and _")
    return schema


def _without_schema(url: str, schema: str) -> tuple[str, str]:
    """Return `url` without the parameter ``twdm_schema``, and that parameter's value; without one, return `schema`."""
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
