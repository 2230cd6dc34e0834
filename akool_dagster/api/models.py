"""Rows of ``resultsByIds``: tolerant towards what Akool sends, strict towards what is stored.

Field names are Akool's own. Nothing Akool sent is lost: what has no field here, or does not fit its field's
type, is kept in ``extra`` under its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    model_validator,
)

from akool_dagster.api.cleaning import clean_row, storable_text
from akool_dagster.api.errors import AkoolResponseError
from akool_dagster.api.json_text import decode_json, encode_json
from akool_dagster.base.job_ids import normalise_id

VIDEO_LIFETIME_MS = 7 * 24 * 3600 * 1000  # documented: "valid for 7 days"; from when is not, so from the latest known

_REASON_FIELDS = (
    "error_reason",
    "error_reasons",
    "error_code",
    "faceswap_fail_reason",
    "fail_reason",
    "failed_reason",
    "error",
    "msg",
)  # sibling tools use these; none is documented for image to video
_LONGEST_REASON = 500
# Nearly every URL begins so, and needs no slower look.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.\-]+(?::[1-5]?[0-9]{1,4})?(?=[/?#]|\Z)")

FIRST_TIMESTAMP = 946_684_800_000
LAST_TIMESTAMP = 253_402_300_799_999
"""Milliseconds: the first of the year 2000 and the last of 9999. Seconds in their place would lie in January 1970."""

_Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
_Timestamp = Annotated[int, Field(ge=FIRST_TIMESTAMP, le=LAST_TIMESTAMP)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_ExactText = Annotated[str, Strict()]

# Without these right, nothing about the job may be concluded, so a misfit is not forgiven.
_ESSENTIAL = frozenset({"_id", "status", "video_url"})


def failure_reason(extra: Mapping[str, object]) -> str | None:
    """Return why Akool says a job failed, in at most 500 characters; None when no likely field says so."""
    for name in _REASON_FIELDS:
        reason = _reason_text(extra.get(name))
        if reason:
            return reason[:_LONGEST_REASON]
    return None


def _reason_text(value: object) -> str:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list | tuple):
        return "; ".join(filter(None, map(_reason_text, value)))
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return str(value) if value else ""  # 0, False and null say nothing


def is_usable_url(url: str | None) -> bool:
    """Return whether this is an http(s) URL with a host."""
    if url is None:
        return False
    if _PLAIN_URL.match(url):
        return True
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises for a port that is none)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", parts.netloc)


class ResultRow(BaseModel):
    """One job as Akool reported it, free of secrets, built with ``ResultRow.model_validate(raw_row)``.

    Times are milliseconds since the Unix epoch, ``video_duration`` seconds, ``deduction_credit`` credits. Every field
    but the id may be None: Akool leaves out what it likes. A number may come as text, and a text as a number. A raw
    row goes through `clean_row` first. Raises pydantic's ValidationError when ``_id``, ``status`` or ``video_url``
    have a shape from which nothing can be concluded.
    """

    # The model is shared between threads and written to the ledger: frozen. `extra` is a field of ours, and
    # pydantic's own `model_` namespace would warn about Akool's `model_name`.
    model_config = ConfigDict(
        frozen=True, protected_namespaces=(), hide_input_in_errors=True, coerce_numbers_to_str=True
    )

    job_id: str = Field(alias="_id", min_length=1)
    create_time: _Timestamp | None = None
    update_time: _Timestamp | None = None
    status: _Integer | None = None
    video_duration: _Number | None = None
    deduction_credit: _Number | None = None
    uid: _Integer | None = None
    team_id: str | None = None
    file_name: str | None = None
    effect_name: str | None = None
    effect_code: str | None = None
    image_url: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    resolution: str | None = None
    audio_type: _Integer | None = None
    audio_url: str | None = None
    webhookUrl: str | None = None  # noqa: N815  (Akool's name)
    video_url: _ExactText | None = None
    only_add_audio: bool | None = None
    model_name: str | None = None
    batch_id: str | None = None
    sub_type: _Integer | None = None
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _read_raw_row(cls, raw: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(raw, Mapping):
            raise ValueError("not an object")
        fields = clean_row(raw)
        extra: dict[str, Any] = {}
        # In Python true is a number, and would be read as one.
        misfits = [
            name
            for name, value in fields.items()
            if name not in _FIELDS or (type(value) is bool and name not in _TRUTHS)
        ]
        for name in misfits:
            if name in _ESSENTIAL:
                raise ValueError(f"{name}: Input should not be true or false")
            extra[name] = fields.pop(name)
        if isinstance(job_id := fields.get("_id"), str):
            fields["_id"] = normalise_id(job_id)
        fields["extra"] = extra
        try:
            return handler(fields)
        except ValidationError as error:
            for name in {str(problem["loc"][0]) for problem in error.errors(include_url=False)}:
                value = fields[name]
                is_blank = name != "_id" and isinstance(value, str) and not value.strip()
                if name in _ESSENTIAL and not is_blank:
                    raise
                del fields[name]
                if not is_blank:
                    extra[name] = value
            return handler(fields)

    @property
    def has_usable_video_url(self) -> bool:
        """Whether there is a URL to download from."""
        return is_usable_url(self.video_url)

    @property
    def failure_reason(self) -> str | None:
        """Why the job failed, as far as Akool says."""
        return failure_reason(self.extra)

    def expires_ms(self, settled_ms: int) -> int:
        """Return when the video's URL dies: 7 days after the row's latest time, and at most after it was seen."""
        times = [time for time in (self.create_time, self.update_time) if time is not None]
        return min(max(times, default=settled_ms), settled_ms) + VIDEO_LIFETIME_MS

    def to_payload(self) -> str:
        """Return compact JSON: the named fields that are not null, and ``extra`` when there is any."""
        values = self.__dict__
        payload: dict[str, object] = {"_id": self.job_id}
        payload |= {name: value for name, value in values.items() if value is not None and name not in _OWN}
        if self.extra:
            payload["extra"] = self.extra
        return encode_json(payload)


_FIELDS = {field.alias or name for name, field in ResultRow.model_fields.items() if name != "extra"}
_TRUTHS = {"only_add_audio"}
_OWN = {"job_id", "extra"}


def load_payload(text: str) -> dict[str, Any]:
    """Return what `ResultRow.to_payload` wrote, as plain values."""
    return cast(dict[str, Any], decode_json(text))


@dataclass(frozen=True)
class ResultsAnswer:
    """What one call said about the ids it asked for; each of them is in exactly one of the first three.

    Ids are as `normalise_id` gives them. ``unparsable`` has a short reason for each id, ``missing`` the ids
    without a row, ``ignored`` counts rows that nobody asked for and things that are no rows.
    """

    rows: Mapping[str, ResultRow]
    unparsable: Mapping[str, str]
    missing: tuple[str, ...]
    ignored: int


def parse_results(payload: object, requested: Collection[str]) -> ResultsAnswer:
    """Match the rows of a successful ``resultsByIds`` envelope to the requested ids, by ``_id`` only.

    The requested ids are as `normalise_id` gives them. Of several rows with one id, the row with the furthest status is
    kept. Raises AkoolResponseError when the envelope itself has the wrong shape; one bad row never affects the others.
    """
    wanted = dict.fromkeys(requested)
    rows: dict[str, ResultRow] = {}
    unparsable: dict[str, str] = {}
    ignored = 0
    for raw in _raw_rows(payload):
        job_id = _row_id(raw)
        if job_id not in wanted:
            ignored += 1
            continue
        try:
            row = ResultRow.model_validate(raw)
        except ValidationError as error:
            unparsable[job_id] = _short(error)
            continue
        if job_id not in rows or _progress(row) >= _progress(rows[job_id]):
            rows[job_id] = row
    for job_id in rows:
        unparsable.pop(job_id, None)
    missing = tuple(job_id for job_id in wanted if job_id not in rows and job_id not in unparsable)
    return ResultsAnswer(rows, unparsable, missing, ignored)


def _short(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    return "; ".join(
        ": ".join([*map(str, problem["loc"]), problem["msg"].removeprefix("Value error, ")]) for problem in problems
    )


def _raw_rows(payload: object) -> list[object]:
    if isinstance(payload, Mapping):
        data = payload.get("data")
        if data is None or data == []:  # an empty array stands for "no object" in some of Akool's answers
            return []
        if isinstance(data, Mapping) and isinstance(result := data.get("result"), list | None):
            return result or []
    raise AkoolResponseError(
        "Akool's answer has no list under data.result. Every job stays pending; if this goes on, the API "
        "has changed or AKOOL_BASE_URL is not Akool's."
    )


def _row_id(raw: object) -> str | None:
    value = raw.get("_id") if isinstance(raw, Mapping) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return normalise_id(storable_text(value)) if isinstance(value, str) else None


def _progress(row: ResultRow) -> tuple[int, int]:
    if row.status == 4 or (row.status == 3 and row.has_usable_video_url):
        stage = 4
    else:
        stage = row.status if row.status in (1, 2, 3) else 0
    return stage, -1 if row.update_time is None else row.update_time
