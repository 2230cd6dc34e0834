"""The table of faults: what each one is called, where it may happen, which options it takes, and what it does.

To add a fault, add a row to `FAULT_KINDS`, and an expectation to each test that asks for one by name.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from akool_dagster.emulator import wire
from akool_dagster.emulator.answers import (
    Answer,
    access_denied,
    cut,
    envelope,
    gateway_error,
    redirection,
    storage_error,
    without_data,
)
from akool_dagster.emulator.jobs import EmulatedJob, JobStatus, Row
from akool_dagster.emulator.wire import Effect


class Endpoint(StrEnum):
    """The places a request can go to, named after the end of Akool's paths."""

    RESULTS = "resultsByIds"
    TOKEN = "getToken"  # noqa: S105 - an endpoint's name
    CREDIT = "quota/info"
    CDN = "cdn"


OptionValue = float | str
Options = Mapping[str, OptionValue | None]

_HEADER_TEXT = TypeAdapter[Any](
    Annotated[str, Field(pattern="^[ -~]+$")], config=ConfigDict(coerce_numbers_to_str=True)
)
_SECONDS = TypeAdapter[Any](Annotated[float, Field(ge=0, allow_inf_nan=False)])
OPTION_TYPES: Mapping[str, TypeAdapter[Any]] = {
    "retry_after": _HEADER_TEXT,  # sent as given: seconds, or an HTTP date
    "location": _HEADER_TEXT,  # where a redirect leads
    "seconds": _SECONDS,  # how late, or how long at most
    "jitter": _SECONDS,  # seconds more or less, drawn for each call
    "every": TypeAdapter(Annotated[float, Field(ge=0.001, allow_inf_nan=False)]),  # seconds between two bytes
    "bytes": TypeAdapter(Annotated[int, Field(ge=1, le=1 << 50)]),
    "code": TypeAdapter(Annotated[int, Field(ge=0, le=999_999_999)]),
    "http_status": TypeAdapter(Annotated[int, Field(ge=200, le=599)]),
}
"""How each option is read, from a number or from its text."""


@dataclass(frozen=True)
class FaultKind:
    """What a fault does: exactly one of the last seven fields says it.

    ``answer`` is sent in place of the real one, ``change`` turns the real one into another, ``wire`` is what happens
    on the connection. Of ``resultsByIds``, ``rows`` turns all rows into others (it is given the ids that were not
    asked for, and chance), ``row`` turns one row into the rows to send for it, and ``job`` changes the job itself, for
    good. ``video`` is the job whose file the CDN serves instead.
    """

    name: str
    summary: str
    default: frozenset[Endpoint]
    """Where it happens unless an endpoint is given."""
    also: frozenset[Endpoint] = frozenset()
    """Where it happens only when that endpoint is given."""
    _: KW_ONLY
    passes_by_itself: bool = True
    """Whether asking again later is enough. If not, the job or its file is spoilt for good, or the user must act."""
    options: Options = field(default_factory=dict)
    """The options it takes, with what they are unless given."""
    needs_job: bool = False
    """Whether it makes sense for one job only."""
    of_completed: bool = False
    """Whether it happens only to rows of completed jobs."""
    answer: Answer | Callable[[Options], Answer] | None = None
    change: Callable[[Answer], Answer] | None = None
    wire: Effect | None = None
    rows: Callable[[Sequence[Row], Collection[str], random.Random], Sequence[Row]] | None = None
    row: Callable[[Row], Sequence[Row]] | None = None
    job: Callable[[EmulatedJob], EmulatedJob] | None = None
    video: Callable[[EmulatedJob], EmulatedJob] | None = None

    @property
    def allowed(self) -> frozenset[Endpoint]:
        """Every endpoint it may happen at."""
        return self.default | self.also

    @property
    def is_of_one_job(self) -> bool:
        """Whether it happens to one job of a call, and not to the call."""
        return self.row is not None or self.job is not None

    @property
    def goes_unanswered(self) -> bool:
        """Whether not even a status line is sent, so that the call reaches no job."""
        return self.wire in (wire.reset, wire.hold)

    def read_options(self, given: Mapping[str, object]) -> Options:
        """Return all options: those given, as their types, and the defaults of the others.

        Raises ``ValueError`` for an option the kind does not have, and for a value it cannot have.
        """
        read = dict(self.options)
        for name, value in given.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none of its own"
                raise ValueError(f"The fault {self.name!r} has no option {name!r}; it has {known}.")
            if value is not None:
                try:
                    read[name] = OPTION_TYPES[name].validate_python(value)
                except ValidationError as error:
                    problem = error.errors()[0]["msg"]
                    raise ValueError(f"The option {name!r} of {self.name!r} cannot be {value!r}: {problem}.") from None
        return read


def _elsewhere(options: Options) -> Answer:
    return redirection(str(options["location"]))


def _poisoned(options: Options) -> Answer:
    http_status = int(options["http_status"] or 200)
    if http_status != 200:
        return gateway_error(http_status, "Internal Server Error")
    return envelope(int(options["code"] or 0), "Parameter error")


def _unasked(rows: Sequence[Row], others: Collection[str], chance: random.Random) -> Sequence[Row]:
    """Add failures of up to three jobs that exist and of one that does not: none of them is true."""
    strangers = chance.sample(sorted(others), min(3, len(others)))
    strangers.append(hashlib.sha256(repr(rows).encode()).hexdigest()[:24])
    failures = [{"_id": job_id, "status": int(JobStatus.FAILED)} for job_id in strangers]
    return [*failures[:1], *rows, *failures[1:]]


def _shuffled(rows: Sequence[Row], others: Collection[str], chance: random.Random) -> Sequence[Row]:
    shuffled = chance.sample(list(rows), len(rows))
    return shuffled if shuffled != rows else [*rows[1:], *rows[:1]]


def _without_video_url(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "video_url"}


def _with_texts_for_numbers(row: Row) -> Row:
    return {name: str(value) if type(value) in (int, float) else value for name, value in row.items()}


def _fails(job: EmulatedJob) -> EmulatedJob:
    reason = job.failure_reason or "The video could not be generated, check your input resources."
    return replace(job, outcome="failed", queue_polls=0, processing_polls=0, failure_reason=reason)


_API = frozenset({Endpoint.RESULTS, Endpoint.TOKEN, Endpoint.CREDIT})
_CDN = frozenset({Endpoint.CDN})
_RESULTS = frozenset({Endpoint.RESULTS})
_SIGNED = frozenset({Endpoint.RESULTS, Endpoint.CREDIT})
_RETRY_AFTER: Options = {"retry_after": None}
_ODD_FIELDS: Row = {"render_tier": "gold", "stages": [{"name": "render", "seconds": 1.5}], "retries": None}
_METADATA_SERVICE = "https://169.254.169.254/latest/meta-data/"

MOVED = "?moved"
"""Where the good redirect leads: the same file, from a place that shows no faults."""
LOOP = "?loop"
"""A place that redirects to itself."""

FAULT_KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        # The connection.
        FaultKind(
            "latency", "the answer comes late", _API, _CDN, options={"seconds": 1.0, "jitter": 0.0}, wire=wire.delay
        ),
        FaultKind("reset", "the connection is reset before any answer", _API, _CDN, wire=wire.reset),
        FaultKind("reset_body", "the connection is reset in the middle of the body", _API, _CDN, wire=wire.reset_body),
        FaultKind(
            "timeout",
            "there is no answer until the client leaves, or for so many seconds",
            _API,
            _CDN,
            options={"seconds": 600.0},
            wire=wire.hold,
        ),
        FaultKind("short_body", "the body ends before its Content-Length", _CDN, _API, wire=wire.shorten),
        FaultKind(
            "short_body_unsized",
            "the body ends early, and no Content-Length tells",
            _CDN,
            _API,
            wire=wire.shorten_unsized,
        ),
        FaultKind(
            "slow_drip",
            "the body comes byte by byte and does not end until the client leaves, or for so many seconds",
            _CDN,
            _API,
            options={"seconds": 60_000.0, "every": 1.0},
            wire=wire.drip,
        ),
        FaultKind(
            "oversized",
            "the body has so many bytes, and no Content-Length tells",
            _CDN,
            _API,
            passes_by_itself=False,
            options={"bytes": (2 << 30) + 1},
            wire=wire.flood,
        ),
        # Refusals of a whole call.
        FaultKind(
            "429",
            "the call is throttled by the gateway",
            _API,
            _CDN,
            options=_RETRY_AFTER,
            answer=gateway_error(429, "Too Many Requests"),
        ),
        FaultKind(
            "1005",
            "the call is throttled by Akool",
            _API,
            options=_RETRY_AFTER,
            answer=envelope(1005, "Operation is too frequent"),
        ),
        FaultKind(
            "500",
            "the gateway answers HTML",
            _API,
            _CDN,
            options=_RETRY_AFTER,
            answer=gateway_error(500, "Internal Server Error"),
        ),
        FaultKind(
            "502",
            "the gateway finds nobody behind it and answers HTML",
            _API,
            _CDN,
            options=_RETRY_AFTER,
            answer=gateway_error(502, "Bad Gateway"),
        ),
        FaultKind(
            "503",
            "the gateway is overloaded",
            _API,
            _CDN,
            options=_RETRY_AFTER,
            answer=gateway_error(503, "Service Unavailable"),
        ),
        FaultKind(
            "1015", "Akool has trouble with videos", _API, answer=envelope(1015, "Create video error, try later")
        ),
        FaultKind("2001", "Akool has trouble", _API, answer=envelope(2001, "Server error")),
        FaultKind(
            "expired_token",
            "Akool answers 1101: an API key is refused, a token is to be renewed",
            _SIGNED,
            passes_by_itself=False,
            answer=envelope(1101, "Invalid authorization or the token has expired"),
        ),
        FaultKind(
            "banned_account",
            "Akool answers 1200",
            _API,
            passes_by_itself=False,
            answer=envelope(1200, "The account has been banned"),
        ),
        FaultKind(
            "poison_id",
            "the job's mere presence fails the whole call, with a code or with an HTTP error",
            _RESULTS,
            passes_by_itself=False,
            options={"code": 1003, "http_status": 200},
            needs_job=True,
            answer=_poisoned,
        ),
        FaultKind(
            "foreign_id",
            "a call with the job in it is answered 1009, as if it were another account's",
            _RESULTS,
            passes_by_itself=False,
            needs_job=True,
            answer=envelope(1009, "You do not have permission for this content"),
        ),
        # Whole answers that are not right.
        FaultKind("cut_json", "the JSON ends in the middle, and HTTP says it is whole", _API, change=cut),
        FaultKind("data_null", "the answer succeeds and its data is null", _SIGNED, change=without_data),
        # Rows.
        FaultKind(
            "empty_result",
            "the answer succeeds and has no rows",
            _RESULTS,
            rows=lambda rows, others, chance: (),
        ),
        FaultKind(
            "unasked_rows", "rows of jobs that were not asked for, saying that they failed", _RESULTS, rows=_unasked
        ),
        FaultKind("shuffled_rows", "the rows come in another order", _RESULTS, rows=_shuffled),
        FaultKind("missing_row", "the row of an existing job is left out", _RESULTS, row=lambda row: ()),
        FaultKind(
            "duplicate_rows",
            "the row comes twice, and once as it was while the job queued",
            _RESULTS,
            row=lambda row: (row, row, _without_video_url(row) | {"status": int(JobStatus.QUEUEING)}),
        ),
        FaultKind(
            "numeric_strings", "the row's numbers are texts", _RESULTS, row=lambda row: (_with_texts_for_numbers(row),)
        ),
        FaultKind("unknown_status", "the row's status is 99", _RESULTS, row=lambda row: (row | {"status": 99},)),
        FaultKind(
            "unknown_fields", "the row has fields that nobody knows", _RESULTS, row=lambda row: (row | _ODD_FIELDS,)
        ),
        FaultKind(
            "no_video_url",
            "a completed job has no video_url",
            _RESULTS,
            of_completed=True,
            row=lambda row: (_without_video_url(row),),
        ),
        FaultKind(
            "failed_job", "the job fails at once, and stays failed", _RESULTS, passes_by_itself=False, job=_fails
        ),
        # Files.
        FaultKind(
            "expired_url", "the file is refused as if its lifetime were over (403)", _CDN, answer=access_denied()
        ),
        FaultKind(
            "404",
            "the file is not there",
            _CDN,
            answer=storage_error(404, "NoSuchKey", "The specified key does not exist."),
        ),
        FaultKind("410", "the file is gone", _CDN, answer=storage_error(410, "Gone", "The file is gone.")),
        FaultKind(
            "html_200",
            "an HTML page comes with HTTP 200",
            _CDN,
            _API,
            answer=gateway_error(200, "Please come back later"),
        ),
        FaultKind("empty_body", "HTTP 200 comes with no bytes", _CDN, _API, answer=Answer(media_type="video/mp4")),
        FaultKind(
            "other_length",
            "a good video comes, of half the job's duration",
            _CDN,
            passes_by_itself=False,
            video=lambda job: replace(job, video_duration=job.video_duration / 2),
        ),
        FaultKind(
            "redirect",
            "the file has moved to where the redirect says",
            _CDN,
            options={"location": MOVED},
            answer=_elsewhere,
        ),
        FaultKind(
            "redirect_loop",
            "the redirect leads to itself",
            _CDN,
            passes_by_itself=False,
            options={"location": LOOP},
            answer=_elsewhere,
        ),
        FaultKind(
            "redirect_private",
            "the redirect leads into a private network",
            _CDN,
            passes_by_itself=False,
            options={"location": _METADATA_SERVICE},
            answer=_elsewhere,
        ),
        FaultKind(
            "redirect_file",
            "the redirect leads to a local file",
            _CDN,
            passes_by_itself=False,
            options={"location": "file:///etc/passwd"},
            answer=_elsewhere,
        ),
    )
}
