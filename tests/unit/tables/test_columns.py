from __future__ import annotations

import pyarrow as pa
import pytest

from akool_dagster.ledger import JobState
from akool_dagster.tables import RESULT_TABLES, TABLES
from akool_dagster.tables.columns import FIELD_TYPES

# The columns as the documentation lists them.
COLUMNS = {
    "results": (
        "_id partition_time status status_label create_time update_time video_duration deduction_credit uid team_id "
        "file_name effect_name effect_code image_url prompt negative_prompt resolution audio_type audio_url webhookUrl "
        "video_url only_add_audio model_name batch_id sub_type extra labels settled_at version"
    ),
    "credits": (
        "_id partition_time create_time status status_label uid team_id model_name resolution effect_code "
        "only_add_audio video_duration deduction_credit credits_per_second labels version"
    ),
    "durations": (
        "_id partition_time create_time update_time status_label video_duration turnaround_seconds queue_seconds "
        "processing_seconds detection_seconds version"
    ),
    "statuses": (
        "_id partition_time state status status_label tracked_at queueing_seen_at processing_seen_at settled_at "
        "failure_reason labels version"
    ),
    "videos": (
        "_id partition_time video_state path bytes sha256 container video_codec audio_codec width height fps frames "
        "probed_duration reported_duration source_url downloaded_at expires_at attempts error version"
    ),
}
TIMES = [
    "partition_time",
    "create_time",
    "update_time",
    "settled_at",
    "tracked_at",
    "queueing_seen_at",
    "processing_seen_at",
    "downloaded_at",
    "expires_at",
]
SECONDS = [
    "video_duration",
    "turnaround_seconds",
    "queue_seconds",
    "processing_seconds",
    "detection_seconds",
    "probed_duration",
    "reported_duration",
]
UNITS = (
    dict.fromkeys(TIMES, "UTC")
    | dict.fromkeys(SECONDS, "seconds")
    | {"deduction_credit": "credits", "credits_per_second": "credits/second"}
    | {"bytes": "bytes", "width": "pixels", "height": "pixels", "fps": "frames/second", "frames": "frames"}
)
INTEGERS = ["status", "uid", "audio_type", "sub_type", "bytes", "width", "height", "frames", "attempts", "version"]

EVERY_TABLE = pytest.mark.parametrize("name", list(TABLES))


def test_there_are_the_tables_and_columns_that_the_documentation_lists() -> None:
    assert {name: " ".join(spec.schema.names) for name, spec in TABLES.items()} == COLUMNS
    assert list(RESULT_TABLES) == ["results", "credits", "durations", "statuses"]


@EVERY_TABLE
def test_every_column_has_its_type_and_says_what_it_is_and_in_which_unit(name: str) -> None:
    assert TABLES[name].schema.metadata[b"description"]
    for field in TABLES[name].schema:
        if field.name in TIMES:
            assert field.type == pa.timestamp("ms", tz="UTC")
        elif field.name in INTEGERS:
            assert field.type == pa.int64()
        elif field.name == "only_add_audio":
            assert field.type == pa.bool_()
        else:
            assert field.type == (pa.float64() if field.name in UNITS else pa.string()), field.name
        assert field.metadata[b"description"].decode().endswith(".")
        assert field.metadata.get(b"unit", b"").decode() == UNITS.get(field.name, ""), field.name


@EVERY_TABLE
def test_what_a_table_says_of_its_columns_is_about_columns_that_it_has(name: str) -> None:
    spec = TABLES[name]
    assert all(spec.schema.field(column).type in (pa.int64(), pa.float64()) for column in spec.totals.values())
    assert spec.counted[0] in spec.schema.names
    assert spec.progress[0] in spec.schema.names
    assert spec.sources <= FIELD_TYPES.keys()


def test_no_row_has_the_state_forgotten() -> None:
    assert JobState.FORGOTTEN not in TABLES["statuses"].counted[1]
