from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.api.models import ResultRow
from akool_dagster.ledger import Job, JobState
from akool_dagster.ledger.rows import json_text
from akool_dagster.tables import MOMENT, RESULT_TABLES, TABLES, build_table, build_tables
from akool_dagster.videos.landing import manifest_record
from akool_dagster.videos.probe import VideoFacts
from akool_dagster.videos.store import StoredVideo
from tests.scripted_api import job_id

DAY_START = 1_760_000_000_000 // 86_400_000 * 86_400_000
CREATED = DAY_START + 3_600_000

# The columns as the design lists them.
COLUMNS = {
    "results": (
        "_id partition_time status status_label create_time update_time video_duration deduction_credit uid team_id "
        "file_name effect_name effect_code image_url prompt negative_prompt resolution audio_type audio_url webhookUrl "
        "video_url only_add_audio model_name batch_id sub_type extra labels settled_at"
    ),
    "credits": (
        "_id partition_time create_time status status_label uid team_id model_name resolution effect_code "
        "only_add_audio video_duration deduction_credit credits_per_second labels"
    ),
    "durations": (
        "_id partition_time create_time update_time status_label video_duration turnaround_seconds queue_seconds "
        "processing_seconds detection_seconds"
    ),
    "statuses": (
        "_id partition_time state status status_label tracked_at queueing_seen_at processing_seen_at settled_at "
        "failure_reason labels"
    ),
    "videos": (
        "_id partition_time video_state path bytes sha256 container video_codec audio_codec width height fps frames "
        "probed_duration reported_duration source_url downloaded_at expires_at attempts error"
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
INTEGERS = ["status", "uid", "audio_type", "sub_type", "bytes", "width", "height", "frames", "attempts"]

EVERY_TABLE = pytest.mark.parametrize("name", list(TABLES))


def a_job(identifier: str, **values: Any) -> Job:
    """Return a pending job nobody has polled yet, but for what is given."""
    untouched: dict[str, Any] = dict.fromkeys(field.name for field in fields(Job))
    for name in ("polls", "misses", "urlless_polls", "video_attempts", "revision", "head", "video_revision"):
        untouched[name] = 0
    return Job(
        **{
            **untouched,
            "account": "akool",
            "job_id": identifier,
            "partition_at": CREATED,
            "tracked_at": CREATED + 1000,
            "watched_since": CREATED + 1000,
            "labels": "{}",
            "state": JobState.PENDING,
            "next_poll_at": CREATED + 1000,
            "poll_alone": False,
            "video_head": 0,
            **values,
        }
    )


def completed_job(identifier: str, raw: Mapping[str, object], **values: Any) -> Job:
    row = ResultRow.model_validate({"_id": identifier, "status": 3, **raw})
    settled = {"state": JobState.COMPLETED, "status": 3, "settled_at": CREATED + 90_000, "video_state": "pending"}
    return a_job(identifier, payload=row.to_payload(), **{**settled, **values})


def failed_job(identifier: str, reason: str | None = None) -> Job:
    row = ResultRow.model_validate({"_id": identifier, "status": 4})
    return a_job(
        identifier,
        payload=row.to_payload(),
        state=JobState.FAILED,
        status=4,
        settled_at=CREATED + 5,
        failure_reason=reason,
    )


def rows_of(name: str, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Return a table's rows with its times as epoch milliseconds."""
    table = build_table(TABLES[name], jobs, DAY_START)
    plain = pa.schema([pa.field(one.name, pa.int64() if one.type == MOMENT else one.type) for one in table.schema])
    found: list[dict[str, Any]] = table.cast(plain).to_pylist()
    return found


def only_row(name: str, job: Job) -> dict[str, Any]:
    (row,) = rows_of(name, [job])
    return row


# Schemas

PARTITIONS: Mapping[str, Sequence[Job]] = {
    "empty": [],
    "no failures": [completed_job(job_id(1), {"create_time": CREATED, "prompt": "a boat"})],
    "only nulls": [failed_job(job_id(2))],
    "nothing seen": [a_job(job_id(3))],
    "everything": [completed_job(job_id(1), {"uid": 1}), failed_job(job_id(2), "No."), a_job(job_id(3))],
}


def test_there_are_the_tables_of_the_design() -> None:
    assert list(TABLES) == list(COLUMNS)
    assert list(RESULT_TABLES) == ["results", "credits", "durations", "statuses"]


@EVERY_TABLE
@pytest.mark.parametrize("partition", list(PARTITIONS))
def test_a_table_has_the_same_schema_in_every_partition(name: str, partition: str) -> None:
    table = build_table(TABLES[name], PARTITIONS[partition], DAY_START)
    assert table.schema.equals(TABLES[name].schema, check_metadata=True)
    assert table.schema.names == COLUMNS[name].split()
    table.validate(full=True)


@EVERY_TABLE
def test_types_are_the_designs(name: str) -> None:
    types = {field.name: field.type for field in TABLES[name].schema}
    for column, type_ in types.items():
        if column in TIMES:
            assert type_ == pa.timestamp("ms", tz="UTC")
        elif column in INTEGERS:
            assert type_ == pa.int64()
        elif column == "only_add_audio":
            assert type_ == pa.bool_()
        elif column in UNITS:
            assert type_ == pa.float64()
        else:
            assert type_ == pa.string(), column


@EVERY_TABLE
def test_every_column_says_what_it_is_and_in_which_unit(name: str) -> None:
    assert TABLES[name].schema.metadata[b"description"]
    for field in TABLES[name].schema:
        assert field.metadata[b"description"].decode().endswith(".")
        assert field.metadata.get(b"unit", b"").decode() == UNITS.get(field.name, ""), field.name


@EVERY_TABLE
def test_the_totals_are_columns_that_can_be_summed(name: str) -> None:
    for column in TABLES[name].totals.values():
        assert TABLES[name].schema.field(column).type in (pa.int64(), pa.float64())


# Which rows


def test_results_credits_and_durations_have_the_jobs_that_ended() -> None:
    states = {state: a_job(job_id(n), state=state, payload="{}") for n, state in enumerate(JobState)}
    ended = [states[JobState.COMPLETED].job_id, states[JobState.FAILED].job_id]
    for name in ("results", "credits", "durations"):
        assert [row["_id"] for row in rows_of(name, list(states.values()))] == ended
    assert [row["state"] for row in rows_of("statuses", list(states.values()))] == list(JobState)
    assert [row["_id"] for row in rows_of("videos", list(states.values()))] == ended[:1]


@given(st.sets(st.integers(0, 99), max_size=20))
def test_rows_stay_in_the_order_of_the_jobs_which_is_that_of_the_ids(numbers: set[int]) -> None:
    ids = [job_id(n) for n in sorted(numbers)]
    jobs = [completed_job(identifier, {}) for identifier in ids]
    for table in build_tables(TABLES.values(), jobs, DAY_START).values():
        assert table.column("_id").to_pylist() == ids == sorted(set(ids))


@EVERY_TABLE
def test_every_row_has_the_start_of_its_partition(name: str) -> None:
    jobs = [completed_job(job_id(1), {}), completed_job(job_id(2), {})]
    assert [row["partition_time"] for row in rows_of(name, jobs)] == [DAY_START] * 2


def test_building_several_tables_at_once_is_building_each() -> None:
    jobs = PARTITIONS["everything"]
    together = build_tables(TABLES.values(), jobs, DAY_START)
    assert together == {name: build_table(spec, jobs, DAY_START) for name, spec in TABLES.items()}


# Values

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).filter(
    lambda value: "://" not in value  # a URL loses its query: the redaction's tests have that
)
address = st.text("abcdefghij/._-", max_size=20).map(lambda path: f"https://cdn.example/{path}")
int64 = st.integers(-(2**63), 2**63 - 1)
moment = st.integers(946_684_800_000, 4_000_000_000_000)
number = st.floats(allow_nan=False, allow_infinity=False)
json_value = st.recursive(
    st.none() | st.booleans() | int64 | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
api_fields: dict[str, st.SearchStrategy[object]] = {
    "create_time": moment,
    "update_time": moment,
    "video_duration": number,
    "deduction_credit": number,
    "uid": int64,
    "audio_type": int64,
    "sub_type": int64,
    "only_add_audio": st.booleans(),
    "image_url": st.just("") | address,
    "audio_url": st.just("") | address,
    "video_url": text,
    "webhookUrl": st.sampled_from(["", "https://hooks.example.org", "http://hooks.example.org:8080"]),
} | dict.fromkeys(
    [
        "team_id",
        "file_name",
        "effect_name",
        "effect_code",
        "prompt",
        "negative_prompt",
        "resolution",
        "model_name",
        "batch_id",
    ],
    text,
)
api_rows = st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in api_fields.items()})
extras = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=6).map(lambda name: f"x_{name}"), json_value)


@given(api_rows, extras)
def test_values_are_exactly_as_the_api_gave_them(raw: dict[str, object], extra: dict[str, object]) -> None:
    found = only_row("results", completed_job(job_id(1), raw | extra))
    for name in api_fields:
        assert found[name] == raw.get(name), name
    assert json.loads(found["extra"]) == extra


@given(api_rows)
def test_the_tables_agree_with_each_other(raw: dict[str, object]) -> None:
    job = completed_job(job_id(1), raw)
    result, credit, duration, status, video = (only_row(name, job) for name in TABLES)
    for other in (credit, duration, status):
        assert {name: result[name] for name in other if name in result} == {
            name: value for name, value in other.items() if name in result
        }
    assert (video["reported_duration"], video["source_url"]) == (result["video_duration"], result["video_url"])


def test_numeric_texts_are_numbers() -> None:
    raw = {"uid": "9007199254740993", "video_duration": "5.063", "deduction_credit": "20", "create_time": str(CREATED)}
    found = only_row("results", completed_job(job_id(1), raw))
    assert (found["uid"], found["video_duration"], found["deduction_credit"], found["create_time"]) == (
        9_007_199_254_740_993,
        5.063,
        20.0,
        CREATED,
    )


def test_what_does_not_fit_its_column_is_kept_in_extra() -> None:
    raw = {"uid": "not a number", "prompt": ["a", "b"], "cover_url": "https://cdn.example/c.png?token=secret"}
    found = only_row("results", completed_job(job_id(1), raw))
    assert (found["uid"], found["prompt"]) == (None, None)
    assert json.loads(found["extra"]) == {
        "uid": "not a number",
        "prompt": ["a", "b"],
        "cover_url": "https://cdn.example/c.png",
    }


def test_a_row_without_anything_extra_has_an_empty_object() -> None:
    assert only_row("results", completed_job(job_id(1), {}))["extra"] == "{}"


def test_labels_travel_into_the_tables() -> None:
    labels = json_text({"campaign": "Frühling ☀", "cost centre": "7"})
    job = completed_job(job_id(1), {}, labels=labels)
    for name in ("results", "credits", "statuses"):
        assert json.loads(only_row(name, job)["labels"]) == {"campaign": "Frühling ☀", "cost centre": "7"}


@pytest.mark.parametrize(
    ("status", "label"),
    [(None, "unseen"), (1, "queueing"), (2, "processing"), (3, "completed"), (4, "failed"), (77, "unknown")],
)
def test_a_status_is_said_in_words(status: int | None, label: str) -> None:
    found = only_row("statuses", a_job(job_id(1), status=status))
    assert (found["status"], found["status_label"]) == (status, label)


def test_a_failure_says_why_where_akool_said_so() -> None:
    reasons = [
        row["failure_reason"] for row in rows_of("statuses", [failed_job(job_id(1), "No."), failed_job(job_id(2))])
    ]
    assert reasons == ["No.", None]


@pytest.mark.parametrize(
    ("credit", "duration", "rate"),
    [(20, 5.0, 4.0), (0, 5.0, 0.0), (20, 0, None), (20, None, None), (None, 5.0, None), ("30", "7.5", 4.0)],
)
def test_credits_per_second_need_a_duration(credit: object, duration: object, rate: float | None) -> None:
    raw = {"deduction_credit": credit, "video_duration": duration}
    assert only_row("credits", completed_job(job_id(1), raw))["credits_per_second"] == rate


@pytest.mark.parametrize(
    ("update", "turnaround"), [(CREATED + 102_250, 102.25), (CREATED, 0.0), (CREATED - 303_606, None), (None, None)]
)
def test_a_turnaround_is_never_negative(update: int | None, turnaround: float | None) -> None:
    job = completed_job(job_id(1), {"create_time": CREATED, "update_time": update})
    assert only_row("durations", job)["turnaround_seconds"] == turnaround


def test_spans_come_from_what_polling_saw() -> None:
    seen = {"queueing_seen_at": CREATED + 2000, "processing_seen_at": CREATED + 32_500, "settled_at": CREATED + 92_500}
    found = only_row("durations", completed_job(job_id(1), {"update_time": CREATED + 90_000}, **seen))
    assert (found["queue_seconds"], found["processing_seconds"], found["detection_seconds"]) == (30.5, 60.0, 2.5)


def test_a_span_with_an_unseen_end_is_null() -> None:
    found = only_row("durations", completed_job(job_id(1), {"update_time": CREATED + 10_000_000}))
    assert (found["queue_seconds"], found["processing_seconds"], found["detection_seconds"]) == (None, None, None)


def test_a_stored_video_shows_what_was_recorded_of_it() -> None:
    facts = VideoFacts(
        container="mov,mp4",
        video_codec="h264",
        audio_codec=None,
        width=720,
        height=960,
        fps=24.0,
        frames=124,
        probed_duration=5.17,
    )
    stored = StoredVideo(
        job_id=job_id(1),
        path=f"akool/videos/2025-10-09/{job_id(1)}.mp4",
        bytes=2**40,
        sha256="ab" * 32,
        facts=facts,
        source_url="https://cdn.example/1.mp4",
        downloaded_at_ms=CREATED + 95_000,
    )
    job = completed_job(
        job_id(1),
        {"video_url": "https://cdn.example/1.mp4", "video_duration": 5.063},
        video_state="stored",
        video_attempts=2,
        video_expires_at=CREATED + 7,
        video_record=json_text(manifest_record(stored)),
    )

    assert only_row("videos", job) == {
        "_id": job_id(1),
        "partition_time": DAY_START,
        "video_state": "stored",
        "path": stored.path,
        "bytes": 2**40,
        "sha256": "ab" * 32,
        "container": "mov,mp4",
        "video_codec": "h264",
        "audio_codec": None,
        "width": 720,
        "height": 960,
        "fps": 24.0,
        "frames": 124,
        "probed_duration": 5.17,
        "reported_duration": 5.063,
        "source_url": "https://cdn.example/1.mp4",
        "downloaded_at": CREATED + 95_000,
        "expires_at": CREATED + 7,
        "attempts": 2,
        "error": None,
    }


# Beyond Arrow


def full_partition() -> list[Job]:
    large = {"uid": 2**53 + 1, "prompt": 'a "boat", ☀\nsecond line', "deduction_credit": 0.1, "only_add_audio": True}
    times = {"create_time": CREATED + 1, "update_time": CREATED + 2, "video_url": "https://cdn.example/1.mp4"}
    return [completed_job(job_id(1), large | times), failed_job(job_id(2), "No."), a_job(job_id(3), status=77)]


@EVERY_TABLE
@pytest.mark.parametrize("jobs", [[], full_partition()], ids=["empty", "full"])
def test_a_table_survives_pandas_and_parquet(name: str, jobs: list[Job], tmp_path: Path) -> None:
    table = build_table(TABLES[name], jobs, DAY_START)
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    back = pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False)
    pq.write_table(back, tmp_path / "t.parquet")
    read = pq.read_table(tmp_path / "t.parquet")
    assert read.equals(table)
    assert read.schema.field("partition_time").metadata == table.schema.field("partition_time").metadata


@given(int64)
def test_integers_beyond_two_to_the_53_stay_exact_in_pandas(value: int) -> None:
    table = build_table(TABLES["results"], [completed_job(job_id(1), {"uid": value}), failed_job(job_id(2))], DAY_START)
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    assert frame["uid"].dtype == pd.ArrowDtype(pa.int64())
    assert int(frame["uid"][0]) == value
    assert frame["uid"][1] is pd.NA


@EVERY_TABLE
def test_duckdb_reads_the_same_values(name: str, tmp_path: Path) -> None:
    jobs = full_partition()
    path = tmp_path / "t.parquet"
    pq.write_table(build_table(TABLES[name], jobs, DAY_START), path)
    columns = ", ".join(
        f'epoch_ms("{field.name}")' if field.type == MOMENT else f'"{field.name}"' for field in TABLES[name].schema
    )
    with duckdb.connect() as database:
        found = database.execute(f"SELECT {columns} FROM read_parquet(?) ORDER BY _id", [str(path)]).fetchall()  # noqa: S608
    assert found == [tuple(row.values()) for row in rows_of(name, jobs)]
