"""A small Dagster project built on akool_dagster: copy what you need."""
