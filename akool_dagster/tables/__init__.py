"""The tables: their columns, how rows become Parquet, and how a landing merges."""

from akool_dagster.tables.columns import RESULT_TABLES, TABLES, VIDEOS
from akool_dagster.tables.spec import TableSpec

__all__ = ["RESULT_TABLES", "TABLES", "VIDEOS", "TableSpec"]
