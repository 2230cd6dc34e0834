"""What an id of a job looks like: one rule for what is tracked, asked for and matched."""

from __future__ import annotations

import re

JOB_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
OBJECT_ID_PATTERN = re.compile(r"[0-9a-fA-F]{24}")
"""The ids that Akool makes: the first 8 digits are the creation second."""


def normalise_id(text: str) -> str:
    """Return the id without surrounding blanks; 24 hex digits are lower-cased, as ObjectIds are written."""
    text = text.strip()
    return text.lower() if OBJECT_ID_PATTERN.fullmatch(text) else text
