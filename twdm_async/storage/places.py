"""From what a user names as the place of an outbox, an inbox or a quota store to the storage there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from twdm_async.storage.postgres.database import PostgresDatabase
from twdm_async.storage.postgres.storage import PostgresStorage
from twdm_async.storage.sqlite import StateFile, checked_path

if TYPE_CHECKING:
    from pathlib import Path

    from twdm_async._clock import Clock
    from twdm_async.storage.contract import Schema, Storage

Place = str | os.PathLike[str] | PostgresDatabase
"""The path of a file, the URL of a PostgreSQL database, or such a database."""


def checked_place(place: Place) -> Path | PostgresDatabase:
    """Return the database at `place`, or the path.

    Raises:
        InvalidInput: it is neither, or the URL is wrong, or the extra ``postgres`` is not installed.
    """
    if isinstance(place, PostgresDatabase):
        return place
    if isinstance(place, str) and place.startswith(("postgresql://", "postgres://")):
        return PostgresDatabase(place)
    return checked_path(place)


def open_storage(
    place: Path | PostgresDatabase, schema: Schema, content: str, advice: str, clock: Clock, *, turn: str = ""
) -> Storage:
    """Return the tables of one package at `place`. Nothing is opened yet.

    Args:
        place: where they are.
        schema: the tables.
        content: what these keep, in words.
        advice: what to do if it cannot be read any more.
        clock: this machine's.
        turn: transactions of the same package and turn come one after the other. In a file, all do.
    """
    if isinstance(place, PostgresDatabase):
        return PostgresStorage(place, schema, content, advice, clock, turn=turn)
    return StateFile(place, schema, content, advice, clock)
