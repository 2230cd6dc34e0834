"""An asset of our own: what was spent each day, for each resolution."""

import dagster as dg
import pandas as pd


@dg.asset(
    ins={"spent": dg.AssetIn(key=["akool", "credits"])},
    io_manager_key="akool_tables",
    group_name="usage",
    kinds={"pandas", "parquet"},
)
def credits_by_day(context: dg.AssetExecutionContext, spent: pd.DataFrame) -> pd.DataFrame:
    """Credits, seconds of video and jobs for each day and resolution, over every day that has landed."""
    by_day = (
        spent.assign(day=spent["partition_time"].dt.strftime("%Y-%m-%d"))
        .groupby(["day", "resolution"], as_index=False, dropna=False)
        .agg(
            jobs=("_id", "count"),
            credits=("deduction_credit", "sum"),
            video_seconds=("video_duration", "sum"),
        )
        .sort_values(["day", "resolution"], ignore_index=True)
    )
    context.add_output_metadata({"preview": dg.MetadataValue.md(by_day.tail(20).to_markdown(index=False))})
    return by_day
