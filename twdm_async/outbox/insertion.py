"""Putting a message in a transaction of the application's own, in the PostgreSQL database of an outbox."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, field, frozen

if TYPE_CHECKING:
    from twdm_async.outbox.rows import NewMessage

_TYPES: Final = {"priority": "bigint", "not_after": "float8", "hold": "boolean"}
_NAME: Final = re.compile(r":(\w+)")


@frozen
class Insertion:
    """A statement that puts a message, for a connection of the application's own::

        await connection.execute(*insertion.psycopg)
        await connection.execute(*insertion.asyncpg)
        await session.execute(sqlalchemy.text(insertion.sqlalchemy[0]), insertion.sqlalchemy[1])

    The statement is part of the transaction in which it is executed: if that is rolled back, nothing is sent. The same
    message under the same key is put once. If the key is used for another message, the statement fails with a unique
    violation (``SQLSTATE 23505``) that names the key, and so does the transaction.

    Args:
        key: the message's name in the outbox.
    """

    key: str
    _statement: str = field(repr=False)
    _values: dict[str, Any] = field(repr=False)

    @property
    def psycopg(self) -> tuple[str, dict[str, Any]]:
        """The statement and its parameters for psycopg (and for any driver with the ``pyformat`` style)."""
        return _NAME.sub(r"%(\1)s", self._statement), self._values

    @property
    def asyncpg(self) -> tuple[Any, ...]:
        """The statement and its parameters for asyncpg."""
        names = list(self._values)
        statement = _NAME.sub(lambda found: f"${names.index(found[1]) + 1}", self._statement)
        return (statement, *self._values.values())

    @property
    def sqlalchemy(self) -> tuple[str, dict[str, Any]]:
        """The statement, for ``sqlalchemy.text()``, and its parameters."""
        return self._statement, self._values


def insertion_of(new: NewMessage, account: str, schema: str) -> Insertion:
    """Return the statement that puts `new` into the outbox of `account` in the schema."""
    values = {"account": account, **asdict(new), "priority": int(new.priority), "lane": new.custom_profile_id or ""}
    given = ", ".join(f"{name} => CAST(:{name} AS {_TYPES.get(name, 'text')})" for name in values)
    return Insertion(new.key, f'SELECT "{schema}".put_message({given})', values)


PUT_MESSAGE: Final = """
DROP FUNCTION IF EXISTS put_message(text, text, text, text, text, text, text, text, bigint, text, float8);
CREATE OR REPLACE FUNCTION put_message(
    account text, key text, digest text, recipient_id text, custom_profile_id text, fingerprint text, content text,
    payload text, priority bigint, lane text, not_after float8,
    hold boolean DEFAULT false
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    kept text;
    now float8 := extract(epoch FROM clock_timestamp());
BEGIN
    FOR attempt IN 1..100 LOOP
        INSERT INTO {schema}.message (account, key, digest, recipient_id, custom_profile_id, fingerprint, content,
            payload, priority, lane, put_at, not_after, state, review, changed_at)
        VALUES (put_message.account, put_message.key, put_message.digest, put_message.recipient_id,
            put_message.custom_profile_id, put_message.fingerprint, put_message.content, put_message.payload,
            put_message.priority, put_message.lane, now, put_message.not_after,
            CASE WHEN hold THEN 'held' ELSE 'queued' END, CASE WHEN hold THEN 'wanted' END, now)
        ON CONFLICT (account, key) DO NOTHING;
        EXIT WHEN FOUND;
        SELECT message.digest INTO kept FROM {schema}.message
        WHERE message.account = put_message.account AND message.key = put_message.key;
        EXIT WHEN kept = put_message.digest;
        IF FOUND THEN  -- else the other message was withdrawn or purged meanwhile
            RAISE unique_violation USING MESSAGE = 'twdm: the key ' || quote_literal(put_message.key)
                || ' was used for another message (another recipient, profile or content)';
        END IF;
        IF attempt = 100 THEN
            RAISE serialization_failure USING MESSAGE = 'twdm: a message was neither inserted nor found; try again';
        END IF;
    END LOOP;
    PERFORM pg_notify(trim('"' from '{schema}'), '');
END $$
"""
"""The database function that :class:`Insertion` calls. Statements of earlier versions have no `hold`."""
