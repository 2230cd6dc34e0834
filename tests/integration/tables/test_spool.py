from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.api.models import ResultRow
from akool_dagster.ledger import Job, JobLedger, JobState, schema
from akool_dagster.ledger.records import FINAL_STATES, status_label
from akool_dagster.tables import TABLES, spool
from akool_dagster.tables.merge import UnorderedRowsError
from akool_dagster.tables.spec import TIMESTAMP
from akool_dagster.tables.spool import Spool
from tests.integration.tables.helpers import ACCOUNT, CREATED, DAY_START, a_job, create_ledger, fill, job_id
from tests.thoroughness import thorough

Row = dict[str, Any]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobLedger]:
    with create_ledger(tmp_path_factory.mktemp("ledger")) as ledger:
        yield ledger


def tables_of(ledger: JobLedger, jobs: Sequence[Job], names: Sequence[str] = tuple(TABLES)) -> dict[str, pa.Table]:
    """Return what a landing makes of a ledger with exactly these jobs."""
    fill(Path(ledger.shown_url.removeprefix("sqlite:///")), jobs)
    specs = [TABLES[name] for name in names]
    with ledger.account(ACCOUNT).landings.snapshot(DAY_START, DAY_START + 86_400_000) as snapshot:
        made = Spool(snapshot, DAY_START, specs, frozenset)
    with made:
        return {spec.name: made.table(spec).whole() for spec in specs}


def plain(table: pa.Table) -> list[Row]:
    """Return a table's rows with its times as epoch milliseconds."""
    types = [pa.field(one.name, pa.int64() if one.type == TIMESTAMP else one.type) for one in table.schema]
    rows: list[Row] = table.cast(pa.schema(types)).to_pylist()
    return rows


# An oracle: what a row should be, job by job, in plain Python


def span(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None or end < start else (end - start) / 1000


def expected(name: str, job: Job) -> Row | None:
    """Return the row of a job in a table; None when it has none."""
    if job.state not in {"statuses": list(JobState), "videos": [JobState.COMPLETED]}.get(name, FINAL_STATES):
        return None
    payload = json.loads(job.payload or "{}")
    video = json.loads(job.video_record or "{}")
    of_ledger = {column: getattr(job, column) for column in Job.__dataclass_fields__ if column != "payload"}
    credit, duration = payload.get("deduction_credit"), payload.get("video_duration")
    made = {
        "_id": job.job_id,
        "partition_time": DAY_START,
        "status_label": status_label(job.status),
        "extra": payload.get("extra", {}),
        "credits_per_second": credit / duration if credit is not None and duration else None,
        "turnaround_seconds": span(payload.get("create_time"), payload.get("update_time")),
        "queue_seconds": span(job.queueing_seen_at, job.processing_seen_at),
        "processing_seconds": span(job.processing_seen_at, job.settled_at),
        "detection_seconds": span(payload.get("update_time"), job.settled_at),
        "reported_duration": duration,
        "source_url": payload.get("video_url"),
        "expires_at": job.video_expires_at,
        "attempts": job.video_attempts,
        "error": job.video_error,
    }
    known = payload | video | of_ledger | made
    return {column: known.get(column) for column in TABLES[name].schema.names}


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).filter(
    lambda value: "://" not in value  # a URL loses its query: the redaction's tests have that
)
int64 = st.integers(-(2**63), 2**63 - 1)
time = st.integers(CREATED, CREATED + 10_000_000)
number = st.floats(-1e12, 1e12) | st.just(0.0)
api_fields: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["create_time", "update_time"], time),
    **dict.fromkeys(["video_duration", "deduction_credit"], number),
    **dict.fromkeys(["uid", "audio_type", "sub_type"], int64),
    **dict.fromkeys(["prompt", "team_id", "file_name", "model_name", "video_url"], text),
    "only_add_audio": st.booleans(),
    "x_new": st.recursive(
        st.none() | st.booleans() | int64 | text, lambda inner: st.lists(inner, max_size=3), max_leaves=5
    ),
}
video_record = st.fixed_dictionaries(
    {"path": text, "bytes": int64, "fps": number, "downloaded_at": time}, optional={"audio_codec": st.none() | text}
)


@st.composite
def jobs(draw: st.DrawFn, identifier: str) -> Job:
    raw = draw(st.fixed_dictionaries({}, optional={name: st.none() | value for name, value in api_fields.items()}))
    state = draw(st.sampled_from([state for state in JobState if state != JobState.FORGOTTEN]))
    ended, completed = state in FINAL_STATES, state == JobState.COMPLETED
    payload = ResultRow.model_validate({"_id": identifier, "status": 3, **raw}).to_payload()
    return a_job(
        identifier,
        state=state,
        status=draw(st.none() | st.integers(0, 5)),
        payload=payload if ended else draw(st.none() | st.just(payload)),
        labels=draw(st.sampled_from(["{}", '{"campaign":"Frühling ☀"}'])),
        queueing_seen_at=draw(st.none() | time),
        processing_seen_at=draw(st.none() | time),
        settled_at=draw(time) if ended else None,
        failure_reason=draw(st.none() | text),
        version=draw(st.integers(1, 2**60)),
        video_state=draw(st.sampled_from(["pending", "stored"])) if completed else None,
        video_attempts=draw(st.integers(0, 9)),
        video_expires_at=draw(st.none() | time),
        video_error=draw(st.none() | text),
        video_record=json.dumps(draw(video_record)) if completed and draw(st.booleans()) else None,
    )


@settings(max_examples=thorough(25, 1000))
@given(st.data())
def test_every_table_is_what_plain_python_makes_of_the_jobs(ledger: JobLedger, data: st.DataObject) -> None:
    known = [data.draw(jobs(job_id(number))) for number in range(data.draw(st.integers(0, 6)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "SPOOL_ROWS", data.draw(st.integers(1, 4)))
        found = tables_of(ledger, known)
    alone = data.draw(st.sampled_from(list(TABLES)))
    assert found[alone] == tables_of(ledger, known, [alone])[alone]  # made from fewer fields
    for name, table in found.items():
        assert table.schema.equals(TABLES[name].schema, check_metadata=True)
        rows = plain(table)
        for row in rows:
            if "extra" in row:
                row["extra"] = json.loads(row["extra"])
        assert rows == [row for row in (expected(name, job) for job in known) if row is not None]


def test_what_is_pruned_or_forgotten_is_left_to_the_file(ledger: JobLedger) -> None:
    ended = {"settled_at": CREATED, "status": 4, "state": JobState.FAILED}
    known = [
        a_job(job_id(1), **ended),
        a_job(job_id(2), state=JobState.FORGOTTEN),
        a_job(job_id(3), **ended, payload="{}"),
    ]
    assert [
        table.column("_id").to_pylist() for table in tables_of(ledger, known, ["results", "statuses"]).values()
    ] == [[job_id(3)]] * 2


@pytest.mark.parametrize("odd", ['{"uid": "many"}', "[]", "{"])
def test_a_payload_that_cannot_be_decoded_stops_no_other_and_is_kept_as_text(ledger: JobLedger, odd: str) -> None:
    ended = {"settled_at": CREATED, "status": 4, "state": JobState.FAILED}
    known = [a_job(job_id(1), **ended, payload=odd), a_job(job_id(2), **ended, payload='{"uid":7}')]
    bad, good = plain(tables_of(ledger, known, ["results"])["results"])
    assert (bad["uid"], json.loads(bad["extra"])) == (None, {"unreadable": odd})
    assert (good["uid"], good["extra"]) == (7, "{}")


def test_rows_that_a_ledger_gives_in_another_order_are_refused(ledger: JobLedger) -> None:
    fill(Path(ledger.shown_url.removeprefix("sqlite:///")), [a_job(job_id(number)) for number in range(3)])
    with ledger.account(ACCOUNT).landings.snapshot(DAY_START, DAY_START + 86_400_000) as snapshot:
        # What a database with another collation does.
        backwards = sa.select(schema.jobs.c.job_id).order_by(schema.jobs.c.job_id.desc())
        with pytest.raises(UnorderedRowsError, match="the ledger"):
            Spool(replace(snapshot, _query=backwards), DAY_START, [TABLES["statuses"]], frozenset)


FULL = [
    a_job(
        job_id(1),
        state=JobState.COMPLETED,
        status=3,
        settled_at=CREATED,
        video_state="pending",
        payload=json.dumps({"uid": 2**53 + 1, "prompt": 'a "boat", ☀\nsecond line', "create_time": CREATED}),
    ),
    a_job(job_id(2), status=77),
]


@pytest.mark.parametrize("known", [[], FULL], ids=["empty", "full"])
def test_pandas_and_duckdb_read_the_same_values(ledger: JobLedger, known: list[Job], tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    for table in tables_of(ledger, known).values():
        frame = table.to_pandas(types_mapper=pd.ArrowDtype)
        pq.write_table(pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False), file)
        assert pq.read_table(file).equals(table)
        columns = [f'epoch_ms("{one.name}")' if one.type == TIMESTAMP else f'"{one.name}"' for one in table.schema]
        with duckdb.connect() as database:
            query = f"SELECT {', '.join(columns)} FROM read_parquet(?) ORDER BY _id"  # noqa: S608
            read = database.execute(query, [str(file)]).fetchall()
        assert read == [tuple(row.values()) for row in plain(table)]
