"""Secrets are taken out of the rows that Akool sends."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.api.cleaning import clean_row
from tests.unit.base.test_redaction import SECRET, SECRET_URL

JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | SECRET_URL | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "field",
    ["webhookUrl", "webhook_url", "WEBHOOKURL", "webhook-url", "webhook", "webhookUri", "callbackUrl", "notify_url"],
)
def test_a_webhook_is_known_by_its_name_wherever_it_is(field: str) -> None:
    row = {"outer": [{field: f"https://hooks.example/{SECRET}"}]}
    assert clean_row(row) == {"outer": [{field: "https://hooks.example"}]}


@pytest.mark.parametrize("field", ["webhook_status", "callback", "notify", "notified", "effect_code"])
def test_what_only_sounds_like_a_webhook_is_left_alone(field: str) -> None:
    assert clean_row({field: "sent"}) == {field: "sent"}


def test_a_row_loses_its_secrets_and_nothing_else() -> None:
    row = {
        "_id": "68919a464b4dbdd4ab3d3034",
        "status": 3,
        "video_url": "https://cdn.example/v.mp4?Expires=1&Signature=needed",
        "webhookUrl": "https://hooks.example/S3CR3T?S3CR3T",
        "image_url": "https://bucket.example/my cat.png?X-Amz-Signature=S3CR3T",
        "prompt": "like https://x.example/a.png?sig=S3CR3T but warmer?",
        "history": [{"webhook_url": "https://hooks.example/S3CR3T", "urls": ["https://u:S3CR3T@x.example/a b?S3CR3T"]}],
        "nested": {"video_url": "https://cdn.example/v.mp4?S3CR3T", "webhookurl": {"url": "https://h.example/S3CR3T"}},
        "ratio": 1.5,
        "gone": None,
        "flag": True,
    }
    cleaned = clean_row(row)
    assert SECRET not in json.dumps(cleaned)
    assert cleaned == row | {
        "webhookUrl": "https://hooks.example",
        "image_url": "https://bucket.example/my cat.png",
        "prompt": "like https://x.example/a.png but warmer?",
        "history": [{"webhook_url": "https://hooks.example", "urls": ["https://x.example/a b"]}],
        "nested": {"video_url": "https://cdn.example/v.mp4", "webhookurl": {"url": "https://h.example"}},
    }


@given(st.dictionaries(st.sampled_from(["image_url", "prompt", "webhookUrl", "x"]) | SECRET_URL, JSON_VALUE))
def test_no_secret_survives_anywhere_in_a_row(row: dict[str, object]) -> None:
    cleaned = clean_row(row)
    assert SECRET not in json.dumps(cleaned)
    assert clean_row(cleaned) == cleaned


@given(SECRET_URL)
def test_the_video_url_is_untouched_because_it_is_needed_whole(url: str) -> None:
    assert clean_row({"video_url": url}) == {"video_url": url}
