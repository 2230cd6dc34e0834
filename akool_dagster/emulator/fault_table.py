"""The faults the emulator can be told to show: what each one does is a table."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from akool_dagster.emulator.answers import (
    Answer,
    access_denied,
    cut,
    envelope,
    gateway_error,
    redirection,
    storage_error,
    with_data,
)
from akool_dagster.emulator.fault_kinds import Endpoint, FaultKind, Options, WireEffect
from akool_dagster.emulator.jobs import EmulatedJob, JobStatus, Row

API = frozenset({Endpoint.RESULTS, Endpoint.TOKEN, Endpoint.CREDIT})
EVERYWHERE = API | {Endpoint.CDN}
_RESULTS = frozenset({Endpoint.RESULTS})
_CDN = frozenset({Endpoint.CDN})
_SIGNED = frozenset({Endpoint.RESULTS, Endpoint.CREDIT})

MOVED = "?moved"
"""Where the good redirect leads: the same file, from a place that shows no faults."""
LOOP = "?loop"
"""A place that redirects to itself."""

LONGEST_HOLD_SECONDS = 600.0
_RETRY_AFTER: Options = {"retry_after": None}


def _said(answer: Answer) -> Callable[[Options], Answer]:
    """Return what says the same whatever the options, but for a ``Retry-After`` when one is given."""

    def say(options: Options) -> Answer:
        retry_after = options.get("retry_after")
        return answer if retry_after is None else answer.with_headers({"Retry-After": str(retry_after)})

    return say


def _elsewhere(options: Options) -> Answer:
    return redirection(str(options["location"]))


def _poisoned(options: Options) -> Answer:
    http_status = int(options["http_status"] or 200)
    if http_status != 200:
        return gateway_error(http_status, "Internal Server Error")
    return envelope(int(options["code"] or 0), "Parameter error")


def _twice_and_stale(row: Row) -> Sequence[Row]:
    stale = {name: value for name, value in row.items() if name != "video_url"} | {"status": int(JobStatus.QUEUEING)}
    return row, row, stale


def _unasked(rows: Sequence[Row], others: Collection[str], chance: random.Random) -> Sequence[Row]:
    """Add failures of up to three jobs that exist and of one that does not: none of them is true."""
    strangers = chance.sample(sorted(others), min(3, len(others)))
    strangers.append(hashlib.sha256(repr(rows).encode()).hexdigest()[:24])
    failures = [{"_id": job_id, "status": int(JobStatus.FAILED)} for job_id in strangers]
    return [*failures[:1], *rows, *failures[1:]]


def _shuffled(rows: Sequence[Row], others: Collection[str], chance: random.Random) -> Sequence[Row]:
    shuffled = chance.sample(list(rows), len(rows))
    return shuffled if shuffled != rows else [*rows[1:], *rows[:1]]


def _as_texts(row: Row) -> Sequence[Row]:
    numbers = {
        name: str(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return (row | numbers,)


def _with_more_fields(row: Row) -> Sequence[Row]:
    return (row | {"render_tier": "gold", "stages": [{"name": "render", "seconds": 1.5}], "retries": None},)


def _without_video_url(row: Row) -> Sequence[Row]:
    return ({name: value for name, value in row.items() if name != "video_url"},)


def _fails(job: EmulatedJob) -> EmulatedJob:
    reason = job.failure_reason or "The video could not be generated, check your input resources."
    return replace(job, outcome="failed", queue_polls=0, processing_polls=0, failure_reason=reason)


def _of_half_the_length(job: EmulatedJob) -> EmulatedJob:
    return replace(job, video_duration=job.video_duration / 2)


def _throttled(name: str, summary: str, allowed: frozenset[Endpoint], answer: Answer) -> FaultKind:
    return FaultKind(
        name=name,
        summary=summary,
        allowed=allowed,
        default=API,
        passes_by_itself=True,
        options=_RETRY_AFTER,
        answer=_said(answer),
    )


def _answered(
    name: str,
    summary: str,
    endpoints: frozenset[Endpoint],
    answer: Answer,
    *,
    passes: bool = True,
    needs_job: bool = False,
) -> FaultKind:
    return FaultKind(
        name=name,
        summary=summary,
        allowed=endpoints,
        default=endpoints,
        passes_by_itself=passes,
        needs_job=needs_job,
        answer=_said(answer),
    )


def _on_the_wire(
    name: str, summary: str, effect: WireEffect, default: frozenset[Endpoint], *, passes: bool = True, **options: float
) -> FaultKind:
    return FaultKind(
        name=name,
        summary=summary,
        allowed=EVERYWHERE,
        default=default,
        passes_by_itself=passes,
        options=options,
        wire=effect,
    )


def _of_a_row(name: str, summary: str, row: Callable[[Row], Sequence[Row]], *, of_completed: bool = False) -> FaultKind:
    return FaultKind(
        name=name,
        summary=summary,
        allowed=_RESULTS,
        default=_RESULTS,
        passes_by_itself=True,
        of_completed=of_completed,
        row=row,
    )


def _redirected(name: str, summary: str, location: str, *, passes: bool) -> FaultKind:
    return FaultKind(
        name=name,
        summary=summary,
        allowed=_CDN,
        default=_CDN,
        passes_by_itself=passes,
        options={"location": location},
        answer=_elsewhere,
    )


_NO_KEY = storage_error(404, "NoSuchKey", "The specified key does not exist.")
_GONE = storage_error(410, "Gone", "The file is gone.")
_PAGE = gateway_error(200, "Please come back later")
_EXPIRED_TOKEN = envelope(1101, "Invalid authorization or the token has expired")
_NO_PERMISSION = envelope(1009, "You do not have permission for this content")

FAULT_KINDS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        # The connection.
        _on_the_wire("latency", "the answer comes late", WireEffect.DELAY, API, seconds=1.0, jitter=0.0),
        _on_the_wire("reset", "the connection is reset before any answer", WireEffect.RESET, API),
        _on_the_wire("reset_body", "the connection is reset in the middle of the body", WireEffect.RESET_BODY, API),
        _on_the_wire(
            "timeout",
            "there is no answer until the client leaves, or for so many seconds",
            WireEffect.HOLD,
            API,
            seconds=LONGEST_HOLD_SECONDS,
        ),
        _on_the_wire("short_body", "the body ends before its Content-Length", WireEffect.SHORT, _CDN),
        _on_the_wire(
            "short_body_unsized",
            "the body ends early, and no Content-Length tells",
            WireEffect.SHORT_UNSIZED,
            _CDN,
        ),
        _on_the_wire(
            "slow_drip",
            "the body comes byte by byte and does not end until the client leaves, or for so many seconds",
            WireEffect.DRIP,
            _CDN,
            seconds=100 * LONGEST_HOLD_SECONDS,
            every=1.0,
        ),
        _on_the_wire(
            "oversized",
            "the body has so many bytes, and no Content-Length tells",
            WireEffect.FLOOD,
            _CDN,
            passes=False,
            bytes=(2 << 30) + 1,
        ),
        # Refusals of a whole call.
        _throttled("429", "the call is throttled by the gateway", EVERYWHERE, gateway_error(429, "Too Many Requests")),
        _throttled("1005", "the call is throttled by Akool", API, envelope(1005, "Operation is too frequent")),
        _throttled("500", "the gateway answers HTML", EVERYWHERE, gateway_error(500, "Internal Server Error")),
        _throttled(
            "502",
            "the gateway finds nobody behind it and answers HTML",
            EVERYWHERE,
            gateway_error(502, "Bad Gateway"),
        ),
        _throttled("503", "the gateway is overloaded", EVERYWHERE, gateway_error(503, "Service Unavailable")),
        _answered("1015", "Akool has trouble with videos", API, envelope(1015, "Create video error, try later")),
        _answered("2001", "Akool has trouble", API, envelope(2001, "Server error")),
        _answered(
            "expired_token",
            "Akool answers 1101: an API key is refused, a token is to be renewed",
            _SIGNED,
            _EXPIRED_TOKEN,
            passes=False,
        ),
        _answered(
            "banned_account", "Akool answers 1200", API, envelope(1200, "The account has been banned"), passes=False
        ),
        FaultKind(
            name="poison_id",
            summary="the job's mere presence fails the whole call, with a code or with an HTTP error",
            allowed=_RESULTS,
            default=_RESULTS,
            passes_by_itself=False,
            options={"code": 1003, "http_status": 200},
            needs_job=True,
            answer=_poisoned,
        ),
        _answered(
            "foreign_id",
            "a call with the job in it is answered 1009, as if it were another account's",
            _RESULTS,
            _NO_PERMISSION,
            passes=False,
            needs_job=True,
        ),
        # Whole answers that are not right.
        FaultKind(
            name="cut_json",
            summary="the JSON ends in the middle, and HTTP says it is whole",
            allowed=API,
            default=API,
            passes_by_itself=True,
            change=cut,
        ),
        FaultKind(
            name="data_null",
            summary="the answer succeeds and its data is null",
            allowed=_SIGNED,
            default=_SIGNED,
            passes_by_itself=True,
            change=lambda answer: with_data(answer, None),
        ),
        FaultKind(
            name="empty_result",
            summary="the answer succeeds and has no rows",
            allowed=_RESULTS,
            default=_RESULTS,
            passes_by_itself=True,
            change=lambda answer: with_data(answer, {"result": []}),
        ),
        # Rows.
        FaultKind(
            name="unasked_rows",
            summary="rows of jobs that were not asked for, saying that they failed",
            allowed=_RESULTS,
            default=_RESULTS,
            passes_by_itself=True,
            rows=_unasked,
        ),
        FaultKind(
            name="shuffled_rows",
            summary="the rows come in another order",
            allowed=_RESULTS,
            default=_RESULTS,
            passes_by_itself=True,
            rows=_shuffled,
        ),
        _of_a_row("missing_row", "the row of an existing job is left out", lambda row: ()),
        _of_a_row("duplicate_rows", "the row comes twice, and once as it was while the job queued", _twice_and_stale),
        _of_a_row("numeric_strings", "the row's numbers are texts", _as_texts),
        _of_a_row("unknown_status", "the row's status is 99", lambda row: (row | {"status": 99},)),
        _of_a_row("unknown_fields", "the row has fields that nobody knows", _with_more_fields),
        _of_a_row("no_video_url", "a completed job has no video_url", _without_video_url, of_completed=True),
        FaultKind(
            name="failed_job",
            summary="the job fails at once, and stays failed",
            allowed=_RESULTS,
            default=_RESULTS,
            passes_by_itself=False,
            job=_fails,
        ),
        # Files.
        _answered("expired_url", "the file is refused as if its lifetime were over (403)", _CDN, access_denied()),
        _answered("404", "the file is not there", _CDN, _NO_KEY),
        _answered("410", "the file is gone", _CDN, _GONE),
        FaultKind(
            name="html_200",
            summary="an HTML page comes with HTTP 200",
            allowed=EVERYWHERE,
            default=_CDN,
            passes_by_itself=True,
            answer=_said(_PAGE),
        ),
        FaultKind(
            name="empty_body",
            summary="HTTP 200 comes with no bytes",
            allowed=EVERYWHERE,
            default=_CDN,
            passes_by_itself=True,
            answer=_said(Answer(media_type="video/mp4")),
        ),
        FaultKind(
            name="other_length",
            summary="a good video comes, of half the job's duration",
            allowed=_CDN,
            default=_CDN,
            passes_by_itself=False,
            video=_of_half_the_length,
        ),
        _redirected("redirect", "the file has moved to where the redirect says", MOVED, passes=True),
        _redirected("redirect_loop", "the redirect leads to itself", LOOP, passes=False),
        _redirected(
            "redirect_private",
            "the redirect leads into a private network",
            "https://169.254.169.254/latest/meta-data/",
            passes=False,
        ),
        _redirected("redirect_file", "the redirect leads to a local file", "file:///etc/passwd", passes=False),
    )
}
