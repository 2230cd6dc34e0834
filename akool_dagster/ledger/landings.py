"""What has landed of an account, what has not, and the rows that land."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.errors import GranularityError, LeaseLostError
from akool_dagster.ledger.polling import set_account_value
from akool_dagster.ledger.records import DirtyPartition, JobState
from akool_dagster.ledger.schema import HOUR_MS, IS_TOMBSTONE, accounts, hours, jobs, landed, leases
from akool_dagster.ledger.transitions import DAY_MS

VIDEOS = "videos"
"""The asset that lands the manifest of videos. Every other asset lands a table of results."""


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """The rows of one partition and its versions, all read in one transaction."""

    tables_version: int
    """The highest version that asks for a landing of the tables."""
    videos_version: int
    _connection: sa.Connection
    _query: sa.Select[Any]

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Sequence[sa.Row[Any]]]:
        """Yield these columns of the jobs that land, by ``_id`` in byte order, in lists of at most ``rows``.

        Tombstones and forgotten jobs are left out: their rows are in the tables alone, or nowhere.
        """
        query = self._query.with_only_columns(*(jobs.c[name] for name in columns))
        yield from self._connection.execute(query, execution_options={"yield_per": rows}).partitions()


class LandingLedger:
    """The landings of one account."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def dirty(self, partition_ms: int, tables: Collection[str], *, videos: bool) -> list[DirtyPartition]:
        """Return the partitions whose versions are above the lowest that an enabled asset has landed, by start.

        ``partition_ms``: the length of a partition. One query, whatever the number of clean partitions.
        """
        start = (hours.c.hour_at - hours.c.hour_at % partition_ms).label("start")
        asked = (
            sa.select(
                start,
                sa.func.max(hours.c.tables_version).label("tables_version"),
                sa.func.max(hours.c.videos_version).label("videos_version"),
            )
            .where(hours.c.account == self._account)
            .group_by(start)
            .subquery()
        )
        tables_are_dirty = asked.c.tables_version > self._lowest_landed(asked.c.start, tables)
        videos_are_dirty = asked.c.videos_version > self._lowest_landed(asked.c.start, [VIDEOS] if videos else [])
        query = (
            sa.select(
                asked.c.start,
                sa.case((tables_are_dirty, asked.c.tables_version), else_=0),
                sa.case((videos_are_dirty, asked.c.videos_version), else_=0),
            )
            .where(tables_are_dirty | videos_are_dirty)
            .order_by(asked.c.start)
        )
        with self._database.read() as connection:
            return [
                DirtyPartition(partition_at=at, tables_version=of_tables, videos_version=of_videos)
                for at, of_tables, of_videos in connection.execute(query)
            ]

    def _lowest_landed(self, start: sa.ColumnElement[int], assets: Collection[str]) -> sa.ColumnElement[int]:
        if not assets:
            return sa.literal(END_OF_TIME, sa.BigInteger)
        has_all = sa.func.count() == len(assets)
        return (
            sa.select(sa.case((has_all, sa.func.min(landed.c.version)), else_=0))
            .where(landed.c.account == self._account, landed.c.partition_at == start, landed.c.asset.in_(assets))
            .scalar_subquery()
        )

    def landed(self, start: int, end: int = END_OF_TIME) -> dict[tuple[int, str], int]:
        """Return the version that each asset has landed of each partition with ``start <= partition_at < end``."""
        query = sa.select(landed.c.partition_at, landed.c.asset, landed.c.version).where(
            landed.c.account == self._account, landed.c.partition_at >= start, landed.c.partition_at < end
        )
        with self._database.read() as connection:
            return {(at, asset): version for at, asset, version in connection.execute(query)}

    def record_landed(
        self, kind: str, partition_key: str, owner: str, partition_at: int, asset: str, version: int
    ) -> None:
        """Record that an asset has landed a version of a partition, in one transaction with a look at the lease.

        Raises `LeaseLostError` when the lease of this kind and partition is not the owner's any more.
        """
        holder = sa.select(leases.c.owner, leases.c.expires_at).where(
            leases.c.account == self._account, leases.c.kind == kind, leases.c.partition_key == partition_key
        )
        statement = self._database.insert(landed).values(
            account=self._account, partition_at=partition_at, asset=asset, version=version
        )
        statement = statement.on_conflict_do_update(
            index_elements=[landed.c.account, landed.c.partition_at, landed.c.asset], set_={"version": version}
        )
        with self._database.write() as connection:
            row = connection.execute(holder.with_for_update()).first()
            if row is None or row.owner != owner or row.expires_at <= self._clock.now_ms():
                raise LeaseLostError(
                    f"The lease on {kind} of {partition_key} passed to another run while {asset} was written. The rows "
                    "are merged and safe; the next tick asks for the partition again."
                )
            connection.execute(statement)

    @contextmanager
    def snapshot(self, start: int, end: int) -> Iterator[PartitionSnapshot]:
        """Give the rows with ``start <= partition_at < end`` and their versions while the block lasts."""
        where = (jobs.c.account == self._account, jobs.c.partition_at >= start, jobs.c.partition_at < end)
        asked = sa.select(sa.func.max(hours.c.tables_version), sa.func.max(hours.c.videos_version)).where(
            hours.c.account == self._account, hours.c.hour_at >= start - start % HOUR_MS, hours.c.hour_at < end
        )
        with self._database.read() as connection:
            tables_version, videos_version = connection.execute(asked).one()
            yield PartitionSnapshot(
                tables_version=tables_version or 0,
                videos_version=videos_version or 0,
                _connection=connection,
                _query=self._rows(where),
            )

    def _rows(self, where: tuple[sa.ColumnElement[bool], ...]) -> sa.Select[Any]:
        shown = ~IS_TOMBSTONE & (jobs.c.state != JobState.FORGOTTEN)
        if not self._database.is_sqlite:
            return sa.select(jobs.c.job_id).where(*where, shown).order_by(jobs.c.job_id)
        # SQLite would sort whole rows, payloads included. It sorts numbers of rows instead, and keeps the order of a
        # subquery that has a limit. The merge of tables checks the order.
        row: sa.ColumnElement[int] = sa.literal_column("akool_jobs.rowid", sa.BigInteger)
        sorted_rows = sa.select(row.label("row")).where(*where).order_by(jobs.c.job_id).limit(-1).subquery()
        return sa.select(jobs.c.job_id).select_from(sorted_rows).join(jobs, row == sorted_rows.c.row).where(shown)

    def forgotten(self) -> frozenset[str]:
        """Return the ids that were forgotten."""
        query = sa.select(jobs.c.job_id).where(jobs.c.account == self._account, jobs.c.state == JobState.FORGOTTEN)
        with self._database.read() as connection:
            return frozenset(connection.execute(query).scalars())

    # What is written down of the account

    def settle_granularity(self, granularity: str) -> None:
        """Write down the account's granularity at its first tick. Raises `GranularityError` for another one later."""
        known = self._value(accounts.c.granularity)
        if known is None:  # of two first ticks at once, the later one finds what the other wrote
            self._write(
                {"granularity": granularity}, {"granularity": sa.func.coalesce(accounts.c.granularity, granularity)}
            )
            known = self._value(accounts.c.granularity)
        if known != granularity:
            raise GranularityError(
                f"The partitions of {self._account} are {known}, as its first tick wrote down, but the definitions "
                f"say {granularity}. Set granularity={known!r} again, or give the {granularity} partitions a prefix of "
                "their own. Nothing was landed."
            )

    def granularity(self) -> str | None:
        """Return the account's granularity; None before the first tick."""
        value: str | None = self._value(accounts.c.granularity)
        return value

    def enabled_assets(self) -> list[str]:
        """Return the assets that the deployment lands, as the last tick wrote down."""
        return [asset for asset in str(self._value(accounts.c.assets) or "").split(",") if asset]

    def set_enabled_assets(self, assets: Sequence[str]) -> None:
        """Write down which assets the deployment lands, when that has changed."""
        if self.enabled_assets() != list(assets):
            set_account_value(self._database, self._account, "assets", ",".join(assets))

    def root_is_marked(self) -> bool:
        """Return whether a storage root was marked as this ledger's, so that a missing marker means a missing mount."""
        return bool(self._value(accounts.c.root_marked))

    def note_marked_root(self) -> None:
        """Remember that a storage root was marked as this ledger's."""
        set_account_value(self._database, self._account, "root_marked", True)

    def note_start(self, milliseconds: int) -> None:
        """Remember how long a run took from its launch to its lease, if no run of the day took longer."""
        day = self._clock.now_ms() // DAY_MS
        is_longer = (accounts.c.slowest_start_day == day) & (accounts.c.slowest_start_ms > milliseconds)
        longest = sa.case((is_longer, accounts.c.slowest_start_ms), else_=milliseconds)
        values = {"slowest_start_day": day, "slowest_start_ms": milliseconds}
        self._write(values, values | {"slowest_start_ms": longest})

    def slowest_start_ms(self) -> int:
        """Return the longest time from a run's launch to its lease today, or on the day before while today has none.

        0 when none is known.
        """
        day = self._clock.now_ms() // DAY_MS
        query = sa.select(accounts.c.slowest_start_ms).where(
            accounts.c.account == self._account, accounts.c.slowest_start_day.between(day - 1, day)
        )
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def _write(self, values: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Write the account's first row, or change the one that is there, in one statement."""
        statement = self._database.insert(accounts).values({"account": self._account, **values})
        with self._database.write() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=[accounts.c.account], set_=changes))

    def _value(self, column: sa.Column[Any]) -> Any:
        with self._database.read() as connection:
            return connection.execute(sa.select(column).where(accounts.c.account == self._account)).scalar()
