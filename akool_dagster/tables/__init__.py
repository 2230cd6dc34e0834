"""The tables: their columns, how rows become Parquet, and how a landing merges."""
