"""A ledger's database, changed behind its back: emptied, replaced by another, put back to an earlier moment."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from akool_dagster.ledger.database import parse_ledger_url
from akool_dagster.ledger.schema import ledger, metadata

Backup = Mapping[str, Sequence[Mapping[str, Any]]]


class LedgerDatabase:
    """What an operator can do to a ledger's database with the database's own tools."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(parse_ledger_url(url))

    def close(self) -> None:
        self._engine.dispose()

    def backup(self) -> Backup:
        """Return every row of every table."""
        with self._engine.connect() as connection:
            return {
                table.name: [
                    dict(zip(table.columns.keys(), row, strict=True)) for row in connection.execute(sa.select(table))
                ]
                for table in metadata.sorted_tables
            }

    def put_back(self, backup: Backup) -> None:
        """Replace everything by a backup."""
        with self._engine.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(sa.delete(table))
                if rows := backup[table.name]:
                    connection.execute(sa.insert(table), rows)

    def make_anew(self) -> None:
        """Replace the ledger by a new and empty one with an id of its own."""
        empty: dict[str, Sequence[Mapping[str, Any]]] = {table.name: [] for table in metadata.sorted_tables}
        fresh = {"id": 1, "ledger_id": str(uuid.uuid4()), "version": 0, "created_at": 0}
        self.put_back(empty | {ledger.name: [fresh]})
