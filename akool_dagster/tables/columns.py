"""The tables: which columns each has, and how ledger rows become them. The one place for columns and their meaning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from akool_dagster.api.models import load_payload
from akool_dagster.ledger.errors import PayloadsPrunedError
from akool_dagster.ledger.records import FINAL_STATES, STATUS_LABELS, Job, JobState
from akool_dagster.ownership import ledger_command

MOMENT = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True, slots=True)
class Row:
    """A job, the payload of its last answer, and what is known of its stored file."""

    job: Job
    payload: Mapping[str, Any]
    video: Mapping[str, Any]


Reader = Callable[[Row], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its Arrow type, its unit where it has one, what it means, and how a job's value is read."""

    name: str
    type: pa.DataType
    description: str
    unit: str | None = None
    read: Reader | None = None
    """None for ``partition_time``, which is the same for all rows."""

    @property
    def field(self) -> pa.Field:
        """Return the Arrow field, with description and unit in its metadata."""
        metadata = {"description": self.description} | ({"unit": self.unit} if self.unit else {})
        return pa.field(self.name, self.type, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table: one row a job, sorted and unique by ``_id``."""

    name: str
    description: str
    columns: tuple[Column, ...]
    includes: Callable[[Job], bool]
    totals: Mapping[str, str] = field(default_factory=dict)
    """Numbers for a materialisation's metadata: their name to the column that is summed."""

    @property
    def schema(self) -> pa.Schema:
        """Return the Arrow schema: the same in every partition, whatever the rows hold."""
        return pa.schema([column.field for column in self.columns], metadata={"description": self.description})


def build_table(spec: TableSpec, jobs: Sequence[Job], partition_start_ms: int) -> pa.Table:
    """Return one partition of one table, its rows in the order of the jobs, which must be sorted by id."""
    return build_tables([spec], jobs, partition_start_ms)[spec.name]


def build_tables(specs: Iterable[TableSpec], jobs: Sequence[Job], partition_start_ms: int) -> dict[str, pa.Table]:
    """Return one partition of several tables, by name; each job's payload is read once for all of them."""
    specs = list(specs)
    with_videos = VIDEOS in specs
    rows = [Row(job, _loaded(job.payload), _loaded(job.video_record) if with_videos else _NOTHING) for job in jobs]
    return {spec.name: _build(spec, rows, partition_start_ms) for spec in specs}


def refuse_pruned(jobs: Iterable[Job], account: str, partition_key: str) -> None:
    """Raise `PayloadsPrunedError` when what the tables are made from is not in the ledger any more.

    An ended job always has a payload until it is pruned: without it the row would be landed empty.
    """
    pruned = sum(1 for job in jobs if _is_final(job) and job.payload is None)
    if pruned:
        restore = ledger_command(f"restore --partition {partition_key}", account)
        raise PayloadsPrunedError(
            f"The ledger's payloads of {pruned} jobs of {partition_key} were pruned, so its tables cannot be made "
            f"anew. Run {restore}, which fills them in from the tables that landed, and then this again. "
            "Nothing was written."
        )


_NOTHING: Mapping[str, Any] = {}


def _loaded(text: str | None) -> Mapping[str, Any]:
    return _NOTHING if text is None else load_payload(text)


def _build(spec: TableSpec, rows: Sequence[Row], partition_start_ms: int) -> pa.Table:
    included = [row for row in rows if spec.includes(row.job)]
    arrays = []
    for column in spec.columns:
        if column.read is None:
            arrays.append(pa.repeat(pa.scalar(partition_start_ms, MOMENT), len(included)))
        else:
            arrays.append(pa.array(map(column.read, included), column.type, size=len(included)))
    return pa.Table.from_arrays(arrays, schema=spec.schema)


# Readers


def _sent(name: str) -> Reader:
    """Read a field of Akool's answer as it was sent."""
    return lambda row: row.payload.get(name)


def _kept(name: str) -> Reader:
    """Read a field of the ledger's row."""
    return lambda row: getattr(row.job, name)


def _status_label(row: Row) -> str:
    return STATUS_LABELS.get(row.job.status, "unknown")


def _extra(row: Row) -> str:
    extra = row.payload.get("extra")
    return json.dumps(extra, ensure_ascii=False, separators=(",", ":")) if extra else "{}"


def _credits_per_second(row: Row) -> float | None:
    credit, duration = row.payload.get("deduction_credit"), row.payload.get("video_duration")
    return credit / duration if credit is not None and duration else None


def _seconds(start_ms: int | None, end_ms: int | None) -> float | None:
    if start_ms is None or end_ms is None or end_ms < start_ms:
        return None
    return (end_ms - start_ms) / 1000


def _turnaround(row: Row) -> float | None:
    return _seconds(row.payload.get("create_time"), row.payload.get("update_time"))


def _queued(row: Row) -> float | None:
    return _seconds(row.job.queueing_seen_at, row.job.processing_seen_at)


def _processed(row: Row) -> float | None:
    return _seconds(row.job.processing_seen_at, row.job.settled_at)


def _detection(row: Row) -> float | None:
    return _seconds(row.payload.get("update_time"), row.job.settled_at)


def _video(name: str) -> Reader:
    """Read what is known of the stored file."""
    return lambda row: row.video.get(name)


# Columns that several tables share

_ID = Column(name="_id", type=pa.string(), description="The job's id at Akool.", read=_kept("job_id"))
_PARTITION_TIME = Column(
    name="partition_time", type=MOMENT, unit="UTC", description="Start of the partition the job belongs to."
)
_STATUS = Column(
    name="status",
    type=pa.int64(),
    description="Akool's status: 1 queueing, 2 processing, 3 completed, 4 failed; any other as sent.",
    read=_kept("status"),
)
_STATUS_LABEL = Column(
    name="status_label",
    type=pa.string(),
    description="The status in words; 'unseen' before the first answer, 'unknown' for an undocumented number.",
    read=_status_label,
)
_LABELS = Column(
    name="labels",
    type=pa.string(),
    description="JSON text of the string map the job was tracked with.",
    read=_kept("labels"),
)
_SETTLED_AT = Column(
    name="settled_at",
    type=MOMENT,
    unit="UTC",
    description="When polling saw the job end; null while it has not.",
    read=_kept("settled_at"),
)


def _api(name: str, type_: pa.DataType, description: str, unit: str | None = None) -> Column:
    return Column(name=name, type=type_, unit=unit, description=description, read=_sent(name))


_CREATE_TIME = _api("create_time", MOMENT, "When Akool created the job.", "UTC")
_UPDATE_TIME = _api(
    "update_time",
    MOMENT,
    "When Akool last updated the job: its completion, once it ended. Audio jobs may inherit an older time.",
    "UTC",
)
_VIDEO_DURATION = _api("video_duration", pa.float64(), "Length of the video, as Akool reports it.", "seconds")
_DEDUCTION_CREDIT = _api(
    "deduction_credit", pa.float64(), "Credits deducted, as Akool reported them when the job settled.", "credits"
)
_UID = _api("uid", pa.int64(), "Akool's user id.")
_TEAM_ID = _api("team_id", pa.string(), "Akool's team id.")
_RESOLUTION = _api("resolution", pa.string(), "Resolution asked for, such as 720p, 1080p or 4k.")
_EFFECT_CODE = _api("effect_code", pa.string(), "Code of the effect used.")
_MODEL_NAME = _api("model_name", pa.string(), "Model used, when Akool says so.")
_ONLY_ADD_AUDIO = _api("only_add_audio", pa.bool_(), "Whether the job only added audio to a finished video.")


def _is_final(job: Job) -> bool:
    return job.state in FINAL_STATES


RESULTS = TableSpec(
    name="results",
    description="The full results: one row a job that Akool completed or failed.",
    includes=_is_final,
    columns=(
        _ID,
        _PARTITION_TIME,
        _STATUS,
        _STATUS_LABEL,
        _CREATE_TIME,
        _UPDATE_TIME,
        _VIDEO_DURATION,
        _DEDUCTION_CREDIT,
        _UID,
        _TEAM_ID,
        _api("file_name", pa.string(), "Akool's name for the file; neither unique nor a path."),
        _api("effect_name", pa.string(), "Name of the effect used."),
        _EFFECT_CODE,
        _api("image_url", pa.string(), "The input image, without query."),
        _api("prompt", pa.string(), "The prompt."),
        _api("negative_prompt", pa.string(), "The negative prompt."),
        _RESOLUTION,
        _api("audio_type", pa.int64(), "1 AI-generated, 2 custom, 3 none."),
        _api("audio_url", pa.string(), "The input audio, without query."),
        _api("webhookUrl", pa.string(), "Scheme and host of the callback URL."),
        _api("video_url", pa.string(), "Where Akool serves the video, for 7 days."),
        _ONLY_ADD_AUDIO,
        _MODEL_NAME,
        _api("batch_id", pa.string(), "The batch the job was made in."),
        _api("sub_type", pa.int64(), "Akool's model type; 1501 is image to video."),
        Column(
            name="extra",
            type=pa.string(),
            description="JSON text of every field Akool sent that has no column here, or does not fit it.",
            read=_extra,
        ),
        _LABELS,
        _SETTLED_AT,
    ),
    totals={"akool/credits": "deduction_credit", "akool/video_seconds": "video_duration"},
)

CREDITS = TableSpec(
    name="credits",
    description="What each job cost: one row a job that Akool completed or failed.",
    includes=_is_final,
    columns=(
        _ID,
        _PARTITION_TIME,
        _CREATE_TIME,
        _STATUS,
        _STATUS_LABEL,
        _UID,
        _TEAM_ID,
        _MODEL_NAME,
        _RESOLUTION,
        _EFFECT_CODE,
        _ONLY_ADD_AUDIO,
        _VIDEO_DURATION,
        _DEDUCTION_CREDIT,
        Column(
            name="credits_per_second",
            type=pa.float64(),
            unit="credits/second",
            description="deduction_credit / video_duration; null without a duration.",
            read=_credits_per_second,
        ),
        _LABELS,
    ),
    totals={"akool/credits": "deduction_credit"},
)

DURATIONS = TableSpec(
    name="durations",
    description="How long each job took: one row a job that Akool completed or failed.",
    includes=_is_final,
    columns=(
        _ID,
        _PARTITION_TIME,
        _CREATE_TIME,
        _UPDATE_TIME,
        _STATUS_LABEL,
        _VIDEO_DURATION,
        Column(
            name="turnaround_seconds",
            type=pa.float64(),
            unit="seconds",
            description="update_time - create_time; null where that is negative, as for audio jobs.",
            read=_turnaround,
        ),
        Column(
            name="queue_seconds",
            type=pa.float64(),
            unit="seconds",
            description="From the first poll that saw the job queueing to the first that saw it processing.",
            read=_queued,
        ),
        Column(
            name="processing_seconds",
            type=pa.float64(),
            unit="seconds",
            description="From the first poll that saw the job processing to the one that saw its end.",
            read=_processed,
        ),
        Column(
            name="detection_seconds",
            type=pa.float64(),
            unit="seconds",
            description="settled_at - update_time: how long the end went unnoticed; null where negative.",
            read=_detection,
        ),
    ),
    totals={"akool/video_seconds": "video_duration"},
)

STATUSES = TableSpec(
    name="statuses",
    description="Where every tracked job stood at the landing: pending, missing and abandoned ones too.",
    includes=lambda job: True,
    columns=(
        _ID,
        _PARTITION_TIME,
        Column(
            name="state",
            type=pa.string(),
            description="pending, completed, failed, missing (Akool stopped returning it) or abandoned.",
            read=_kept("state"),
        ),
        _STATUS,
        _STATUS_LABEL,
        Column(
            name="tracked_at", type=MOMENT, unit="UTC", description="When the id was tracked.", read=_kept("tracked_at")
        ),
        Column(
            name="queueing_seen_at",
            type=MOMENT,
            unit="UTC",
            description="The first poll that saw the job queueing.",
            read=_kept("queueing_seen_at"),
        ),
        Column(
            name="processing_seen_at",
            type=MOMENT,
            unit="UTC",
            description="The first poll that saw the job processing.",
            read=_kept("processing_seen_at"),
        ),
        _SETTLED_AT,
        Column(
            name="failure_reason",
            type=pa.string(),
            description="Why a job failed, where Akool said so.",
            read=_kept("failure_reason"),
        ),
        _LABELS,
    ),
)

_VIDEO_FACTS: tuple[tuple[str, pa.DataType, str | None, str], ...] = (
    ("path", pa.string(), None, "The file, relative to the storage root."),
    ("bytes", pa.int64(), "bytes", "Size of the file."),
    ("sha256", pa.string(), None, "SHA-256 of the file, in hex."),
    ("container", pa.string(), None, "Container format, as probed."),
    ("video_codec", pa.string(), None, "Video codec, as probed."),
    ("audio_codec", pa.string(), None, "Audio codec, as probed; null without sound."),
    ("width", pa.int64(), "pixels", "Width of the picture, as probed."),
    ("height", pa.int64(), "pixels", "Height of the picture, as probed."),
    ("fps", pa.float64(), "frames/second", "Average frame rate, as probed."),
    ("frames", pa.int64(), "frames", "Frames of video, counted to the end of the file."),
    ("probed_duration", pa.float64(), "seconds", "Length of the video, as probed."),
)

VIDEOS = TableSpec(
    name="videos",
    description="The manifest of the video files: one row a completed job.",
    includes=lambda job: job.state == JobState.COMPLETED,
    columns=(
        _ID,
        _PARTITION_TIME,
        Column(
            name="video_state",
            type=pa.string(),
            description="pending, stored, or lost (its URL is over, or it can never be had).",
            read=_kept("video_state"),
        ),
        *(
            Column(name=name, type=type_, unit=unit, description=description, read=_video(name))
            for name, type_, unit, description in _VIDEO_FACTS
        ),
        Column(
            name="reported_duration",
            type=pa.float64(),
            unit="seconds",
            description="Length of the video, as Akool reports it.",
            read=_sent("video_duration"),
        ),
        Column(
            name="source_url", type=pa.string(), description="Where Akool served the video.", read=_sent("video_url")
        ),
        Column(
            name="downloaded_at",
            type=MOMENT,
            unit="UTC",
            description="When the file was verified and published.",
            read=_video("downloaded_at"),
        ),
        Column(
            name="expires_at",
            type=MOMENT,
            unit="UTC",
            description="When Akool's URL dies: 7 days after the job's last update.",
            read=_kept("video_expires_at"),
        ),
        Column(name="attempts", type=pa.int64(), description="Downloads tried.", read=_kept("video_attempts")),
        Column(
            name="error",
            type=pa.string(),
            description="Why the last download failed; null once stored.",
            read=_kept("video_error"),
        ),
    ),
    totals={"akool/bytes": "bytes"},
)

RESULT_TABLES: Mapping[str, TableSpec] = {spec.name: spec for spec in (RESULTS, CREDITS, DURATIONS, STATUSES)}
"""The tables that land together, by name."""

TABLES: Mapping[str, TableSpec] = {**RESULT_TABLES, VIDEOS.name: VIDEOS}
"""Every table, by name."""
