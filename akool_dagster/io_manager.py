"""Tables as Parquet files, one a partition, replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from akool_dagster.clock import SystemClock
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.ownership import (
    FIRST_LANDING_METADATA,
    LEDGER_METADATA,
    REVISION_METADATA,
    LandedFile,
    ensure_owner,
    refuse_going_back,
)
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.tables import TABLES

STALE_SECONDS = 900.0
"""A temporary file that nobody wrote to for so long was left by a killed run."""
TABLE_METADATA = "akool/table"
"""Definition metadata of an asset that is one of `akool_dagster.tables.TABLES`."""


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes DataFrames and Arrow tables to ``<storage_root>/<asset key>/<partition>.parquet``, whole or not at all.

    An asset without partitions goes to ``<storage_root>/<asset key>.parquet``. Loads a pandas DataFrame with
    Arrow-backed types (NumPy has no exact 64-bit integer with nulls), or a ``pyarrow.Table`` where the input is
    annotated so; several partitions are put one after the other. Tables of this package keep their own schema, and
    are not replaced by an older ledger's (see `akool_dagster.ownership`).
    """

    storage_root: str = Field(
        description="Absolute path or fsspec URL (s3://bucket/folder) of the folder that everything is stored in."
    )

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
        root = StorageRoot(self.storage_root)
        relative = _relative_path(
            context.asset_key, context.asset_partition_key if context.has_asset_partitions else None
        )
        table = _arrow_table(obj, _own_schema(context.definition_metadata))
        stamp = _stamp(context.output_metadata)
        if stamp:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **stamp})
            first = FIRST_LANDING_METADATA in context.output_metadata
            folder = "/".join(context.asset_key.path[:-1])
            ensure_owner(root, folder, stamp[LEDGER_METADATA], first=first)
            # A run that was killed while it made the mark left its temporary file there.
            root.remove_stale_temporaries(folder, STALE_SECONDS, SystemClock())
        if "/" in relative:
            root.remove_stale_temporaries(relative.rpartition("/")[0], STALE_SECONDS, SystemClock())
        with root.temporary(relative) as file:
            try:
                pq.write_table(table, file, compression="zstd")
            except pa.ArrowException as error:
                raise StorageError(f"Cannot write {root.uri(relative)}: {error}") from error
            size = file.stat().st_size
            if stamp and root.exists(relative):
                # Right before the rename, so that a run that was stopped in between does not put old rows back.
                refuse_going_back(
                    landed_file(root, relative),
                    stamp[LEDGER_METADATA],
                    int(stamp[REVISION_METADATA]),
                    table.column("_id").to_pylist(),
                )
            root.publish(file, relative)
        rows = {"dagster/partition_row_count" if context.has_asset_partitions else "dagster/row_count": table.num_rows}
        context.add_output_metadata({"dagster/uri": root.uri(relative), "akool/file_bytes": size, **rows})

    def _read(self, context: dg.InputContext) -> pa.Table:
        root = StorageRoot(self.storage_root)
        if not context.has_asset_partitions:
            return read_parquet(root, _relative_path(context.asset_key, None))
        keys = list(context.asset_partition_keys)
        paths = [_relative_path(context.asset_key, key) for key in keys]
        tables = [read_parquet(root, path) for path in paths if root.exists(path)]
        if tables:
            return pa.concat_tables(
                [table.replace_schema_metadata(None) for table in tables], promote_options="default"
            )
        upstream = context.upstream_output
        schema = _own_schema(upstream.definition_metadata if upstream is not None else None)
        if schema is None or len(keys) == 1:
            raise StorageError(
                f"Nothing has landed of {context.asset_key.to_user_string()} yet"
                + (f" for {keys[0]}" if len(keys) == 1 else "")
                + f": there is no {root.uri(paths[0]) if paths else 'partition'}. Materialize it first."
            )
        return schema.empty_table()


def landed_file(root: StorageRoot, relative: str) -> LandedFile:
    """Return what a Parquet file of ours says of itself. Raises `StorageError` when it is not readable."""
    table = read_parquet(root, relative, columns=["_id"])
    metadata = table.schema.metadata or {}
    ledger_id = metadata.get(LEDGER_METADATA.encode())
    return LandedFile(
        uri=root.uri(relative),
        ledger_id=None if ledger_id is None else ledger_id.decode(),
        revision=int(metadata.get(REVISION_METADATA.encode(), b"0")),
        job_ids=table.column("_id").to_pylist(),
    )


def read_parquet(root: StorageRoot, relative: str, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file of the storage root. Raises `StorageError` when it is missing or no Parquet file."""
    with root.open_read(relative) as file:
        try:
            return pq.ParquetFile(file).read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{root.uri(relative)} cannot be read as Parquet: {error}. Move it away and materialize the partition."
            ) from error


def _relative_path(key: dg.AssetKey, partition_key: str | None) -> str:
    parts = list(key.path) if partition_key is None else [*key.path, partition_key.replace(":", "")]
    return "/".join(parts) + ".parquet"


def _own_schema(definition_metadata: Mapping[str, Any] | None) -> pa.Schema | None:
    name = (definition_metadata or {}).get(TABLE_METADATA)
    spec = TABLES.get(str(getattr(name, "value", name)))
    return None if spec is None else spec.schema


def _arrow_table(obj: pd.DataFrame | pa.Table, schema: pa.Schema | None) -> pa.Table:
    if isinstance(obj, pd.DataFrame):
        return pa.Table.from_pandas(obj, schema=schema, preserve_index=False).replace_schema_metadata(
            None if schema is None else schema.metadata
        )
    if not isinstance(obj, pa.Table):
        raise StorageError(
            f"This IO manager stores pandas DataFrames and pyarrow Tables, not {type(obj).__name__}. Return one of "
            "those, or give the asset another IO manager; reading an input does not need this one."
        )
    return obj if schema is None else obj.cast(schema)


def _stamp(output_metadata: Mapping[str, Any]) -> dict[str, str]:
    stamp = {name: output_metadata.get(name) for name in (LEDGER_METADATA, REVISION_METADATA)}
    if None in stamp.values():
        return {}
    return {name: str(getattr(value, "value", value)) for name, value in stamp.items()}
