"""What the Reference pages say of names that carry no description in the code."""

from __future__ import annotations

from collections.abc import Mapping

ENVIRONMENT: Mapping[str, str] = {
    "AKOOL_API_KEY": "API key, sent in the header `x-api-key`.",
    "AKOOL_CLIENT_ID": "Client id, exchanged with the secret for a token. It is used only when there is no key.",
    "AKOOL_CLIENT_SECRET": "Client secret that belongs to the client id.",
    "AKOOL_BASE_URL": "Address of the API. Set it for the emulator only.",
    "AKOOL_STORAGE": (
        "Storage root: an absolute path, or an `s3://`, `gs://` or `az://` URL. Default: `$DAGSTER_HOME/akool`."
    ),
    "AKOOL_LEDGER_URL": "SQLAlchemy URL of the ledger. Default: `sqlite:///$DAGSTER_HOME/akool/ledger.sqlite`.",
    "DAGSTER_HOME": "Folder of the Dagster deployment. Its subfolder `akool` is used for what is not set.",
}
"""Variables of `akool_dagster.settings`."""

OTHER_ENVIRONMENT: Mapping[str, str] = {
    "AWS_*": "Credentials, region and endpoint of an `s3://` root: [Object storage](../how-to/object-storage.md).",
    "GOOGLE_APPLICATION_CREDENTIALS": "Credentials of a `gs://` root.",
    "AZURE_STORAGE_*": "Credentials of an `az://` root.",
    "SSL_CERT_FILE": "A file with the certificates to trust, for the API and for downloads.",
    "REQUESTS_CA_BUNDLE": "The same, for the API alone.",
    "HTTPS_PROXY": "A proxy for the API. Downloads go directly.",
    "TMPDIR": "Folder of the temporary files when the storage root is in object storage.",
}

_DEFINITION = "Of the assets' definitions"
_TABLES = "Of a table's materialisation"
_VIDEOS = "Of `akool/videos`, beside those of a table"
_JOBS = "Of the observations of `akool/jobs`"
_RUNS = "Tags of the runs"

METADATA: Mapping[str, tuple[str, str]] = {
    "akool/rows": (_TABLES, "Rows in the partition's file."),
    "akool/completed": (_TABLES, "Rows of completed jobs."),
    "akool/failed": (_TABLES, "Rows of failed jobs."),
    "akool/pending": (_TABLES, "Rows of pending jobs (`statuses`)."),
    "akool/missing": (_TABLES, "Rows of missing jobs (`statuses`)."),
    "akool/abandoned": (_TABLES, "Rows of abandoned jobs (`statuses`)."),
    "akool/credits": (_TABLES, "Sum of `deduction_credit`."),
    "akool/video_seconds": (_TABLES, "Sum of `video_duration`, in seconds."),
    "akool/bytes": (_VIDEOS, "Sum of the videos' sizes, in bytes."),
    "akool/file_bytes": (_TABLES, "Size of the partition's Parquet file, in bytes."),
    "akool/carried_over": (_TABLES, "Rows that only the file had; the ledger has none of them."),
    "akool/carried_over_not_ended": (_TABLES, "Rows among them whose job or video has not ended."),
    "akool/hint": (_TABLES, "What to do about rows that nobody polls; there only when there are some."),
    "dagster/partition_row_count": (_TABLES, "Rows, for Dagster's own view of a partition."),
    "dagster/row_count": (_TABLES, "Rows of an asset without partitions that `ParquetIOManager` stored."),
    "dagster/uri": (_TABLES, "Where the file is."),
    "akool/videos_*": (
        _VIDEOS,
        "Rows by the state of the video. Observations of `akool/jobs` have it for all partitions.",
    ),
    "akool/downloaded": (_VIDEOS, "Videos that this run stored."),
    "akool/downloaded_bytes": (_VIDEOS, "Their size, in bytes."),
    "akool/failed_downloads": (_VIDEOS, "Attempts that stored nothing, those of the next line included."),
    "akool/given_up_downloads": (_VIDEOS, "Videos that became `unverified` or `lost` in this run."),
    "akool/deferred_downloads": (_VIDEOS, "Videos left for the next run because their host was in trouble."),
    "akool/jobs_*": (_JOBS, "Jobs by state."),
    "akool/pending_*": (_JOBS, "Pending jobs by Akool's status; `unseen` before the first answer."),
    "akool/oldest_pending_seconds": (_JOBS, "How long the oldest pending job has been watched, in seconds."),
    "akool/overdue": (_JOBS, "Pending jobs whose poll has been due for over ten minutes."),
    "akool/in_no_partition": (_JOBS, "Jobs from before `start_date`."),
    "akool/in_partitions_to_come": (_JOBS, "Jobs that were tracked under a clock that was ahead."),
    "akool/table": (_DEFINITION, "The name of the table."),
    "partition_expr": (_DEFINITION, "The column that database IO managers replace a partition by."),
    "dagster/column_schema": (_DEFINITION, "Columns with types, descriptions and constraints."),
    "akool/account": (_RUNS, "The account's prefix."),
    "akool/landing": (_RUNS, "What the run lands: `tables` or `videos`."),
    "dagster/max_runtime": (_RUNS, "Seconds after which Dagster's run monitoring ends the run."),
    "dagster/partition": (_RUNS, "The partition that the run lands. Dagster sets it."),
    "dagster/failure_reason": (_RUNS, "Why a run failed. Dagster sets it; the sensor tells killed runs by it."),
}
"""Where each key is, and what it means. A ``*`` is filled in."""

ENDPOINTS: Mapping[tuple[str, str], str] = {
    ("POST", "/api/open/v4/image2Video/resultsByIds"): "The results of many jobs, as Akool answers them.",
    ("POST", "/api/open/v3/getToken"): "A bearer token for a client id and secret.",
    ("GET", "/api/open/v3/faceswap/quota/info"): "The account's credits.",
    ("GET", "/cdn/{file_name}"): "A video, whole or a range of its bytes.",
    ("GET", "/emulator/faults"): "The faults that are on.",
    ("POST", "/emulator/faults"): "Switches one on: `name` with options, or `script`, or `random`.",
    ("DELETE", "/emulator/faults"): "Switches all off, or with `?id=` one.",
    ("GET", "/emulator/journal"): "What was asked and answered, never a secret; `?endpoint=` narrows it.",
    ("DELETE", "/emulator/journal"): "Empties the journal.",
    ("GET", "/emulator/settings"): "The settings that can change while it runs.",
    ("POST", "/emulator/settings"): "Sets `max_ids_per_call`: a number, or null for no limit.",
}
