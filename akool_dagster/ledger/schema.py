"""The ledger's tables, for SQLAlchemy Core. The migrations build the same; a test compares the two."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

SCHEMA_VERSION = "0001"
"""The newest migration that this code knows. Versions are ordered as text."""

VERSION_TABLE = "akool_ledger_version"
"""Not Alembic's default name: a PostgreSQL database may hold Dagster's own ``alembic_version``."""

HOUR_MS = 3_600_000

metadata = sa.MetaData()

JOB_ID = sa.String(64).with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
"""Ids are ordered by bytes, as SQLite does and as the merge of tables expects."""

ledger = sa.Table(
    "akool_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("ledger_id", sa.String(36), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="ck_akool_ledger_one_row"),
)

accounts = sa.Table(
    "akool_accounts",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("granularity", sa.String(16)),
    sa.Column("assets", sa.Text, nullable=False, server_default=""),
    sa.Column("root_marked", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("poll_not_before", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("call_limit", sa.Integer),
    sa.Column("slowest_start_day", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("slowest_start_ms", sa.BigInteger, nullable=False, server_default="0"),
)

jobs = sa.Table(
    "akool_jobs",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("_id", JOB_ID, primary_key=True, key="job_id"),
    sa.Column("partition_at", sa.BigInteger, nullable=False),
    sa.Column("tracked_at", sa.BigInteger, nullable=False),
    sa.Column("watched_since", sa.BigInteger, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("status", sa.BigInteger),
    sa.Column("next_poll_at", sa.BigInteger, nullable=False),
    sa.Column("polls", sa.Integer, nullable=False),
    sa.Column("misses", sa.Integer, nullable=False),
    sa.Column("first_missed_at", sa.BigInteger),
    sa.Column("urlless_polls", sa.Integer, nullable=False),
    sa.Column("call_size", sa.Integer),
    sa.Column("last_polled_at", sa.BigInteger),
    sa.Column("last_code", sa.Integer),
    sa.Column("last_error", sa.Text),
    sa.Column("queueing_seen_at", sa.BigInteger),
    sa.Column("processing_seen_at", sa.BigInteger),
    sa.Column("settled_at", sa.BigInteger),
    sa.Column("failure_reason", sa.Text),
    sa.Column("payload", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("video_state", sa.String(16)),
    sa.Column("video_attempts", sa.Integer, nullable=False),
    sa.Column("video_refusals", sa.Integer, nullable=False),
    sa.Column("video_next_at", sa.BigInteger),
    sa.Column("video_expires_at", sa.BigInteger),
    sa.Column("video_error", sa.Text),
    sa.Column("video_record", sa.Text),
    sa.CheckConstraint(
        "state IN ('pending', 'completed', 'failed', 'missing', 'abandoned', 'forgotten')", name="ck_akool_jobs_state"
    ),
    sa.CheckConstraint("(state IN ('completed', 'failed')) = (settled_at IS NOT NULL)", name="ck_akool_jobs_settled"),
    sa.CheckConstraint("(state = 'completed') = (video_state IS NOT NULL)", name="ck_akool_jobs_video"),
)

# A partial index is used only where the query repeats its condition as a literal, not as a bound parameter.
IS_PENDING = jobs.c.state == sa.literal_column("'pending'")
VIDEO_IS_PENDING = jobs.c.video_state == sa.literal_column("'pending'")
IS_TOMBSTONE = jobs.c.settled_at.is_not(None) & jobs.c.payload.is_(None)
"""A job that ended has a payload until it is pruned."""

sa.Index(
    "ix_akool_jobs_due",
    jobs.c.account,
    jobs.c.next_poll_at,
    jobs.c.job_id,  # without it, ties on next_poll_at are sorted at each claim
    sqlite_where=IS_PENDING,
    postgresql_where=IS_PENDING,
)
sa.Index(
    "ix_akool_jobs_watched",
    jobs.c.account,
    jobs.c.watched_since,
    sqlite_where=IS_PENDING,
    postgresql_where=IS_PENDING,
)
sa.Index(
    "ix_akool_jobs_video_due",
    jobs.c.account,
    jobs.c.video_next_at,
    jobs.c.partition_at,
    jobs.c.video_expires_at,
    sqlite_where=VIDEO_IS_PENDING,
    postgresql_where=VIDEO_IS_PENDING,
)
sa.Index("ix_akool_jobs_partition", jobs.c.account, jobs.c.partition_at, jobs.c.job_id)
sa.Index("ix_akool_jobs_state", jobs.c.account, jobs.c.state, jobs.c.status, jobs.c.video_state)

hours = sa.Table(
    "akool_hours",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("hour_at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tables_version", sa.BigInteger, nullable=False),
    sa.Column("videos_version", sa.BigInteger, nullable=False),
)
"""The highest versions that ask for a landing, of the jobs whose ``partition_at`` lies in one hour."""

landed = sa.Table(
    "akool_landed",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("partition_at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("asset", sa.String(16), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)
"""The version of a partition, by its start, that each asset has landed."""

leases = sa.Table(
    "akool_leases",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("partition_key", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
