"""Reads single values of Akool's JSON: leniently when the meaning is plain, else with a ValueError."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

INT64_MAX = 2**63 - 1
FIRST_MOMENT = 946_684_800_000
LAST_MOMENT = 253_402_300_799_999
"""The first millisecond of the year 2000 and the last of 9999."""

_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,30}(?:\.0*)?")
_NUMBER_TEXT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SURROGATES = re.compile("[\ud800-\udfff]")
_DEEPEST = 50


def read_integer(value: object) -> int | None:
    """Return a 64-bit integer, also from 3.0, "3" and "3.0"; a blank text is None."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if not _INTEGER_TEXT.fullmatch(text):
            raise ValueError("not an integer")
        value = int(text.partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise ValueError("not a 64-bit integer")
    return value


def read_moment(value: object) -> int | None:
    """Return milliseconds since the Unix epoch: a moment from the year 2000 to 9999, which every reader can show.

    Seconds in the place of milliseconds would be a moment in January 1970.
    """
    moment = read_integer(value)
    if moment is not None and not FIRST_MOMENT <= moment <= LAST_MOMENT:
        raise ValueError("not a moment in milliseconds")
    return moment


def read_number(value: object) -> float | None:
    """Return a finite number, also from a text; a blank text is None."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if not _NUMBER_TEXT.fullmatch(text):
            raise ValueError("not a number")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def read_text(value: object) -> str:
    """Return a text, also from a number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a text")
    return str(value)


def read_truth(value: object) -> bool | None:
    """Return true or false, also from 1, 0 and their texts; a blank text is None."""
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False, "": None}.get(value.strip().lower(), value)
        if value is None:
            return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise ValueError("not true or false")


def read_exact_text(value: object) -> str:
    """Return a text, from nothing else."""
    if isinstance(value, str):
        return value
    raise ValueError("not a text")


def storable_text(text: str) -> str:
    """Return the text without what a database or file refuses."""
    # PostgreSQL refuses NUL, and a lone surrogate ("\ud800" is valid JSON) cannot be written as UTF-8.
    if "\0" in text:
        text = text.replace("\0", "")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def storable(value: object, depth: int = 0) -> object:
    """Return a JSON value with every text in it storable and every number finite or a text."""
    if isinstance(value, str):
        return storable_text(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):  # JSON has no infinities and no NaN
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Mapping | list | tuple):
        if depth >= _DEEPEST:
            raise ValueError(f"nested deeper than {_DEEPEST} levels")
        if isinstance(value, Mapping):
            return {storable_text(str(key)): storable(inner, depth + 1) for key, inner in value.items()}
        return [storable(inner, depth + 1) for inner in value]
    return value
