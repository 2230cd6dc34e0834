"""The ledger's tables, for SQLAlchemy Core. The migrations build the same; a test compares the two."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = "0001"
"""The newest migration that this code knows. Versions are ordered as text."""

VERSION_TABLE = "akool_ledger_version"
"""Not Alembic's default name: a PostgreSQL database may hold Dagster's own ``alembic_version``."""

metadata = sa.MetaData()

ledger = sa.Table(
    "akool_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("ledger_id", sa.String(36), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="ck_akool_ledger_one_row"),
)

accounts = sa.Table(
    "akool_accounts",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("poll_not_before", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("landed", sa.Boolean, nullable=False, server_default=sa.false()),
)

jobs = sa.Table(
    "akool_jobs",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("_id", sa.String(64), primary_key=True, key="job_id"),
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
    sa.Column("poll_alone", sa.Boolean, nullable=False),
    sa.Column("last_polled_at", sa.BigInteger),
    sa.Column("last_code", sa.Integer),
    sa.Column("last_error", sa.Text),
    sa.Column("queueing_seen_at", sa.BigInteger),
    sa.Column("processing_seen_at", sa.BigInteger),
    sa.Column("settled_at", sa.BigInteger),
    sa.Column("failure_reason", sa.Text),
    sa.Column("payload", sa.Text),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("head", sa.BigInteger, nullable=False),
    sa.Column("video_state", sa.String(16)),
    sa.Column("video_attempts", sa.Integer, nullable=False),
    sa.Column("video_next_at", sa.BigInteger),
    sa.Column("video_expires_at", sa.BigInteger),
    sa.Column("video_error", sa.Text),
    sa.Column("video_record", sa.Text),
    sa.Column("video_revision", sa.BigInteger, nullable=False),
    sa.Column("video_head", sa.BigInteger, nullable=False),
    sa.CheckConstraint(
        "state IN ('pending', 'completed', 'failed', 'missing', 'abandoned')", name="ck_akool_jobs_state"
    ),
    sa.CheckConstraint("(state IN ('completed', 'failed')) = (settled_at IS NOT NULL)", name="ck_akool_jobs_settled"),
    sa.CheckConstraint("(state = 'completed') = (video_state IS NOT NULL)", name="ck_akool_jobs_video"),
)

# A partial index is used only where the query repeats its condition as a literal, not as a bound parameter.
IS_PENDING = jobs.c.state == sa.literal_column("'pending'")
VIDEO_IS_PENDING = jobs.c.video_state == sa.literal_column("'pending'")
IS_PRUNED = jobs.c.settled_at.is_not(None) & jobs.c.payload.is_(None)
"""A job that ended always has a payload until it is pruned."""

HOUR_MS = 3_600_000

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
    sa.Column("head", sa.BigInteger, nullable=False),
    sa.Column("video_head", sa.BigInteger, nullable=False),
)

landings = sa.Table(
    "akool_landings",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("partition_key", sa.String(32), primary_key=True),
    sa.Column("revision", sa.BigInteger),
    sa.Column("checked_at", sa.BigInteger, nullable=False),
)

leases = sa.Table(
    "akool_leases",
    metadata,
    sa.Column("account", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("partition_key", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
