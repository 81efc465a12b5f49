"""The place of an outbox, an inbox or a quota store: checks what a user passes for it, and opens the storage there."""

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
"""The path of a file, or a PostgreSQL database or its URL."""


def checked_place(place: Place) -> Path | PostgresDatabase:
    """Return the database that `place` names, or the path of the file.

    Raises:
        InvalidInput: `place` is neither, its URL is wrong, or the extra ``postgres`` is not installed.
    """
    if isinstance(place, PostgresDatabase):
        return place
    if isinstance(place, str) and place.startswith(("postgresql://", "postgres://")):
        return PostgresDatabase(place)
    return checked_path(place)


def open_storage(place: Path | PostgresDatabase, schema: Schema, clock: Clock, *, turn: str = "") -> Storage:
    """Return the storage for the tables of one package at `place`. Nothing is opened yet.

    Args:
        place: where the tables are.
        schema: the tables.
        clock: this machine's clock.
        turn: transactions of the same package and turn run one after the other. In a file, all transactions do.
    """
    if isinstance(place, PostgresDatabase):
        return PostgresStorage(place, schema, clock, turn=turn)
    return StateFile(place, schema, clock)
