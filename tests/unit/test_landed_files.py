from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akool_dagster.landed_files import landed_file, table_files
from akool_dagster.landing import partition_window
from akool_dagster.storage import StorageError, StorageRoot

FILE = "akool/results/2025-10-09.parquet"
ODD_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
ODD = {
    "no ids": pa.table({"id": ["a"]}),
    "ids that are numbers": pa.table({"_id": [1]}),
    "ids that are lists": pa.table({"_id": [["a"]]}),
    "two columns of ids": pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["_id", "_id"]),
    "ids that are no UTF-8": pa.table({"_id": ODD_TEXT}),
    "a revision that is no number": pa.table({"_id": ["a"]}).replace_schema_metadata({"akool/revision": "-1"}),
    "a revision beyond all time": pa.table({"_id": ["a"]}).replace_schema_metadata({"akool/revision": str(2**63 - 2)}),
}


@pytest.mark.parametrize("table", ODD.values(), ids=ODD.keys())
def test_an_odd_file_is_named_in_one_sentence(tmp_path: Path, table: pa.Table) -> None:
    file = tmp_path / FILE
    file.parent.mkdir(parents=True)
    pq.write_table(table, file)
    with pytest.raises(StorageError, match=r"2025-10-09\.parquet"):
        landed_file(StorageRoot(str(tmp_path)), FILE)


def test_a_day_after_which_there_is_none_is_no_partition(tmp_path: Path) -> None:
    assert partition_window("9999-12-31") is None
    (tmp_path / "akool" / "results").mkdir(parents=True)
    (tmp_path / "akool" / "results" / "9999-12-31.parquet").touch()
    assert table_files(StorageRoot(str(tmp_path)), "akool") == []
