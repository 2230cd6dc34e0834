"""The tables as data: which columns each has, what they mean, and from which fields of a job each is made.

A field of a job comes from the ledger's row, from the payload of Akool's last answer, or from the record of the stored
video. The spool has them as one wide table, under these names; a table here is a projection of that.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from akool_dagster.ledger.records import FINAL_STATES, STATUS_LABELS, JobState, VideoState
from akool_dagster.tables.spec import TIMESTAMP, Column, TableSpec

# Columns that are computed


def _status_label(status: pa.Array) -> pa.Array:
    known = pc.index_in(status, value_set=pa.array(list(STATUS_LABELS), pa.int64()))
    return pc.fill_null(pc.take(pa.array(list(STATUS_LABELS.values()), pa.string()), known), "unknown")


def _credits_per_second(credit: pa.Array, duration: pa.Array) -> pa.Array:
    return pc.if_else(pc.not_equal(duration, 0.0), pc.divide(credit, duration), None)


def _seconds(start: pa.Array, end: pa.Array) -> pa.Array:
    span = pc.subtract(end.cast(pa.int64()), start.cast(pa.int64()))
    return pc.if_else(pc.greater_equal(span, 0), pc.divide(span.cast(pa.float64(), safe=False), 1000.0), None)


# Columns that several tables share

_ID = Column("_id", pa.string(), "The job's id at Akool.")
_PARTITION_TIME = Column("partition_time", TIMESTAMP, "Start of the partition the job belongs to.", "UTC")
_STATUS = Column(
    "status", pa.int64(), "Akool's status: 1 queueing, 2 processing, 3 completed, 4 failed; any other as sent."
)
_STATUS_LABEL = Column(
    "status_label",
    pa.string(),
    "The status in words; 'unseen' before the first answer, 'unknown' for an undocumented number.",
    fields=("status",),
    compute=_status_label,
)
_LABELS = Column("labels", pa.string(), "JSON text of the string map the job was tracked with.")
_SETTLED_AT = Column("settled_at", TIMESTAMP, "When polling saw the job end; null while it has not.", "UTC")
_CREATE_TIME = Column("create_time", TIMESTAMP, "When Akool created the job.", "UTC")
_UPDATE_TIME = Column(
    "update_time",
    TIMESTAMP,
    "When Akool last updated the job: its completion, once it ended. Audio jobs may inherit an older time.",
    "UTC",
)
_VIDEO_DURATION = Column("video_duration", pa.float64(), "Length of the video, as Akool reports it.", "seconds")
_DEDUCTION_CREDIT = Column(
    "deduction_credit", pa.float64(), "Credits deducted, as Akool reported them when the job settled.", "credits"
)
_UID = Column("uid", pa.int64(), "Akool's user id.")
_TEAM_ID = Column("team_id", pa.string(), "Akool's team id.")
_RESOLUTION = Column("resolution", pa.string(), "Resolution asked for, such as 720p, 1080p or 4k.")
_EFFECT_CODE = Column("effect_code", pa.string(), "Code of the effect used.")
_MODEL_NAME = Column("model_name", pa.string(), "Model used, when Akool says so.")
_ONLY_ADD_AUDIO = Column("only_add_audio", pa.bool_(), "Whether the job only added audio to a finished video.")
_VERSION = Column("version", pa.int64(), "The number of the row's last change, by which copies of a row are merged.")

_ENDED_COUNTS: tuple[str, Mapping[str, str]] = (
    "status_label",
    {"completed": "akool/completed", "failed": "akool/failed"},
)

RESULTS = TableSpec(
    name="results",
    description="The full results: one row a job that Akool completed or failed.",
    states=FINAL_STATES,
    counted=_ENDED_COUNTS,
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
        Column("file_name", pa.string(), "Akool's name for the file; neither unique nor a path."),
        Column("effect_name", pa.string(), "Name of the effect used."),
        _EFFECT_CODE,
        Column("image_url", pa.string(), "The input image, without query."),
        Column("prompt", pa.string(), "The prompt."),
        Column("negative_prompt", pa.string(), "The negative prompt."),
        _RESOLUTION,
        Column("audio_type", pa.int64(), "1 AI-generated, 2 custom, 3 none."),
        Column("audio_url", pa.string(), "The input audio, without query."),
        Column("webhookUrl", pa.string(), "Scheme and host of the callback URL."),
        Column("video_url", pa.string(), "Where Akool serves the video, for 7 days."),
        _ONLY_ADD_AUDIO,
        _MODEL_NAME,
        Column("batch_id", pa.string(), "The batch the job was made in."),
        Column("sub_type", pa.int64(), "Akool's model type; 1501 is image to video."),
        Column(
            "extra", pa.string(), "JSON text of every field Akool sent that has no column here, or does not fit it."
        ),
        _LABELS,
        _SETTLED_AT,
        _VERSION,
    ),
    totals={"akool/credits": "deduction_credit", "akool/video_seconds": "video_duration"},
)

CREDITS = TableSpec(
    name="credits",
    description="What each job cost: one row a job that Akool completed or failed.",
    states=FINAL_STATES,
    counted=_ENDED_COUNTS,
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
            "credits_per_second",
            pa.float64(),
            "deduction_credit / video_duration; null without a duration.",
            "credits/second",
            fields=("deduction_credit", "video_duration"),
            compute=_credits_per_second,
        ),
        _LABELS,
        _VERSION,
    ),
    totals={"akool/credits": "deduction_credit"},
)

DURATIONS = TableSpec(
    name="durations",
    description="How long each job took: one row a job that Akool completed or failed.",
    states=FINAL_STATES,
    counted=_ENDED_COUNTS,
    columns=(
        _ID,
        _PARTITION_TIME,
        _CREATE_TIME,
        _UPDATE_TIME,
        _STATUS_LABEL,
        _VIDEO_DURATION,
        Column(
            "turnaround_seconds",
            pa.float64(),
            "update_time - create_time; null where that is negative, as for audio jobs.",
            "seconds",
            fields=("create_time", "update_time"),
            compute=_seconds,
        ),
        Column(
            "queue_seconds",
            pa.float64(),
            "From the first poll that saw the job queueing to the first that saw it processing.",
            "seconds",
            fields=("queueing_seen_at", "processing_seen_at"),
            compute=_seconds,
        ),
        Column(
            "processing_seconds",
            pa.float64(),
            "From the first poll that saw the job processing to the one that saw its end.",
            "seconds",
            fields=("processing_seen_at", "settled_at"),
            compute=_seconds,
        ),
        Column(
            "detection_seconds",
            pa.float64(),
            "settled_at - update_time: how long the end went unnoticed; null where negative.",
            "seconds",
            fields=("update_time", "settled_at"),
            compute=_seconds,
        ),
        _VERSION,
    ),
    totals={"akool/video_seconds": "video_duration"},
)

STATUSES = TableSpec(
    name="statuses",
    description="Where every tracked job stood at the landing: pending, missing and abandoned ones too.",
    progress=("state", (FINAL_STATES,)),
    open=frozenset({JobState.PENDING, JobState.MISSING, JobState.ABANDONED}),
    counted=(
        "state",
        {state: f"akool/{state}" for state in JobState if state != JobState.FORGOTTEN},
    ),
    columns=(
        _ID,
        _PARTITION_TIME,
        Column("state", pa.string(), "pending, completed, failed, missing (Akool stopped returning it) or abandoned."),
        _STATUS,
        _STATUS_LABEL,
        Column("tracked_at", TIMESTAMP, "When the id was tracked.", "UTC"),
        Column("queueing_seen_at", TIMESTAMP, "The first poll that saw the job queueing.", "UTC"),
        Column("processing_seen_at", TIMESTAMP, "The first poll that saw the job processing.", "UTC"),
        _SETTLED_AT,
        Column("failure_reason", pa.string(), "Why a job failed, where Akool said so."),
        _LABELS,
        _VERSION,
    ),
)

_VIDEO_FACTS = (
    Column("path", pa.string(), "The file, relative to the storage root."),
    Column("bytes", pa.int64(), "Size of the file.", "bytes"),
    Column("sha256", pa.string(), "SHA-256 of the file, in hex."),
    Column("container", pa.string(), "Container format, as probed."),
    Column("video_codec", pa.string(), "Video codec, as probed."),
    Column("audio_codec", pa.string(), "Audio codec, as probed; null without sound."),
    Column("width", pa.int64(), "Width of the picture, as probed.", "pixels"),
    Column("height", pa.int64(), "Height of the picture, as probed.", "pixels"),
    Column("fps", pa.float64(), "Average frame rate, as probed.", "frames/second"),
    Column("frames", pa.int64(), "Frames of video, counted to the end of the file.", "frames"),
    Column("probed_duration", pa.float64(), "Length of the video, as probed.", "seconds"),
)

VIDEO_RECORD = frozenset({*(column.name for column in _VIDEO_FACTS), "downloaded_at"})
"""The fields of a job that come from the record of its stored video."""

VIDEOS = TableSpec(
    name="videos",
    description="The manifest of the video files: one row a completed job.",
    states=frozenset({JobState.COMPLETED}),
    progress=("video_state", (frozenset({VideoState.UNVERIFIED, VideoState.STORED}), frozenset({VideoState.STORED}))),
    open=frozenset({VideoState.PENDING}),
    counted=("video_state", {state: f"akool/videos_{state}" for state in VideoState}),
    columns=(
        _ID,
        _PARTITION_TIME,
        Column(
            "video_state",
            pa.string(),
            "pending, stored, unverified (kept, but the verifier refuses it) or lost (no bytes were had).",
        ),
        *_VIDEO_FACTS,
        Column(
            "reported_duration",
            pa.float64(),
            "Length of the video, as Akool reports it.",
            "seconds",
            fields=("video_duration",),
        ),
        Column("source_url", pa.string(), "Where Akool served the video.", fields=("video_url",)),
        Column("downloaded_at", TIMESTAMP, "When the file was verified and published.", "UTC"),
        Column(
            "expires_at",
            TIMESTAMP,
            "When Akool's URL dies: 7 days after the job's last update.",
            "UTC",
            fields=("video_expires_at",),
        ),
        Column("attempts", pa.int64(), "Downloads tried.", fields=("video_attempts",)),
        Column("error", pa.string(), "Why the last download failed; null once stored.", fields=("video_error",)),
        _VERSION,
    ),
    totals={"akool/bytes": "bytes"},
)

RESULT_TABLES: Mapping[str, TableSpec] = {spec.name: spec for spec in (RESULTS, CREDITS, DURATIONS, STATUSES)}
"""The tables that land together, by name."""

TABLES: Mapping[str, TableSpec] = {**RESULT_TABLES, VIDEOS.name: VIDEOS}
"""Every table, by name."""

FIELD_TYPES: Mapping[str, pa.DataType] = {
    column.sources[0]: column.type for spec in TABLES.values() for column in spec.columns if column.compute is None
}
"""Every field of a job that a column is made from: each is itself a column somewhere."""
