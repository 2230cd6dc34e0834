"""The jobs of one partition, decoded once into one wide temporary file that every table is a projection of."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import lt
from typing import Any, Self

import msgspec
import pyarrow as pa

from akool_dagster.ledger.landings import PartitionSnapshot
from akool_dagster.ledger.schema import jobs
from akool_dagster.storage import StorageError
from akool_dagster.tables.columns import FIELD_TYPES, VIDEO_RECORD
from akool_dagster.tables.merge import UnorderedRowsError
from akool_dagster.tables.spec import SPOOL_ROWS, TIMESTAMP, TableSpec, project

_KEYS: Mapping[str, str] = {column.name: column.key for column in jobs.columns}
"""The ledger's columns: their names in the tables to their names in SQLAlchemy."""
_PYTHON_TYPES: Mapping[pa.DataType, type] = {
    TIMESTAMP: int,
    pa.int64(): int,
    pa.float64(): float,
    pa.string(): str,
    pa.bool_(): bool,
}
_NOTHING = msgspec.Raw(b"{}")


@dataclass(frozen=True, slots=True)
class _Document:
    """A column of the ledger that holds JSON text, and the fields that are read from it."""

    column: str
    fields: tuple[str, ...]
    decoder: msgspec.json.Decoder[Any]

    @classmethod
    def of(cls, column: str, fields: Collection[str]) -> Self:
        wanted = tuple(sorted(fields))
        typed = [
            (name, msgspec.Raw, _NOTHING) if name == "extra" else (name, _PYTHON_TYPES[FIELD_TYPES[name]] | None, None)
            for name in wanted
        ]
        return cls(column, wanted, msgspec.json.Decoder(list[msgspec.defstruct(column, typed, gc=False)]))  # type: ignore[misc]

    def decode(self, texts: Sequence[str | None]) -> Mapping[str, Sequence[Any]]:
        """Return the fields as columns. A text that does not fit has none, but is itself in ``extra``."""
        try:
            rows = self._decoded(texts)
        except msgspec.MsgspecError:  # one odd row must not stop the others
            rows = [row for text in texts for row in self._decoded_alone(text)]
        columns = dict(zip(self.fields, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
        if "extra" in columns:
            columns["extra"] = tuple(b"{}" if extra == b"null" else extra for extra in map(bytes, columns["extra"]))
        return columns

    def _decoded(self, texts: Iterable[str | None]) -> list[Any]:
        rows: list[Any] = self.decoder.decode("[" + ",".join(text or "{}" for text in texts) + "]")
        return rows

    def _decoded_alone(self, text: str | None) -> list[Any]:
        try:
            return self._decoded([text])
        except msgspec.MsgspecError:
            kept = msgspec.json.encode({"extra": {"unreadable": text}} if "extra" in self.fields else {})
            return self._decoded([kept.decode()])


class Spool(AbstractContextManager["Spool"]):
    """The jobs of one partition in a temporary file that has no name: nothing is left of it when the process dies."""

    def __init__(
        self,
        snapshot: PartitionSnapshot,
        partition_start_ms: int,
        specs: Iterable[TableSpec],
        forgotten: Callable[[], Collection[str]],
    ) -> None:
        """Read what these tables are made from, in batches; afterwards the snapshot is not needed any more.

        ``forgotten`` gives the ids whose rows must not land, when it is asked. Raises `UnorderedRowsError` unless the
        ledger gives the jobs in the order of their ids.
        """
        self._forgotten = forgotten
        fields = sorted(frozenset().union(*(spec.sources for spec in specs)))
        self._schema = pa.schema([pa.field(name, FIELD_TYPES[name]) for name in fields])
        self._file = tempfile.TemporaryFile(prefix="akool-spool-")  # noqa: SIM115
        try:
            with _garbage_collection_paused():
                self._write(snapshot, partition_start_ms)
        except BaseException as error:
            self._file.close()
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"Cannot write the rows of a landing to {tempfile.gettempdir()}: {error.strerror or error}. Make room "
                "there, about 600 bytes a job, or let TMPDIR name another folder."
            ) from error

    def _write(self, snapshot: PartitionSnapshot, partition_start_ms: int) -> None:
        names = set(self._schema.names) - {"partition_time"}
        of_ledger = [name for name in names if name in _KEYS]
        documents = [
            _Document.of(column, fields)
            for column, fields in (
                ("payload", names - VIDEO_RECORD - _KEYS.keys()),
                ("video_record", names & VIDEO_RECORD),
            )
            if fields
        ]
        asked = [*(_KEYS[name] for name in of_ledger), *(document.column for document in documents)]
        last = ""
        with pa.ipc.new_file(pa.PythonFile(self._file, "w"), self._schema) as sink:
            for rows in snapshot.batches(asked, SPOOL_ROWS):
                by_key = dict(zip(asked, zip(*rows, strict=True), strict=True))
                columns: dict[str, Sequence[Any]] = {name: by_key[_KEYS[name]] for name in of_ledger}
                for document in documents:
                    columns |= document.decode(by_key[document.column])
                last = _in_order(last, columns["_id"])
                columns["partition_time"] = [partition_start_ms] * len(rows)
                arrays = [_array(columns[field.name], field.type) for field in self._schema]
                sink.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def table(self, spec: TableSpec) -> SpooledTable:
        """Return the rows of one of the tables that the spool was made for. They can be read until it is closed."""
        return SpooledTable(spec, self._forgotten, lambda: self._projected(spec))

    def _projected(self, spec: TableSpec) -> Iterator[pa.RecordBatch]:
        wanted = [self._schema.get_field_index(name) for name in sorted(spec.sources)]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        with pa.ipc.open_file(pa.PythonFile(self._file, "r"), options=options) as source:
            for index in range(source.num_record_batches):
                yield project(spec, source.get_batch(index))

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class SpooledTable:
    """One table of a partition as the ledger knows it: batches of rows in the order of ids, read anew each time."""

    spec: TableSpec
    forgotten: Callable[[], Collection[str]]
    """Gives the ids whose rows must not land."""
    _read: Callable[[], Iterator[pa.RecordBatch]]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self._read()

    def whole(self) -> pa.Table:
        """Return all rows in memory."""
        return pa.Table.from_batches(self, schema=self.spec.schema)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the collector: so many rows would start it again and again, and no row is in a cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _in_order(last: str, ids: Sequence[str]) -> str:
    if not (last < ids[0] and all(map(lt, ids, ids[1:]))):
        raise UnorderedRowsError("the ledger")
    return ids[-1]


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if type_ == TIMESTAMP:
        return pa.array(values, pa.int64()).cast(type_)
    if type_ == pa.string() and values and isinstance(values[0], bytes):
        return pa.array(values, pa.binary()).cast(type_)
    return pa.array(values, type_)
