"""Run by Alembic with the connection, and its transaction, that `Database` opened."""

from __future__ import annotations

from alembic import context

from akool_dagster.ledger.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
