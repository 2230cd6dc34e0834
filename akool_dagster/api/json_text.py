"""JSON in and out, fast for what Akool sends and tolerant of what a JSON library refuses."""

from __future__ import annotations

import json

import msgspec

_LONGEST_INTEGER = 100
"""Digits. Python refuses to read more than some 4300, and one odd row would take the whole answer with it."""

_DECODER = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()


def decode_json(text: bytes | str) -> object:
    """Return the value. Raises `ValueError` or `RecursionError` for what is no JSON.

    Lone surrogates, infinities and NaN are accepted; integers of more than 100 digits come as text.
    """
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeError):
        return json.loads(text, parse_int=_integer)


def encode_json(value: object) -> str:
    """Return compact JSON. A lone surrogate stays as it is; a number that is not finite becomes null."""
    try:
        return _ENCODER.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits
