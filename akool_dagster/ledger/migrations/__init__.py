"""Alembic migrations of the job ledger."""
