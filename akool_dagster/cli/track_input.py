"""Ids to track, as people have them: one a line, in CSV or in JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    blank = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    first = "".join(lines[blank : blank + 1]).strip()
    delimiter = next((one for one in DELIMITERS if not _columns(first, one).isdisjoint(ID_COLUMNS)), None)
    if format_ == "auto":
        is_json = first.startswith(("{", "["))
        if delimiter is None and not is_json and (problem := _unclear(lines, blank)):
            return [problem]
        is_json |= first.startswith('"') and delimiter is None
        format_ = "json" if is_json else "lines" if delimiter is None else "csv"
    if format_ == "json":
        return _json(lines, blank)
    if format_ == "csv":
        if delimiter is None:
            return [Problem(line=blank + 1, message=f"the first line, {first[:80]!r}, names no column _id.")]
        return _csv_rows(lines[blank:], blank, delimiter)
    return [(number, raw_id, None) for number, line in enumerate(lines, start=1) for raw_id in _words(line)]


def _words(line: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", line) if word]


def _columns(first: str, delimiter: str) -> set[str]:
    try:
        return {cell.strip() for cell in next(csv.reader([first], _Csv, delimiter=delimiter), [])}
    except csv.Error:  # such as one long line of ids
        return set()


def _unclear(lines: Sequence[str], blank: int) -> Problem | None:
    """Return the first line that makes the text look like a table without an id column."""
    for number, line in enumerate(lines, start=1):
        ids, shown = _words(line), repr(line.strip()[:80])
        from_akool = sum(OBJECT_ID_PATTERN.fullmatch(raw_id) is not None for raw_id in ids)
        if number == blank + 1 and not HEADER_NAMES.isdisjoint(re.split(r'[\s,;"]+', line.lower())):
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


def _json(lines: Sequence[str], lines_before: int) -> Iterator[_Entry | Problem]:
    """Read one JSON text over all lines or, where that is none, one a line."""
    whole = "".join(lines)
    try:
        json.loads(whole)
        texts = [(lines_before + 1, whole)]
    except (ValueError, RecursionError):
        texts = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
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


def _csv_rows(lines: Sequence[str], lines_before: int, delimiter: str) -> Iterator[_Entry | Problem]:
    reader = csv.reader(lines, _Csv, delimiter=delimiter)
    header = [cell.strip() for cell in next(reader)]
    column = next(name for name in ID_COLUMNS if name in header)
    while True:
        line = lines_before + reader.line_num + 1
        try:
            cells = next(reader, None)
            if cells is None:
                return
            row = dict(zip(header, cells, strict=False))
            raw_id, labels = row.get(column, ""), row.get("labels", "").strip()
            if raw_id.strip():
                yield line, raw_id, json.loads(labels) if labels else None
            elif any(cell.strip() for cell in cells):
                yield Problem(line=line, message=f"no id in column {column}")
        except csv.Error as error:
            yield Problem(line=line, message=f"not CSV, read up to line {lines_before + reader.line_num}: {error}")
        except (ValueError, RecursionError) as error:
            yield Problem(line=line, message=f"labels are not a JSON object: {error}")


def _labels(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("labels are not a JSON object")
    return {str(key): label if isinstance(label, str) else json.dumps(label) for key, label in value.items()}
