"""Akool's answer codes as data: what each means and how a caller reacts.

Source: the vendor's error-code page, its Image to Video pages and its head-swap page. Where those only name a
family of codes (faces, audio, avatars, ...), the meaning here names the family too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Reaction(Enum):
    """What a caller does about a code."""

    SUCCESS = "success"  # use the data, after validating it
    CONTENT = "content"  # an id of the call is the trouble: split the call, or give up on the one id
    THROTTLED = "throttled"  # too many calls: wait, then go on
    TRANSIENT = "transient"  # passes by itself: ask again. A create is NOT sent again, see invariant 6
    REAUTHENTICATE = "reauthenticate"  # get a new token once and repeat; with an API key as CREDENTIALS
    CREDENTIALS = "credentials"  # the key or the client id and secret are wrong: a person must fix them
    ACCOUNT = "account"  # the account is barred from everything: a person must settle it
    QUOTA = "quota"  # no credits: nothing can be created. A read answered so says nothing of its ids: as ACCOUNT
    JOB = "job"  # about one job or input of some tool; not expected when reading results
    UNKNOWN = "unknown"  # not in the table: a poll leaves every job pending


@dataclass(frozen=True)
class CodeFact:
    """One code of Akool's envelope."""

    code: int
    meaning: str
    reaction: Reaction


_TOOL_SPECIFIC = "a tool could not process its input (faces, audio, avatar, image, voice, lip-sync)"
_LIVE_AVATAR = "live avatar error"

_TABLE: tuple[tuple[int, str, Reaction], ...] = (
    (1000, "success", Reaction.SUCCESS),
    (1003, "parameter error, or not for this account", Reaction.CONTENT),
    (1004, "verification required", Reaction.ACCOUNT),
    (1005, "operation too frequent", Reaction.THROTTLED),
    (1006, "insufficient quota", Reaction.QUOTA),
    (1007, _TOOL_SPECIFIC, Reaction.JOB),
    (1008, "content does not exist", Reaction.CONTENT),
    (1009, "no permission for this content", Reaction.CONTENT),
    (1010, "content cannot be operated on", Reaction.JOB),
    (1011, "content has already been operated on", Reaction.JOB),
    (1013, _TOOL_SPECIFIC, Reaction.JOB),
    (1014, "resource does not exist", Reaction.CONTENT),
    (1015, "video processing error, try later", Reaction.TRANSIENT),
    (1016, _TOOL_SPECIFIC, Reaction.JOB),
    (1017, _TOOL_SPECIFIC, Reaction.JOB),
    (1101, "illegal or expired token", Reaction.REAUTHENTICATE),
    (1102, "authorization header empty", Reaction.CREDENTIALS),
    (1103, "account unpaid or overdue", Reaction.ACCOUNT),
    (1104, "insufficient credit balance", Reaction.QUOTA),
    (1105, _TOOL_SPECIFIC, Reaction.JOB),
    (1108, _TOOL_SPECIFIC, Reaction.JOB),
    (1109, "account does not exist", Reaction.CREDENTIALS),
    (1110, _TOOL_SPECIFIC, Reaction.JOB),
    (1111, _TOOL_SPECIFIC, Reaction.JOB),
    (1112, _TOOL_SPECIFIC, Reaction.JOB),
    (1200, "account banned", Reaction.ACCOUNT),
    (1201, _TOOL_SPECIFIC, Reaction.JOB),
    (1202, _TOOL_SPECIFIC, Reaction.JOB),
    (1203, _TOOL_SPECIFIC, Reaction.JOB),
    (1204, "duration of the input video out of range", Reaction.JOB),
    (1205, _TOOL_SPECIFIC, Reaction.JOB),
    (1206, _TOOL_SPECIFIC, Reaction.JOB),
    (1207, "size of the input video out of range", Reaction.JOB),
    (1208, "input video cannot be parsed", Reaction.JOB),
    (1209, "codec of the input video not supported", Reaction.JOB),
    (1210, "frame rate of the input video out of range", Reaction.JOB),
    (1211, _TOOL_SPECIFIC, Reaction.JOB),
    (1212, _TOOL_SPECIFIC, Reaction.JOB),
    (1213, "subscription needed", Reaction.ACCOUNT),
    (1214, _LIVE_AVATAR, Reaction.JOB),
    (1215, _LIVE_AVATAR, Reaction.JOB),
    (1216, _LIVE_AVATAR, Reaction.JOB),
    (1217, _LIVE_AVATAR, Reaction.JOB),
    (1218, _LIVE_AVATAR, Reaction.JOB),
    (1219, _LIVE_AVATAR, Reaction.JOB),
    (1220, _LIVE_AVATAR, Reaction.JOB),
    (1221, "account not subscribed", Reaction.ACCOUNT),
    (1222, "resource already exists", Reaction.JOB),
    (1223, _LIVE_AVATAR, Reaction.JOB),
    (2001, "server error", Reaction.TRANSIENT),
)

CODES: Mapping[int, CodeFact] = {row[0]: CodeFact(*row) for row in _TABLE}


def fact_for(code: int) -> CodeFact:
    """Return what is known about a code; of a code not in the table, that it is unknown."""
    return CODES.get(code) or CodeFact(code, "unknown code", Reaction.UNKNOWN)
