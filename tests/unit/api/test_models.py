"""Reading result rows: tolerant towards Akool, strict towards what is stored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from akool_dagster.api.errors import AkoolResponseError
from akool_dagster.api.models import (
    FIRST_TIMESTAMP,
    LAST_TIMESTAMP,
    VIDEO_LIFETIME_MS,
    ResultRow,
    ResultsAnswer,
    failure_reason,
    load_payload,
    parse_results,
)
from akool_dagster.base.job_ids import normalise_id

DATA = Path(__file__).parents[2] / "data"
ID = "6891abe782f7cd2a890c44ba"
OTHER = "6891a2295d612f78c9204f77"
SEEN = 1_760_000_000_000
URL = "https://cdn.example/v.mp4"
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [field.alias or name for name, field in ResultRow.model_fields.items() if name != "extra"]
INTEGERS = ["create_time", "update_time", "uid", "audio_type", "sub_type"]
NUMBERS = ["video_duration", "deduction_credit"]


def row(**fields: object) -> ResultRow:
    return ResultRow.model_validate({"_id": ID, **fields})


def envelope(*rows: object) -> dict[str, object]:
    return {"code": 1000, "msg": "OK", "data": {"result": list(rows)}}


def vendor_example(name: str) -> dict[str, Any]:
    example: dict[str, Any] = json.loads((DATA / f"results_{name}.json").read_text())
    return example


# --- rows ---


@pytest.mark.parametrize("name", ["queueing", "completed"])
def test_the_vendors_example_is_read_to_the_last_field(name: str) -> None:
    raw = vendor_example(name)["data"]["result"][0]
    answer = parse_results(vendor_example(name), [raw["_id"]])
    assert load_payload(answer.rows[raw["_id"]].to_payload()) == raw
    assert answer.rows[raw["_id"]].extra == {}


def test_an_empty_row_has_an_id_and_nothing_else() -> None:
    assert load_payload(row().to_payload()) == {"_id": ID}
    assert load_payload(row(**dict.fromkeys(FIELDS[1:])).to_payload()) == {"_id": ID}


def test_unknown_fields_are_kept_as_sent() -> None:
    unknown = {"cover_url": "https://cdn.example/c.png", "batch_count": 3, "deep": {"a": [1, None, True]}, "none": None}
    assert row(**unknown).extra == unknown
    assert load_payload(row(**unknown).to_payload()) == {"_id": ID, "extra": unknown}


def test_a_field_of_akools_called_extra_does_not_collide_with_ours() -> None:
    assert row(extra="theirs", job_id=7).extra == {"extra": "theirs", "job_id": 7}


@pytest.mark.parametrize("field", [*INTEGERS, "status"])
@pytest.mark.parametrize("sent", [SEEN, float(SEEN), f"{SEEN}", f" {SEEN} ", f"{SEEN}.0", f"+{SEEN}"])
def test_an_integer_may_come_as_a_whole_float_or_as_text(field: str, sent: object) -> None:
    assert getattr(row(**{field: sent}), field) == SEEN


@pytest.mark.parametrize("sent", [5.063, "5.063", "5063e-3"])
def test_a_number_may_come_as_text(sent: object) -> None:
    assert row(video_duration=sent).video_duration == 5.063


@pytest.mark.parametrize("field", [*INTEGERS, *NUMBERS, "status", "only_add_audio"])
@pytest.mark.parametrize("sent", ["", "  ", None])
def test_an_empty_text_or_null_where_a_number_belongs_is_nothing(field: str, sent: object) -> None:
    assert getattr(row(**{field: sent}), field) is None
    assert row(**{field: sent}).extra == {}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(True, True), (False, False), (1, True), (0, False), ("true", True), ("FALSE", False), ("1", True), ("0", False)],
)
def test_true_and_false_come_in_several_spellings(sent: object, kept: bool) -> None:
    assert row(only_add_audio=sent).only_add_audio is kept


@pytest.mark.parametrize(("sent", "kept"), [(101, "101"), (5.5, "5.5"), ("", ""), (" a ", " a ")])
def test_a_number_where_text_belongs_becomes_text(sent: object, kept: str) -> None:
    assert row(team_id=sent).team_id == kept


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("create_time", "yesterday"),
        ("create_time", LAST_TIMESTAMP + 1),
        ("create_time", FIRST_TIMESTAMP - 1),
        ("create_time", 1_754_377_191),
        ("uid", 2**63),
        ("uid", -(2**63) - 1),
        ("create_time", 1e300),
        ("create_time", "99999999999999999999"),
        ("uid", 3.5),
        ("uid", True),
        ("uid", "٣"),
        ("uid", "9" * 5000),
        ("video_duration", [5]),
        ("video_duration", True),
        ("video_duration", "1e999"),
        ("video_duration", "nan"),
        ("video_duration", 10**400),
        ("only_add_audio", "maybe"),
        ("only_add_audio", 2),
        ("prompt", {"text": "a boat"}),
        ("prompt", ["a boat"]),
        ("team_id", False),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_kept_in_extra(field: str, sent: object) -> None:
    read = row(status=3, **{field: sent})
    assert getattr(read, field) is None
    assert read.extra == {field: sent}
    assert read.status == 3


@pytest.mark.parametrize("sent", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_kept_as_text(sent: float) -> None:
    read = row(video_duration=sent, other=[sent])
    assert read.video_duration is None
    assert set(read.extra) == {"video_duration", "other"}
    json.loads(read.to_payload(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("edge", [2**63 - 1, -(2**63)])
def test_the_edges_of_64_bits_are_exact(edge: int) -> None:
    assert row(uid=edge).uid == edge
    assert row(uid=str(edge)).uid == edge


@pytest.mark.parametrize(
    "fields",
    [
        {"status": {}},
        {"status": []},
        {"status": "abc"},
        {"status": True},
        {"status": 3.5},
        {"status": 2**63},
        {"video_url": 7},
        {"video_url": [URL]},
        {"video_url": {"url": URL}},
        {"_id": {"$oid": ID}},
        {"_id": ""},
        {"_id": None},
    ],
)
def test_a_row_from_which_nothing_can_be_concluded_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        row(**fields)


def test_an_unknown_status_is_kept_raw() -> None:
    assert row(status=99).status == 99
    assert row(status=-1).status == -1


def test_text_is_made_storable() -> None:
    read = row(prompt="a\0b \ud800 \U0001f600", **{"k\0\udfff": ["\0x"]})
    assert read.prompt == "ab \ufffd \U0001f600"
    assert read.extra == {"k\ufffd": ["x"]}


def test_a_nul_cannot_hide_a_secret_from_the_redaction() -> None:
    read = row(prompt="https:\0//u:S3CR3T@x.example/?S3CR3T", webhookUrl="\0https://h.example/S3CR3T")
    assert read.prompt == "https://x.example/"
    assert read.webhookUrl == "https://h.example"


def test_a_row_never_holds_a_secret_but_keeps_its_video_url_whole() -> None:
    read = row(
        webhookUrl="https://hooks.example/S3CR3T",
        image_url="https://x.example/i.png?sig=S3CR3T",
        audio_url=["https://x.example/a.mp3?sig=S3CR3T"],
        last_image_url="https://u:S3CR3T@x.example/l.png",
        video_url=URL + "?sig=needed",
    )
    assert "S3CR3T" not in repr(read) + read.to_payload()
    assert read.video_url == URL + "?sig=needed"
    assert read.extra["audio_url"] == ["https://x.example/a.mp3"]


@given(st.dictionaries(st.sampled_from(FIELDS[1:]) | st.text(max_size=6), JSON_VALUE, max_size=12))
def test_whatever_akool_sends_is_stored_or_refused_and_never_lost(fields: dict[str, object]) -> None:
    answer = parse_results(envelope({**fields, "_id": ID}), [ID])
    assert set(answer.rows) | set(answer.unparsable) == {ID}
    for read in answer.rows.values():
        payload = read.to_payload()
        payload.encode("utf-8")
        assert "\\u0000" not in payload
        loaded = load_payload(payload)
        for name in FIELDS[1:]:
            sent = fields.get(name)
            blank = sent is None or (isinstance(sent, str) and not sent.replace("\0", "").strip())
            assert blank or (name in loaded) != (name in read.extra)


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        (URL, True),
        ("HTTP://cdn.example:8080/a b.mp4", True),
        ("https://[::1]/v.mp4", True),
        (None, False),
        ("", False),
        ("pending", False),
        ("https://", False),
        ("https:///v.mp4", False),
        ("ftp://cdn.example/v.mp4", False),
        ("file:///etc/passwd", False),
        ("https://[::1/v.mp4", False),
        ("https://cdn.example:port/v.mp4", False),
        ("https://cdn example/v.mp4", False),
    ],
)
def test_only_an_http_url_with_a_host_can_be_downloaded(url: str | None, usable: bool) -> None:
    assert row(status=3, video_url=url).has_usable_video_url is usable


@pytest.mark.parametrize(
    ("times", "expires"),
    [
        ({"create_time": SEEN - 20, "update_time": SEEN - 10}, SEEN - 10 + VIDEO_LIFETIME_MS),
        ({"create_time": SEEN - 10, "update_time": SEEN - 20}, SEEN - 10 + VIDEO_LIFETIME_MS),
        ({"create_time": SEEN - 10}, SEEN - 10 + VIDEO_LIFETIME_MS),
        ({"update_time": 0}, SEEN + VIDEO_LIFETIME_MS),
        ({}, SEEN + VIDEO_LIFETIME_MS),
        ({"create_time": LAST_TIMESTAMP}, SEEN + VIDEO_LIFETIME_MS),
    ],
)
def test_a_video_lives_seven_days_from_the_latest_time_known(times: dict[str, int], expires: int) -> None:
    assert row(**times).expires_ms(settled_ms=SEEN) == expires


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({}, None),
        ({"error_reason": "", "error_code": 0, "error": None, "error_reasons": []}, None),
        ({"msg": "last", "error_reason": "first"}, "first"),
        ({"error_reasons": ["no face", "", {"at": 3}]}, 'no face; {"at": 3}'),
        ({"error_code": 1015}, "1015"),
        ({"faceswap_fail_reason": "a\n b"}, "a b"),
        ({"fail_reason": "x"}, "x"),
        ({"failed_reason": "x"}, "x"),
        ({"error": {"text": "bad"}}, '{"text": "bad"}'),
        ({"error": "x" * 900}, "x" * 500),
    ],
)
def test_the_reason_of_a_failure_is_the_first_field_that_has_one(extra: dict[str, object], reason: str | None) -> None:
    assert failure_reason(extra) == reason
    assert row(status=4, **extra).failure_reason == reason


def test_a_row_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        row(status=1).status = 3  # type: ignore[misc]


# --- answers ---


def test_every_requested_id_is_in_exactly_one_place() -> None:
    answer = parse_results(
        envelope({"_id": ID, "status": 1}, {"_id": "bad", "status": "abc"}, {"_id": "stranger"}, None, 7, {"x": 1}),
        [ID, "bad", OTHER],
    )
    assert set(answer.rows) == {ID}
    assert answer.unparsable == {"bad": "status: Input should be a valid integer, unable to parse string as an integer"}
    assert answer.missing == (OTHER,)
    assert answer.ignored == 4


def test_rows_are_matched_by_id_and_never_by_position() -> None:
    answer = parse_results(envelope({"_id": OTHER, "status": 1}, {"_id": ID, "status": 2}), [ID, OTHER])
    assert {job_id: read.status for job_id, read in answer.rows.items()} == {ID: 2, OTHER: 1}


def test_an_object_id_is_matched_in_any_case_and_other_ids_exactly() -> None:
    answer = parse_results(envelope({"_id": ID.upper(), "status": 1}, {"_id": "JOB"}), [ID, "job"])
    assert answer.rows[ID].job_id == ID
    assert answer.missing == ("job",)
    assert normalise_id(f" {ID.upper()}\n") == ID


@pytest.mark.parametrize("data", [None, [], {}, {"result": None}, {"result": []}, {"count": 0}])
def test_an_answer_without_rows_means_that_all_are_missing(data: object) -> None:
    assert parse_results({"code": 1000, "data": data}, [ID, OTHER, ID]) == ResultsAnswer({}, {}, (ID, OTHER), 0)
    assert parse_results({"code": 1000}, [ID]).missing == (ID,)


@pytest.mark.parametrize("data", [{"result": {}}, {"result": "x"}, {"result": 0}, "x", 7, [{"_id": ID}]])
def test_an_answer_of_another_shape_is_an_error_and_not_a_miss(data: object) -> None:
    with pytest.raises(AkoolResponseError, match=r"data\.result"):
        parse_results({"code": 1000, "data": data}, [ID])


@pytest.mark.parametrize("payload", [None, [], "x", 7])
def test_a_payload_that_is_no_envelope_is_an_error(payload: object) -> None:
    with pytest.raises(AkoolResponseError):
        parse_results(payload, [ID])


QUEUED = {"_id": ID, "status": 1, "update_time": SEEN + 900}
DONE = {"_id": ID, "status": 3, "video_url": URL, "update_time": SEEN + 500}
NO_URL = {"_id": ID, "status": 3, "update_time": SEEN + 800}


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([DONE, QUEUED], DONE),
        ([QUEUED, DONE], DONE),
        ([NO_URL, DONE], DONE),
        ([NO_URL, QUEUED], NO_URL),
        ([DONE, {**DONE, "update_time": SEEN + 600}], {**DONE, "update_time": SEEN + 600}),
        ([{**DONE, "update_time": SEEN + 600}, DONE], {**DONE, "update_time": SEEN + 600}),
        ([DONE, {**DONE, "uid": 2}], {**DONE, "uid": 2}),
        ([{**QUEUED, "status": 99}, QUEUED], QUEUED),
        ([{"_id": ID, "status": 4}, NO_URL], {"_id": ID, "status": 4}),
        ([{"_id": ID, "status": {}}, QUEUED], QUEUED),
        ([QUEUED, {"_id": ID, "status": {}}], QUEUED),
    ],
)
def test_of_several_rows_of_one_job_the_furthest_is_kept(rows: list[object], kept: dict[str, object]) -> None:
    answer = parse_results(envelope(*rows), [ID])
    assert load_payload(answer.rows[ID].to_payload()) == kept
    assert (answer.unparsable, answer.missing, answer.ignored) == ({}, (), 0)


def test_a_row_nested_without_end_does_not_stop_the_others() -> None:
    deep: object = 1
    for _ in range(3000):
        deep = [deep]
    answer = parse_results(envelope({"_id": OTHER, "x": deep}, {"_id": ID, "status": 3}), [ID, OTHER])
    assert answer.rows[ID].status == 3
    assert "nested deeper" in answer.unparsable[OTHER]


def test_the_reason_for_an_unparsable_row_does_not_show_its_values() -> None:
    answer = parse_results(envelope({"_id": ID, "status": "S3CR3T", "video_url": ["S3CR3T"]}), [ID])
    assert "S3CR3T" not in answer.unparsable[ID]


@given(
    st.lists(st.dictionaries(st.sampled_from(["_id", "status", "video_url", "update_time"]), JSON_VALUE), max_size=5)
)
def test_no_rows_however_odd_make_an_answer_fail(rows: list[dict[str, object]]) -> None:
    answer = parse_results(envelope(*rows), [ID, OTHER])
    assert set(answer.rows) | set(answer.unparsable) | set(answer.missing) == {ID, OTHER}
    assert len(answer.rows) + len(answer.unparsable) + len(answer.missing) == 2
