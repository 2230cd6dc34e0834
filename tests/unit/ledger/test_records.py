"""Ids, labels and the time that decides a job's partition."""

from __future__ import annotations

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger import InvalidJobError
from akool_dagster.ledger.records import (
    LeaseFacts,
    check_labels,
    normalise_job_id,
    partition_time,
    status_label,
)

NOW = 1_760_000_000_000
ID_CHARACTERS = string.ascii_letters + string.digits + "_-"
blanks = st.text(" \t\r\n", max_size=3)


@given(st.text(ID_CHARACTERS, min_size=1, max_size=64), blanks, blanks)
def test_a_good_id_is_kept_and_its_blanks_cut(job_id: str, before: str, after: str) -> None:
    normalised = normalise_job_id(before + job_id + after)
    assert normalised in (job_id, job_id.lower())
    assert normalise_job_id(normalised) == normalised
    if len(job_id) != 24:
        assert normalised == job_id


@pytest.mark.parametrize(
    "raw", ["", "   ", "a b", "a,b", "a/b", "a\nb", "a.b", "é", "\u0661\u0662", "a\x00", "x" * 65, "\ud800"]
)
def test_anything_else_is_no_id_and_the_error_carries_it(raw: str) -> None:
    with pytest.raises(InvalidJobError, match="is not a job id") as caught:
        normalise_job_id(raw)
    assert caught.value.job_id == raw.strip()
    assert str(caught.value).isprintable()


def test_an_invalid_job_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InvalidJobError("no", "a b")))  # noqa: S301
    assert (type(error), str(error), error.job_id) == (InvalidJobError, "no", "a b")


GOOD_LABELS = [{}, {"k": ""}, {"k" * 64: "v" * 1024}, {"Straße": "é 漢 🎬\n"}]
BAD_LABELS = [
    {"": "v"},
    {" \t": "v"},
    {"k" * 65: "v"},
    {"k": "v" * 1025},
    {"k\x00": "v"},
    {"k": "v\x00"},
    {"\ud800": "v"},
    {"k": "half a \udcff pair"},
]


@pytest.mark.parametrize("labels", GOOD_LABELS, ids=range(len(GOOD_LABELS)))
def test_a_label_may_be_any_text_of_some_length(labels: dict[str, str]) -> None:
    check_labels("a", labels)


@pytest.mark.parametrize("labels", BAD_LABELS, ids=range(len(BAD_LABELS)))
def test_a_label_that_cannot_be_stored_is_refused_with_the_id(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidJobError, match="of a") as caught:
        check_labels("a", {"fine": "label"} | labels)
    assert caught.value.job_id == "a"
    str(caught.value).encode()


@given(st.integers(0, NOW // 1000), st.integers(0, 16**16 - 1))
def test_the_partition_time_of_an_object_id_is_its_second(second: int, rest: int) -> None:
    assert partition_time(f"{second:08x}{rest:016x}", NOW) == second * 1000


@pytest.mark.parametrize("job_id", ["a", "68aa0000", "68aa000000000000000000001", "68aa0000000000000000000g"])
def test_an_id_of_another_shape_counts_from_now(job_id: str) -> None:
    assert partition_time(job_id, NOW) == NOW


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (None, "unseen"),
        (1, "queueing"),
        (2, "processing"),
        (3, "completed"),
        (4, "failed"),
        (0, "unknown"),
        (5, "unknown"),
    ],
)
def test_a_status_has_akools_word_or_unknown(status: int | None, label: str) -> None:
    assert status_label(status) == label


@pytest.mark.parametrize(
    ("ends_in_ms", "live"), [(-1, False), (0, False), (1, True), (60_000, True), (120_000, True), (120_001, False)]
)
def test_a_lease_is_live_until_its_end_unless_that_is_absurd(ends_in_ms: int, live: bool) -> None:
    assert LeaseFacts(owner="run", expires_at=NOW + ends_in_ms).is_live(NOW) is live
