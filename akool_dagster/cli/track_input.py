"""Reads the ids to track, and their labels, from plain lists, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from akool_dagster.base.job_ids import OBJECT_ID_PATTERN
from akool_dagster.ledger.errors import InvalidJobError
from akool_dagster.ledger.records import TrackRequest, check_labels, normalise_job_id

FORMATS = ("auto", "lines", "csv", "json")
ID_COLUMNS = ("_id", "job_id", "id")
"""Names under which a CSV column or a JSON object may hold the id; the first that is there is taken."""
HEADER_NAMES = frozenset({*ID_COLUMNS, "jobid", "taskid", "task_id"})
"""Names, in small letters, that a first line of ids does not have: it is a table's."""
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A line that cannot be tracked, counted from 1."""

    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackInput:
    """What a text asks to track, and what of it cannot be."""

    requests: Sequence[TrackRequest]
    problems: Sequence[Problem]


_Entry = tuple[int, str, object]
"""A line's number, its id, and its labels as they were read."""


class _Csv(csv.excel):
    """Strict: else a quotation mark that is never closed would swallow the rest of the ids without a word."""

    skipinitialspace = True
    strict = True


def parse_track_input(text: str, labels: Mapping[str, str] | None = None, format_: str = "auto") -> TrackInput:
    """Read ids, and labels where the format has them, from a text in one of the `FORMATS`.

    ``lines``: ids separated by line ends, commas and blanks. ``csv``: the first line names an id column; a ``labels``
    column holds JSON text; cells are separated by commas, semicolons or tabs. ``json``: lines, or one array, of
    objects with ``_id`` and, if wanted, ``labels``, or of plain strings. ``auto`` goes by the first line, and refuses
    the whole text when that may be a table without an id column, since its cells would be taken for ids. ``labels``
    are added to every id; those in the text win.
    """
    # Not `splitlines`: it also splits at characters that may stand inside a label, such as U+2028.
    lines = list(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    requests: list[TrackRequest] = []
    problems: list[Problem] = []
    for entry in _entries(lines, format_):
        if isinstance(entry, Problem):
            problems.append(entry)
            continue
        line, raw_id, own_labels = entry
        try:
            job_id = normalise_job_id(raw_id)
            merged = {**(labels or {}), **_labels(own_labels)}
            check_labels(job_id, merged)
        except (InvalidJobError, ValueError) as error:
            problems.append(Problem(line=line, message=str(error)))
        else:
            requests.append(TrackRequest(job_id=job_id, labels=merged))
    return TrackInput(requests=requests, problems=problems)


def _entries(lines: Sequence[str], format_: str) -> Iterable[_Entry | Problem]:
    begin, first = next(((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()), (1, ""))
    delimiter = next((one for one in DELIMITERS if not _columns(first, one).isdisjoint(ID_COLUMNS)), None)
    if format_ == "auto":
        if delimiter is not None:
            format_ = "csv"
        elif first.startswith(("{", "[")):
            format_ = "json"
        elif problem := _unclear(lines, begin):
            return [problem]
        else:
            format_ = "json" if first.startswith('"') else "lines"
    if format_ == "json":
        return _json(lines, begin)
    if format_ == "lines":
        return [(number, raw_id, None) for number, line in enumerate(lines, start=1) for raw_id in _words(line)]
    if delimiter is None:
        return [Problem(line=begin, message=f"the first line, {first[:80]!r}, names no column _id.")]
    return _csv_rows(lines, delimiter)


def _words(line: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", line) if word]


def _columns(first: str, delimiter: str) -> set[str]:
    try:
        return {cell.strip() for cell in next(csv.reader([first], _Csv, delimiter=delimiter), [])}
    except csv.Error:  # such as one long line of ids
        return set()


def _unclear(lines: Sequence[str], begin: int) -> Problem | None:
    """Return the first line that makes the text look like a table without an id column."""
    for number, line in enumerate(lines, start=1):
        ids, shown = _words(line), repr(line.strip()[:80])
        from_akool = sum(OBJECT_ID_PATTERN.fullmatch(raw_id) is not None for raw_id in ids)
        if number == begin and not HEADER_NAMES.isdisjoint(re.split(r'[\s,;"]+', line.lower())):
            what = f"the first line, {shown}, is a header without a column _id"
        elif re.search(r"[;\t]", line.strip()) or 0 < from_akool < len(ids):
            what = f"{shown} is a row of a table, not ids only"
        else:
            continue
        return Problem(
            line=number,
            message=f"{what}. Expected one id a line, a table whose first line names a column _id, or JSON with a "
            "field _id; --format says which. No id was taken from here.",
        )
    return None


def _json(lines: Sequence[str], begin: int) -> Iterator[_Entry | Problem]:
    """Read one JSON text over all lines, or one JSON text a line."""
    whole = "".join(lines)
    texts = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    with suppress(ValueError, RecursionError):
        json.loads(whole)
        texts = [(begin, whole)]
    for number, text in texts:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Problem(line=number, message=f"not a line of JSON: {error}")
            continue
        for place, item in enumerate(value if isinstance(value, list) else [value], start=1):
            fields = item if isinstance(item, dict) else {"_id": item}
            raw_id = next((fields[name] for name in ID_COLUMNS if name in fields), None)
            if isinstance(raw_id, str):
                yield number, raw_id, fields.get("labels")
            else:
                yield Problem(line=number, message=f"item {place}: no text under {' or '.join(ID_COLUMNS)}")


def _csv_rows(lines: Sequence[str], delimiter: str) -> Iterator[_Entry | Problem]:
    reader = csv.reader(lines, _Csv, delimiter=delimiter)
    header = next([cell.strip() for cell in row] for row in reader if any(map(str.strip, row)))
    column = next(name for name in ID_COLUMNS if name in header)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(line=line, message=f"not CSV, read up to line {reader.line_num}: {error}")
            continue
        row = dict(zip(header, cells, strict=False))
        if row.get(column, "").strip():
            yield line, row[column], row.get("labels")
        elif any(map(str.strip, cells)):
            yield Problem(line=line, message=f"no id in column {column}")


def _labels(value: object) -> Mapping[str, str]:
    """Return labels as texts, given an object, or JSON text in a cell of CSV."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value.strip() or "null")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("labels are not a JSON object")
    return {str(key): label if isinstance(label, str) else json.dumps(label) for key, label in value.items()}
