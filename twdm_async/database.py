"""Administration of the tables in a PostgreSQL database: create, upgrade and check them, and resume work after data was
lost. The command ``twdm database`` does the same from the shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from twdm_async.errors import DatabaseFailed, InvalidInput
from twdm_async.outbox.entry import LOST
from twdm_async.outbox.insertion import PUT_MESSAGE
from twdm_async.outbox.rows import SCHEMA as OUTBOX
from twdm_async.quota.ledger import Ledger
from twdm_async.quota.store.tables import HELD
from twdm_async.quota.store.tables import SCHEMA as QUOTA
from twdm_async.resources.inbox import SCHEMA as INBOX
from twdm_async.storage.contract import StorageTrouble
from twdm_async.storage.postgres.connections import check_versions
from twdm_async.storage.postgres.database import PostgresDatabase, checked_schema
from twdm_async.storage.postgres.dialect import advice, in_postgres
from twdm_async.storage.postgres.storage import COMMON, IDENTITY

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from twdm_async.storage.contract import Schema

_SCHEMAS: Final = (COMMON, OUTBOX, INBOX, QUOTA)
_IN_PEACE: Final = (
    "SET LOCAL lock_timeout = '5s'"  # while this waits for a table's lock, every process that sends waits behind it
)
_DAY: Final = 86_400.0


_SET_ASIDE: Final = """
UPDATE message SET state = 'failed', owner = NULL, error = %s, changed_at = extract(epoch FROM clock_timestamp()),
    change = last + place
FROM (
    SELECT id, coalesce((SELECT last FROM outcome WHERE outcome.account = message.account), 0) AS last,
        row_number() OVER (PARTITION BY account ORDER BY id) AS place
    FROM message WHERE state IN ('held', 'queued', 'absent')
) AS waiting WHERE waiting.id = message.id
"""


@frozen
class User:
    """A process that uses the tables, or has used them recently.

    Args:
        package: the tables it uses: ``outbox``, ``inbox`` or ``quota``; or the name of a job that it alone does.
        host: the host on which it runs.
        pid: its process id on that host.
        since: when it began (UTC).
        is_alive: whether its last sign of life is recent.
        messages: how many messages of an outbox it works on.
    """

    package: str
    host: str
    pid: int
    since: datetime
    is_alive: bool
    messages: int


def install_sql(schema: str = "twdm") -> str:
    """Return the statements that create the schema and its tables, for a migration of the application's own. Execute
    them together, in one transaction, as the user who is to own the tables.

    A user that sends needs ``CONNECT`` on the database, ``USAGE`` on the schema, and ``SELECT``, ``INSERT``, ``UPDATE``
    and ``DELETE`` on its tables.

    Args:
        schema: the schema's name.

    Raises:
        InvalidInput: `schema` is not a name of lower-case letters, digits and underscores.
    """
    made = checked_schema(schema)
    lines = [f'CREATE SCHEMA "{made}"', f'SET LOCAL search_path = "{made}"', _VERSIONS]
    for one in _SCHEMAS:
        lines += _steps(one, 0)
    lines += [PUT_MESSAGE.strip().replace("{schema}", f'"{made}"'), _FIRST_SERVER]
    return ";\n".join([*lines, "SET LOCAL search_path = DEFAULT"]) + ";\n"


_VERSIONS: Final = "CREATE TABLE schema (package TEXT PRIMARY KEY, version BIGINT NOT NULL)"
_FIRST_SERVER: Final = f"INSERT INTO server SELECT {IDENTITY}, md5(random()::text || clock_timestamp()::text)"


def _steps(schema: Schema, version: int) -> list[str]:
    """Return the statements that bring the tables of a package up to date from `version`."""
    statements = [
        in_postgres(" ".join(statement.split()))
        for step in schema.steps[version:]
        for statement in step.split(";")
        if statement.strip()
    ]
    note = (
        f"INSERT INTO schema VALUES ('{schema.package}', {len(schema.steps)}) "  # noqa: S608 - ours
        "ON CONFLICT (package) DO UPDATE SET version = excluded.version"
    )
    return [*statements, note]


async def install(database: str | PostgresDatabase) -> None:
    """Create the schema and its tables, or upgrade them. Doing so twice does no harm. If a table stays locked for five
    seconds, give up, so that other processes do not wait behind this one.

    Args:
        database: the database, or its URL.

    Raises:
        InvalidInput: `database` is neither, its URL is wrong, or the extra ``postgres`` is not installed.
        DatabaseFailed: the database cannot be reached or its encoding is not UTF-8, this user may not create tables
            there, a table stayed locked, or a newer version of this library created the tables.
    """
    await _administer(database, _install)


def _install(db: Any, database: PostgresDatabase) -> None:
    (encoding,) = db.execute("SELECT current_setting('server_encoding')").fetchone()
    if encoding != "UTF8":
        raise StorageTrouble(f"its encoding is {encoding}; make one with UTF8")
    db.execute(_IN_PEACE)
    db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"twdm_async {database.schema}",))
    if not db.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (database.schema,)).fetchone():
        db.execute(f'CREATE SCHEMA "{database.schema}"')
    db.execute(_VERSIONS.replace("TABLE", "TABLE IF NOT EXISTS"))
    versions = dict(db.execute("SELECT package, version FROM schema").fetchall())
    check_versions(versions, _SCHEMAS, may_be_old=True)
    for schema in _SCHEMAS:
        for statement in _steps(schema, versions.get(schema.package, 0)):
            db.execute(statement)
    db.execute(PUT_MESSAGE.replace("{schema}", f'"{database.schema}"'))
    if not db.execute("SELECT 1 FROM server").fetchone():
        db.execute(_FIRST_SERVER)


async def check(database: str | PostgresDatabase) -> tuple[User, ...]:
    """Check that the tables exist, are up to date, and are on the same server as before. Return the processes that use
    them.

    Args:
        database: the database, or its URL.

    Raises:
        InvalidInput: `database` is neither, its URL is wrong, or the extra ``postgres`` is not installed.
        DatabaseFailed: the database cannot be reached, or one of the checks failed. The error says what to do.
    """
    users: tuple[User, ...] = await _administer(database, _check)
    return users


def _check(db: Any, _: PostgresDatabase) -> tuple[User, ...]:
    check_versions(dict(db.execute("SELECT package, version FROM schema").fetchall()), _SCHEMAS)
    identity, known_as = db.execute(f"SELECT {IDENTITY}, identity FROM server").fetchone()  # noqa: S608 - constant
    if identity != known_as:
        problem = "it is another server than before, and may lack what was committed last; see `twdm database resume`"
        raise StorageTrouble(problem)
    query = (
        "SELECT lease.package, host, pid, since, until > extract(epoch FROM clock_timestamp()), "
        "(SELECT count(*) FROM message WHERE owner = lease.name) FROM lease ORDER BY since"
    )
    return tuple(
        User(package, host, pid, datetime.fromtimestamp(since, UTC), is_alive=is_alive, messages=messages)
        for package, host, pid, since, is_alive, messages in db.execute(query).fetchall()
    )


async def resume(database: str | PostgresDatabase, *, is_complete: bool) -> None:
    """Resume work after another server took over, or after a backup was restored. First end all processes that still
    use the tables.

    Args:
        database: the database, or its URL.
        is_complete: whether nothing that was committed can be missing, as with synchronous replication. If false,
            messages that wait may have been sent already, so they are set aside as failed, for a person to look at; and
            what was spent is not known, so nothing is sent until the longest window is over.

    Raises:
        InvalidInput: `database` is neither, its URL is wrong, or the extra ``postgres`` is not installed.
        DatabaseFailed: the database cannot be reached or changed.
    """

    def say(db: Any, _: PostgresDatabase) -> None:
        query = f"UPDATE server SET identity = {IDENTITY}, epoch = %s"  # noqa: S608 - constant
        db.execute(query, (secrets.token_hex(16),))
        if not is_complete:
            _hold_all(db)

    await _administer(database, say)


def _hold_all(db: Any) -> None:
    """Set aside waiting messages that may have been sent, and hold every quota until its longest window is over."""
    db.execute(_SET_ASIDE, (LOST,))
    db.execute(
        "INSERT INTO outcome SELECT account, max(change) FROM message GROUP BY account "
        "ON CONFLICT (account) DO UPDATE SET last = greatest(outcome.last, excluded.last)"
    )
    query = (  # a backup may be old: move the book's time to the present, so that the holds begin now
        "UPDATE book SET now = now + greatest(0, at - wall), wall = at, uptime = at "
        "FROM (SELECT extract(epoch FROM clock_timestamp())::float8 AS at) AS clock RETURNING now"
    )
    (now,) = db.execute(query).fetchone()
    for app, name, text in db.execute("SELECT app, name, content FROM page").fetchall():
        if app and not name.startswith("conversations "):
            ledger = Ledger.from_json(json.loads(text))
            ledger.hold(now + ledger.longest)
            content = json.dumps(ledger.as_json(), separators=(",", ":"))
            db.execute("UPDATE page SET content = %s WHERE app = %s AND name = %s", (content, app, name))
    query = "INSERT INTO page VALUES (%s, %s, %s) ON CONFLICT (app, name) DO UPDATE SET content = excluded.content"
    db.execute(query, (*HELD, str(now + _DAY)))


async def _administer(database: str | PostgresDatabase, work: Callable[[Any, PostgresDatabase], Any]) -> Any:
    place = PostgresDatabase(database) if isinstance(database, str) else database
    if not isinstance(place, PostgresDatabase):
        raise InvalidInput(parameter="database", problem="must be a PostgresDatabase, or its URL")
    return await asyncio.to_thread(_in_transaction, place, work)


def _in_transaction(database: PostgresDatabase, work: Callable[[Any, PostgresDatabase], Any]) -> Any:
    with _errors_of(database), contextlib.closing(database.connect()) as db, db.transaction():
        db.execute("SELECT set_config('search_path', %s, true)", (f'"{database.schema}", pg_temp',))
        return work(db, database)


@contextlib.contextmanager
def _errors_of(database: PostgresDatabase) -> Generator[None]:
    try:
        yield
    except StorageTrouble as trouble:
        raise DatabaseFailed(address=database.address, problem=trouble.problem) from None
    except database.library.Error as error:
        raise DatabaseFailed(address=database.address, problem=advice(error)) from None
