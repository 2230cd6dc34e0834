"""Tables as Parquet files, one a partition, replaced whole."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from akool_dagster.clock import SystemClock
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.landed_files import ended_ids, landed_file, parse_parquet, read_parquet
from akool_dagster.ownership import (
    FIRST_LANDING_METADATA,
    LEDGER_METADATA,
    REVISION_METADATA,
    ensure_owner,
    refuse_going_back,
)
from akool_dagster.storage import NOTHING, StorageError, StorageRoot, refuse_credentials
from akool_dagster.tables import TABLES

_HOURLY_KEY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{2}:[0-9]{2}")
STALE_SECONDS = 900.0
"""A temporary file that nobody wrote to for so long was left by a killed run."""
TABLE_METADATA = "akool/table"
"""Definition metadata of an asset that is one of `akool_dagster.tables.TABLES`."""


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes DataFrames and Arrow tables to ``<storage_root>/<asset key>/<partition>.parquet``, whole or not at all.

    An asset without partitions goes to ``<storage_root>/<asset key>.parquet``. The index of a DataFrame becomes
    columns, unless it only counts rows: has no name and is of integers, as after filtering. Loads a pandas DataFrame
    with Arrow-backed types (NumPy has no exact 64-bit integer with nulls), or a ``pyarrow.Table`` where the input is
    annotated so; several partitions are put one after the other. Tables of this package keep their own schema, and
    are not replaced by an older ledger's (see `akool_dagster.ownership`).
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    storage_root: str = Field(
        description="Absolute path or URL (s3://, gs:// or az://bucket/folder) of the folder that everything is "
        "stored in. Credentials for it come from the environment."
    )

    _root: StorageRoot | None = PrivateAttr(default=None)  # one for a run: a remote client is slow to make

    @field_validator("storage_root", mode="before")
    @classmethod
    def _refuse_credentials(cls, value: object) -> object:
        if isinstance(value, str) and not isinstance(value, dg.EnvVar):
            refuse_credentials(value)
        return value

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame | pa.Table | None) -> None:
        """Write one asset or one partition of it; adds path, rows and bytes to the materialisation's metadata."""
        if obj is None:
            return
        try:
            self._write(context, obj)
        except AkoolDagsterError as error:
            raise dg.Failure(description=str(error)) from error

    def load_input(self, context: dg.InputContext) -> pd.DataFrame | pa.Table:
        """Read one asset: the partitions that the consumer depends on and that have landed, or the one file."""
        try:
            table = self._read(context)
        except AkoolDagsterError as error:
            raise dg.Failure(description=str(error)) from error
        if context.dagster_type.typing_type is pa.Table:
            return table
        return table.to_pandas(types_mapper=pd.ArrowDtype)

    def _write(self, context: dg.OutputContext, obj: pd.DataFrame | pa.Table) -> None:
        root = self._open()
        relative = _relative_path(
            context.asset_key, context.asset_partition_key if context.has_asset_partitions else None
        )
        table = _arrow_table(obj, _own_schema(context.definition_metadata))
        stamp = _stamp(context.output_metadata)
        adopted: Collection[str] = ()
        if stamp:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **stamp})
            first = FIRST_LANDING_METADATA in context.output_metadata
            folder = "/".join(context.asset_key.path[:-1])
            adopted = ensure_owner(root, folder, stamp[LEDGER_METADATA], first=first).adopted
            # A run that was killed while it made the mark left its temporary file there.
            root.remove_stale_temporaries(folder, STALE_SECONDS, SystemClock())
        if "/" in relative:
            root.remove_stale_temporaries(relative.rpartition("/")[0], STALE_SECONDS, SystemClock())
        with root.temporary(relative) as file:
            try:
                with root.files.open(file, "xb") as sink:
                    pq.write_table(table, sink, compression="zstd")
            except pa.ArrowException as error:
                raise StorageError(f"Cannot write {root.uri(relative)}: {error}") from error
            size = file.stat().st_size
            found = root.look(relative) if stamp else None
            if found is not None and found != NOTHING:
                # Right before the rename, so that a run that was stopped in between does not put old rows back.
                refuse_going_back(
                    landed_file(root, relative),
                    stamp[LEDGER_METADATA],
                    int(stamp[REVISION_METADATA]),
                    table.column("_id").to_pylist(),
                    ended_ids=ended_ids(table),
                    adopted=adopted,
                )
            root.publish(file, relative, replacing=found)
        rows = {"dagster/partition_row_count" if context.has_asset_partitions else "dagster/row_count": table.num_rows}
        context.add_output_metadata({"dagster/uri": root.uri(relative), "akool/file_bytes": size, **rows})

    def _read(self, context: dg.InputContext) -> pa.Table:
        root = self._open()
        if not context.has_asset_partitions:
            return read_parquet(root, _relative_path(context.asset_key, None))
        keys = list(context.asset_partition_keys)
        paths = [_relative_path(context.asset_key, key) for key in keys]
        tables = [
            parse_parquet(root, path, content) for path in paths if (content := root.read_if_there(path)) is not None
        ]
        if tables:
            return _joined([table.replace_schema_metadata(None) for table in tables], context.asset_key)
        upstream = context.upstream_output
        schema = _own_schema(upstream.definition_metadata if upstream is not None else None)
        if schema is None or len(keys) == 1:
            raise StorageError(
                f"Nothing has landed of {context.asset_key.to_user_string()} yet"
                + (f" for {keys[0]}" if len(keys) == 1 else "")
                + f": there is no {root.uri(paths[0]) if paths else 'partition'}. Materialize it first."
            )
        return schema.empty_table()

    def _open(self) -> StorageRoot:
        if self._root is None:
            self._root = StorageRoot(self.storage_root)
        return self._root


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


def _arrow_table(obj: pd.DataFrame | pa.Table, schema: pa.Schema | None) -> pa.Table:
    if isinstance(obj, pd.DataFrame):
        try:
            if schema is None and not _only_counts(obj.index):
                obj = obj.reset_index()
            table = pa.Table.from_pandas(obj, schema=schema, preserve_index=False)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise StorageError(
                f"This DataFrame cannot be stored as a table: {error}. Each column, the index included, needs a name "
                "of its own and values of one type that Arrow has."
            ) from error
        return table.replace_schema_metadata(None if schema is None else schema.metadata)
    if not isinstance(obj, pa.Table):
        raise StorageError(
            f"This IO manager stores pandas DataFrames and pyarrow Tables, not {type(obj).__name__}. Return one of "
            "those, or give the asset another IO manager; reading an input does not need this one."
        )
    return obj if schema is None else obj.cast(schema)


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


def _stamp(output_metadata: Mapping[str, Any]) -> dict[str, str]:
    stamp = {name: output_metadata.get(name) for name in (LEDGER_METADATA, REVISION_METADATA)}
    if None in stamp.values():
        return {}
    return {name: str(getattr(value, "value", value)) for name, value in stamp.items()}
