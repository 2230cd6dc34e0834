"""The first schema: accounts, jobs, the versions that ask for a landing and those that landed, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    job_id = sa.String(64).with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
    op.create_table(
        "akool_ledger",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("ledger_id", sa.String(36), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_akool_ledger_one_row"),
    )
    op.create_table(
        "akool_accounts",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("granularity", sa.String(16)),
        sa.Column("assets", sa.Text, nullable=False, server_default=""),
        sa.Column("root_marked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("poll_not_before", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("call_limit", sa.Integer),
        sa.Column("slowest_start_day", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("slowest_start_ms", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "akool_jobs",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("_id", job_id, primary_key=True),
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
            "state IN ('pending', 'completed', 'failed', 'missing', 'abandoned', 'forgotten')",
            name="ck_akool_jobs_state",
        ),
        sa.CheckConstraint(
            "(state IN ('completed', 'failed')) = (settled_at IS NOT NULL)", name="ck_akool_jobs_settled"
        ),
        sa.CheckConstraint("(state = 'completed') = (video_state IS NOT NULL)", name="ck_akool_jobs_video"),
    )
    is_pending = sa.text("state = 'pending'")
    video_is_pending = sa.text("video_state = 'pending'")
    for name, columns, where in (
        ("ix_akool_jobs_due", ["account", "next_poll_at", "_id"], is_pending),
        ("ix_akool_jobs_watched", ["account", "watched_since"], is_pending),
        (
            "ix_akool_jobs_video_due",
            ["account", "video_next_at", "partition_at", "video_expires_at"],
            video_is_pending,
        ),
        ("ix_akool_jobs_partition", ["account", "partition_at", "_id"], None),
        ("ix_akool_jobs_state", ["account", "state", "status", "video_state"], None),
    ):
        op.create_index(name, "akool_jobs", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "akool_hours",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("hour_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tables_version", sa.BigInteger, nullable=False),
        sa.Column("videos_version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "akool_landed",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("partition_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("asset", sa.String(16), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "akool_leases",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("partition_key", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
