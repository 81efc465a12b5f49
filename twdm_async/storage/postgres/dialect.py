"""Translation for PostgreSQL: of statements written for SQLite, of values, and of errors into advice."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

_PHRASES: Final = (
    (r"\bstrftime\('%s', 'now'\)", "floor(extract(epoch FROM clock_timestamp()))"),
    (r"\bINTEGER PRIMARY KEY AUTOINCREMENT\b", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    (r"\bWITHOUT ROWID\b", ""),
    (r"\bINDEXED BY \w+|\+(?=account\b)", ""),  # hints for SQLite's planner; PostgreSQL's has statistics
    (r"\?", "%s"),
)
_ADVICE: Final = {
    "3F000|42P01|42703": "the tables are not there, or older; run `twdm database install`, or `upgrade`",
    "42[^5]": "this is a mistake in this library; please report it",
    "42501": "this user may not use the tables; grant it what `twdm database sql` says",
    "53": "the server is out of room, memory or connections; see its log",
    "55P03": "another session keeps a lock for too long; pg_stat_activity shows which one",
    "57014": "the statement was cancelled; see whether this user has a statement_timeout",
    "25006|55000|0A000": "it is a standby, which cannot be written to; see that the address leads to the primary",
    "28": "see that user and password are right, and that the server lets this user in",
    "password|pg_hba|role .* does not": "see that user and password are right, and that the server lets this user in",
    "database .* does not exist": "there is no such database; create it first",
    "couldn't get a connection after|the pool .* is": "the pool that was lent has no free connection, or is closed",
    "": "see that it runs and is reachable",
}
_LASTING: Final = re.compile(
    r"password|pg_hba|(role|database) .* does not exist|does not support SSL|certificate|no encryption"
)


@lru_cache(maxsize=512)
def in_postgres(query: str) -> str:
    """Return `query`, which is written for SQLite, in PostgreSQL's dialect."""
    for pattern, words in _PHRASES:
        query = re.sub(pattern, words, query)
    return query


def storable(value: Any) -> Any:
    """Return `value` as the database accepts it: replace null characters in a text, and whatever is not UTF-8."""
    if not isinstance(value, str):
        return value
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def advice(error: BaseException | None) -> str:
    """Return what is wrong, and what to do about it. This does not quote the server, whose words may contain parts of a
    message.
    """
    state = getattr(error, "sqlstate", None) or ""
    for pattern, words in _ADVICE.items():
        if re.match(pattern, state) if pattern[:1].isdigit() else re.search(pattern, str(error)):
            return f"{words} ({state or type(error).__name__})"
    raise AssertionError  # the last pattern matches every error


def is_lasting(error: BaseException) -> bool:
    """Return whether a try to connect that failed with `error` would fail the next time, too."""
    return _LASTING.search(str(error)) is not None
