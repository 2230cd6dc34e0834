"""`ParquetIOManager` with assets of any kind: one file a partition, frames and Arrow tables."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akool_dagster import TABLES, ParquetIOManager
from akool_dagster.io_manager import TABLE_METADATA
from tests.deployment import failure_of

DAYS = dg.DailyPartitionsDefinition("2026-03-01", end_date="2026-03-05")


def run(
    instance: dg.DagsterInstance, root: Path, assets: list[Any], select: str, partition: str | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        assets,
        selection=[select],
        resources={"io_manager": ParquetIOManager(storage_root=str(root))},
        partition_key=partition,
        instance=instance,
        raise_on_error=False,
    )


@dg.asset(partitions_def=DAYS)
def sales(context: dg.AssetExecutionContext) -> pd.DataFrame:
    day = int(context.partition_key[-2:])
    return pd.DataFrame({"day": [day], "amount": [2**53 + day]})


def test_a_partition_is_one_file_and_running_twice_changes_nothing(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    root = tmp_path / "storage"
    for _ in range(2):
        result = run(instance, root, [sales], "sales", "2026-03-02")
        assert result.success
    assert [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()] == [
        "sales/2026-03-02.parquet"
    ]
    (event,) = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    assert metadata["dagster/uri"] == str(root / "sales/2026-03-02.parquet")
    assert metadata["dagster/partition_row_count"] == 1
    assert metadata["akool/file_bytes"] == (root / "sales/2026-03-02.parquet").stat().st_size


def test_an_unpartitioned_asset_reads_every_partition_that_has_landed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    seen: list[pd.DataFrame] = []

    @dg.asset
    def total(sales: pd.DataFrame) -> pd.DataFrame:
        seen.append(sales)
        return pd.DataFrame({"amount": [sales["amount"].sum()]})

    root = tmp_path / "storage"
    for day in ("2026-03-01", "2026-03-03"):
        assert run(instance, root, [sales], "sales", day).success
    assert run(instance, root, [sales, total], "total").success
    assert seen[0]["amount"].tolist() == [2**53 + 1, 2**53 + 3]
    assert isinstance(seen[0]["amount"].dtype, pd.ArrowDtype)
    assert pq.read_table(root / "total.parquet").num_rows == 1


@dg.asset(partitions_def=DAYS)
def copied(sales: pa.Table) -> pa.Table:
    return sales


def test_an_input_annotated_as_arrow_table_is_one_and_a_table_is_stored_as_it_is(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for name in ("sales", "copied"):
        assert run(instance, tmp_path, [sales, copied], name, "2026-03-01").success
    assert pq.read_table(tmp_path / "copied/2026-03-01.parquet").column("amount").to_pylist() == [2**53 + 1]


def test_a_partition_that_has_not_landed_or_is_no_parquet_is_an_error_with_the_way_out(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales/2026-03-01.parquet").write_text("<html>")
    for day, words in {"2026-03-01": "move it away", "2026-03-04": "Materialize it first"}.items():
        failures = failure_of(run(instance, tmp_path, [sales, copied], "copied", day))
        assert f"{day}.parquet" in failures and words in failures


def test_the_partitions_of_a_table_of_ours_are_an_empty_table_with_its_schema_when_none_has_landed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    seen: list[pd.DataFrame] = []

    @dg.asset(partitions_def=DAYS, metadata={TABLE_METADATA: "credits"})
    def credits_table() -> None: ...

    @dg.asset
    def total(credits_table: pd.DataFrame) -> None:
        seen.append(credits_table)

    assert run(instance, tmp_path / "storage", [credits_table, total], "total").success
    assert list(seen[0].columns) == TABLES["credits"].schema.names


def test_an_hourly_partition_has_a_file_name_without_a_colon(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset(partitions_def=dg.HourlyPartitionsDefinition("2026-03-01-00:00", end_date="2026-03-02-00:00"))
    def hourly() -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    assert run(instance, tmp_path / "storage", [hourly], "hourly", "2026-03-01-05:00").success
    assert (tmp_path / "storage" / "hourly" / "2026-03-01-0500.parquet").exists()


def test_a_failed_write_leaves_the_old_file_and_no_other(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset(partitions_def=DAYS, name="sales")
    def unwritable() -> pa.Table:
        return pa.table({"a": pa.array([None], type=pa.null())}).append_column(
            "b", pa.array([{}], type=pa.struct([]))
        )  # Parquet has no empty struct

    root = tmp_path / "storage"
    assert run(instance, root, [sales], "sales", "2026-03-01").success
    before = (root / "sales/2026-03-01.parquet").read_bytes()
    assert not run(instance, root, [unwritable], "sales", "2026-03-01").success
    assert [path.name for path in (root / "sales").iterdir()] == ["2026-03-01.parquet"]
    assert (root / "sales/2026-03-01.parquet").read_bytes() == before


def store(root: Path, frame: pd.DataFrame) -> None:
    context: Any = SimpleNamespace(asset_key=dg.AssetKey("mine"), has_asset_partitions=False, add_output_metadata=dict)
    ParquetIOManager(storage_root=str(root)).handle_output(context, frame)


CREDITS = pd.DataFrame({"model": ["a", "a", "b"], "size": ["x", "y", "x"], "credits": [20.0, 30.0, 5.0]})


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (CREDITS.groupby("model")[["credits"]].sum(), {"model": ["a", "b"], "credits": [50.0, 5.0]}),
        (CREDITS.set_index(["model", "size"])[:1], {"model": ["a"], "size": ["x"], "credits": [20.0]}),
        (pd.DataFrame({"n": [1]}, index=["total"]), {"index": ["total"], "n": [1]}),
        (pd.DataFrame({"n": [1]}, index=pd.RangeIndex(7, 8, name="row")), {"row": [7], "n": [1]}),
        (pd.DataFrame({"n": [1, 2]}), {"n": [1, 2]}),
        (CREDITS[CREDITS["credits"] != 30.0][["credits"]], {"credits": [20.0, 5.0]}),  # rows 0 and 2
    ],
)
def test_an_index_is_stored_as_columns_unless_it_only_counts_rows(
    tmp_path: Path, frame: pd.DataFrame, expected: dict[str, Any]
) -> None:
    columns = list(frame.columns)
    store(tmp_path, frame)
    assert pq.read_table(tmp_path / "mine.parquet").to_pydict() == expected
    assert list(frame.columns) == columns  # what the asset returned is not changed


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (CREDITS.set_index("model", drop=False), "already exists"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "Duplicate column names"),
        (pd.DataFrame({"mixed": [1, "a"]}), "column mixed"),
        (pd.DataFrame({"complex": [1j]}), "column complex"),
    ],
)
def test_a_frame_that_is_no_table_is_refused_in_a_sentence(tmp_path: Path, frame: pd.DataFrame, why: str) -> None:
    with pytest.raises(dg.Failure) as caught:
        store(tmp_path, frame)
    assert str(caught.value.description).startswith("This DataFrame cannot be stored as a table: ")
    assert why in str(caught.value.description)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("days", "together"),
    [
        ({"2026-03-01": [1, 2], "2026-03-02": [1.5]}, [1.0, 2.0, 1.5]),
        ({"2026-03-01": [None], "2026-03-02": ["x"]}, [None, "x"]),
        ({"2026-03-01": [1], "2026-03-02": ["x"]}, None),
    ],
)
def test_partitions_with_different_types_are_read_as_one_table_or_refused_in_a_sentence(
    instance: dg.DagsterInstance, tmp_path: Path, days: dict[str, list[Any]], together: list[Any] | None
) -> None:
    seen: list[pa.Table] = []

    @dg.asset
    def all_days(sales: pa.Table) -> None:
        seen.append(sales)

    (tmp_path / "sales").mkdir()
    for day, values in days.items():
        pq.write_table(pa.table({"n": values}), tmp_path / f"sales/{day}.parquet")
    result = run(instance, tmp_path, [sales, all_days], "all_days")
    if together is not None:
        assert result.success
        assert seen[0].column("n").to_pylist() == together
    else:
        assert "The partitions of sales do not go into one table: " in failure_of(result)
