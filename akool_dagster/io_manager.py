"""Tables as Parquet files, one a partition: those of this package are merged, others replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from akool_dagster.base.clock import SystemClock
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.storage import STALE_SECONDS, StorageError, StorageRoot, refuse_credentials
from akool_dagster.storage.marker import ledger_command
from akool_dagster.tables.columns import TABLES
from akool_dagster.tables.files import COMPRESSION, LandedTable, land, read_table
from akool_dagster.tables.spool import SpooledTable

_HOURLY_KEY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{2}:[0-9]{2}")
TABLE_METADATA = "akool/table"
"""Definition metadata of an asset that is one of `akool_dagster.tables.TABLES`."""


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes DataFrames and Arrow tables to ``<storage_root>/<asset key>/<partition>.parquet``, whole or not at all.

    An asset without partitions goes to ``<storage_root>/<asset key>.parquet``. The index of a DataFrame becomes
    columns, unless it only counts rows: has no name and is of integers, as after filtering. Loads a pandas DataFrame
    with Arrow-backed types (NumPy has no exact 64-bit integer with nulls), or a ``pyarrow.Table`` where the input is
    annotated so; several partitions are put one after the other. Tables of this package are merged with the file that
    is there (see `akool_dagster.tables.merge`), everything else replaces it.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    storage_root: str = Field(
        description="Absolute path, or s3://, gs:// or az:// URL, of the folder that everything is stored in. "
        "Credentials for it come from the environment."
    )

    _root: StorageRoot | None = PrivateAttr(default=None)  # one for a run: a remote driver's client is slow to make

    @field_validator("storage_root", mode="before")
    @classmethod
    def _refuse_credentials(cls, value: object) -> object:
        if isinstance(value, str) and not isinstance(value, dg.EnvVar):
            refuse_credentials(value)
        return value

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame | pa.Table | SpooledTable | None) -> None:
        """Write one asset or one partition of it; adds path, rows and bytes to the materialisation's metadata."""
        if obj is None:
            return
        partition_key = context.asset_partition_key if context.has_asset_partitions else None
        try:
            root, relative = self.root(), _relative_path(context.asset_key, partition_key)
            if isinstance(obj, SpooledTable):
                landed = land(root, relative, obj.spec, obj, obj.forgotten, SystemClock())
            else:
                landed = _write(root, relative, _arrow_table(obj))
        except AkoolDagsterError as error:
            raise dg.Failure(description=str(error)) from error
        context.add_output_metadata(
            {
                **(_landing_metadata(landed, context.asset_key.path[0]) if isinstance(obj, SpooledTable) else {}),
                "dagster/row_count" if partition_key is None else "dagster/partition_row_count": landed.rows,
                "akool/file_bytes": landed.bytes,
                "dagster/uri": root.uri(relative),
            }
        )

    def load_input(self, context: dg.InputContext) -> pd.DataFrame | pa.Table:
        """Read one asset: the partitions that the consumer depends on and that have landed, or the one file."""
        try:
            table = self._read(context)
        except AkoolDagsterError as error:
            raise dg.Failure(description=str(error)) from error
        if context.dagster_type.typing_type is pa.Table:
            return table
        return table.to_pandas(types_mapper=pd.ArrowDtype)

    def root(self) -> StorageRoot:
        """Return the storage root. Raises `StorageError` for a path or URL that cannot be one."""
        if self._root is None:
            self._root = StorageRoot(self.storage_root)
        return self._root

    def _read(self, context: dg.InputContext) -> pa.Table:
        root = self.root()
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else [None]
        paths = [_relative_path(context.asset_key, key) for key in keys]
        tables = [table for path in paths if (table := read_table(root, path)) is not None]
        if tables:
            return _joined([table.replace_schema_metadata(None) for table in tables], context.asset_key)
        upstream = context.upstream_output
        schema = _own_schema(upstream.definition_metadata if upstream is not None else None)
        if schema is None or len(keys) == 1:
            raise StorageError(
                f"Nothing has landed of {context.asset_key.to_user_string()} yet"
                + (f" for {keys[0]}" if len(keys) == 1 and keys[0] is not None else "")
                + f": there is no {root.uri(paths[0]) if paths else 'partition'}. Materialize it first."
            )
        return schema.empty_table()


def _write(root: StorageRoot, relative: str, table: pa.Table) -> LandedTable:
    if "/" in relative:
        root.remove_stale_temporaries(relative.rpartition("/")[0], STALE_SECONDS, SystemClock())
    with root.temporary(relative) as file:
        try:
            with root.files.open(file, "xb") as sink:
                pq.write_table(table, sink, compression=COMPRESSION)
        except pa.ArrowException as error:
            raise StorageError(f"Cannot write {root.uri(relative)}: {error}") from error
        size = file.stat().st_size
        root.publish(file, relative)
    return LandedTable(rows=table.num_rows, bytes=size)


def _landing_metadata(landed: LandedTable, account: str) -> dict[str, int | float | str]:
    metadata: dict[str, int | float | str] = {
        "akool/rows": landed.rows,
        **landed.totals,
        "akool/carried_over": landed.carried_over,
        "akool/carried_over_not_ended": landed.carried_over_not_ended,
    }
    if landed.carried_over_not_ended:
        metadata["akool/hint"] = (
            f"{landed.carried_over_not_ended} rows that have not ended are only in the file: the ledger does not know "
            f"them, so nobody polls or downloads them. Run {ledger_command('adopt', account)}."
        )
    return metadata


def _relative_path(key: dg.AssetKey, partition_key: str | None) -> str:
    parts = list(key.path)
    if partition_key is not None:
        # Only the keys of hourly partitions lose their colon: without it "a:b" would be the same file as "ab".
        parts.append(partition_key.replace(":", "") if _HOURLY_KEY.fullmatch(partition_key) else partition_key)
    if any("/" in part for part in parts):
        raise StorageError(
            f"{'/'.join(parts)!r} would be the file of another asset or partition: the parts of an asset key and the "
            "keys of its partitions may have no '/'."
        )
    return "/".join(parts) + ".parquet"


def _own_schema(definition_metadata: Mapping[str, Any] | None) -> pa.Schema | None:
    name = (definition_metadata or {}).get(TABLE_METADATA)
    spec = TABLES.get(str(getattr(name, "value", name)))
    return None if spec is None else spec.schema


def _arrow_table(obj: pd.DataFrame | pa.Table) -> pa.Table:
    if isinstance(obj, pd.DataFrame):
        try:
            frame = obj if _only_counts(obj.index) else obj.reset_index()
            return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise StorageError(
                f"This DataFrame cannot be stored as a table: {error}. Each column, the index included, needs a name "
                "of its own and values of one type that Arrow has."
            ) from error
    if not isinstance(obj, pa.Table):
        raise StorageError(
            f"This IO manager stores pandas DataFrames and pyarrow Tables, not {type(obj).__name__}. Return one of "
            "those, or give the asset another IO manager; reading an input does not need this one."
        )
    return obj


def _only_counts(index: pd.Index) -> bool:
    return index.nlevels == 1 and index.name is None and pd.api.types.is_integer_dtype(index.dtype)


def _joined(tables: Sequence[pa.Table], asset_key: dg.AssetKey) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise StorageError(
            f"The partitions of {asset_key.to_user_string()} do not go into one table: {error}. Materialize them with "
            "the same type in each column, or depend on fewer of them."
        ) from error
