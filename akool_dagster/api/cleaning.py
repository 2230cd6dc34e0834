"""Makes a raw row of Akool's safe to keep: storable texts, finite numbers, no secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from akool_dagster.base.redaction import redact_text, redact_webhook, redaction_for

_SURROGATES = re.compile("[\ud800-\udfff]")
_DEEPEST = 50
_Rule = Callable[[str], str]


def storable_text(text: str) -> str:
    """Return the text without what a database or file refuses."""
    # PostgreSQL refuses NUL, and a lone surrogate ("\ud800" is valid JSON) cannot be written as UTF-8.
    if "\0" in text:
        text = text.replace("\0", "")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def clean_row(row: Mapping[str, object]) -> dict[str, object]:
    """Return the row without secrets, and without what a database or a file refuses.

    A webhook keeps scheme and host, ``video_url`` stays as it is, every other text anywhere in the row loses the
    query and user-info of its URLs, an infinite number and NaN become text, and all other values are exactly as
    sent. Raises `ValueError` for a row that is nested deeper than 50 levels.
    """
    cleaned: dict[str, object] = {}
    for raw_key, value in row.items():
        key, rule = _field(raw_key)
        if type(value) is str:  # most values; written out, since this runs for every field of every poll
            if not value.isascii() or "\0" in value:
                value = storable_text(value)
            if (rule is not redact_text or "://" in value) and key != "video_url":
                value = rule(value)
            cleaned[key] = value
        elif value is None or type(value) is int:
            cleaned[key] = value
        else:
            cleaned[key] = _cleaned(value, rule, 0)
    return cleaned


@lru_cache(maxsize=256)  # the same two dozen names in every row
def _field(name: str) -> tuple[str, _Rule]:
    key = storable_text(name)
    return redact_text(key), redaction_for(key)


def _cleaned(value: object, rule: _Rule, depth: int) -> object:
    if isinstance(value, str):
        # Storable before redacted: a NUL inside "https://" would hide the URL and then vanish.
        text = value if value.isascii() and "\0" not in value else storable_text(value)
        return text if rule is redact_text and "://" not in text else rule(text)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):  # JSON has no infinities and no NaN
        return value if math.isfinite(value) else rule({math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN"))
    if depth >= _DEEPEST and isinstance(value, (dict, list, tuple)):
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    if isinstance(value, (list, tuple)):
        return [_cleaned(inner, rule, depth + 1) for inner in value]
    if isinstance(value, dict):
        cleaned: dict[str, object] = {}
        for name, inner in value.items():
            key, own_rule = _field(str(name))
            cleaned[key] = _cleaned(inner, rule if rule is redact_webhook else own_rule, depth + 1)
        return cleaned
    return value
