"""Ids to track, as people have them: on the command line, one a line, in CSV or in JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from akool_dagster.job_ids import OBJECT_ID_PATTERN
from akool_dagster.ledger.errors import InvalidJobError
from akool_dagster.ledger.records import TrackRequest, check_labels, normalise_job_id

ID_COLUMNS = ("_id", "job_id", "id")
"""Names under which a CSV column or a JSON object may hold the id; the first that is there is taken."""
HEADER_NAMES = frozenset({*ID_COLUMNS, "jobid", "taskid", "task_id"})
"""Names, in small letters, that no id has: who finds one in the first line has a table before him."""
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


_Entry = tuple[int, str, Mapping[str, str]]


class _BadLineError(Exception):
    """A line that is not what its file's format says."""


class _Csv(csv.excel):
    """Strict: else a quotation mark that is never closed would swallow the rest of the ids without a word."""

    skipinitialspace = True
    strict = True


def parse_track_input(text: str, labels: Mapping[str, str] | None = None) -> TrackInput:
    """Read ids, and labels where the format has them, from a text.

    The first line decides the format: JSON lines (objects with ``_id`` and, if wanted, ``labels``, or plain strings),
    CSV with a header that names an id column (a ``labels`` column holds JSON text; cells are separated by commas,
    semicolons or tabs), or ids separated by line ends, commas and blanks. One JSON array over many lines, as
    ``akool-dagster jobs --json`` prints it, is read too. A table without such a header is refused whole, for its cells
    would be taken for ids. ``labels`` are added to every id; those in the text win.
    """
    # Not `splitlines`: it also splits at characters that may stand inside a label, such as U+2028.
    lines = list(io.StringIO(text.removeprefix("\ufeff"), newline=None))
    requests: list[TrackRequest] = []
    problems: list[Problem] = []
    for entry in _entries(lines):
        if isinstance(entry, Problem):
            problems.append(entry)
            continue
        line, raw_id, own_labels = entry
        try:
            job_id = normalise_job_id(raw_id)
            merged = {**(labels or {}), **own_labels}
            check_labels(job_id, merged)
        except InvalidJobError as error:
            problems.append(Problem(line=line, message=str(error)))
        else:
            requests.append(TrackRequest(job_id=job_id, labels=merged))
    return TrackInput(requests=requests, problems=problems)


def _entries(lines: Sequence[str]) -> Iterable[_Entry | Problem]:
    blank = next((number for number, line in enumerate(lines) if line.strip()), 0)
    first = lines[blank].strip() if lines else ""
    if first.startswith(("{", "[")):
        return _json(lines, blank)
    for delimiter in DELIMITERS:
        if any(name in _header(lines[blank:], delimiter) for name in ID_COLUMNS):
            return _csv_rows(lines[blank:], blank, delimiter)
    if not HEADER_NAMES.isdisjoint(re.split(r'[\s,;"]+', first.lower())):
        return [_table(blank + 1, f"the first line, {first[:80]!r}, is a header without a column _id")]
    return _json(lines, blank) if first.startswith('"') else _plain_lines(lines)


def _header(lines: Sequence[str], delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader(lines, _Csv, delimiter=delimiter), [])]
    except csv.Error:  # such as one long line of ids
        return []


def _table(line: int, what: str) -> Problem:
    return Problem(
        line=line,
        message=f"{what}. Expected one id a line, a table whose first line names a column _id, or JSON with a field "
        "_id. No id was taken from here.",
    )


def _plain_lines(lines: Sequence[str]) -> list[_Entry | Problem]:
    entries: list[_Entry | Problem] = []
    for number, line in enumerate(lines, start=1):
        ids = [raw_id for raw_id in re.split(r"[\s,]+", line) if raw_id]
        from_akool = sum(OBJECT_ID_PATTERN.fullmatch(raw_id) is not None for raw_id in ids)
        if re.search(r"[;\t]", line.strip()) or 0 < from_akool < len(ids):
            return [_table(number, f"{line.strip()[:80]!r} is a row of a table, not ids only")]
        entries += [(number, raw_id, {}) for raw_id in ids]
    return entries


def _json(lines: Sequence[str], lines_before: int) -> Iterator[_Entry | Problem]:
    whole = "".join(lines)
    try:
        json.loads(whole)
    except (ValueError, RecursionError):
        return _json_lines(lines)
    return _json_lines([whole], lines_before)


def _json_lines(lines: Sequence[str], lines_before: int = 0) -> Iterator[_Entry | Problem]:
    for number, line in enumerate(lines, start=lines_before + 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Problem(line=number, message=f"not a line of JSON: {error}")
            continue
        for place, item in enumerate(value if isinstance(value, list) else [value], start=1):
            try:
                yield number, *_json_entry(item)
            except _BadLineError as error:
                yield Problem(line=number, message=f"no id in JSON, item {place}: {error}")


def _json_entry(item: object) -> tuple[str, Mapping[str, str]]:
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, dict):
        raise _BadLineError("expected an object or a string")
    raw_id = next((item[name] for name in ID_COLUMNS if name in item), None)
    if not isinstance(raw_id, str):
        raise _BadLineError(f"no text under {' or '.join(ID_COLUMNS)}")
    return raw_id, _labels(item.get("labels"))


def _csv_rows(lines: Sequence[str], lines_before: int, delimiter: str) -> Iterator[_Entry | Problem]:
    reader = csv.reader(lines, _Csv, delimiter=delimiter)
    header = [cell.strip() for cell in next(reader)]
    column = next(name for name in ID_COLUMNS if name in header)
    while True:
        line = lines_before + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Problem(line=line, message=f"not CSV, read up to line {lines_before + reader.line_num}: {error}")
            continue
        if cells is None:
            return
        row = dict(zip(header, cells, strict=False))
        raw_id, labels = row.get(column, ""), row.get("labels", "")
        if not raw_id.strip():
            if any(cell.strip() for cell in cells):
                yield Problem(line=line, message=f"no id in column {column}")
            continue
        try:
            yield line, raw_id, _labels(json.loads(labels) if labels.strip() else None)
        except (ValueError, RecursionError, _BadLineError) as error:
            yield Problem(line=line, message=f"labels are not a JSON object: {error}")


def _labels(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _BadLineError("labels must be an object of strings")
    return {str(key): label if isinstance(label, str) else json.dumps(label) for key, label in value.items()}
