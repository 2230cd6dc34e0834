"""Ids to track, as people have them: on the command line, one a line, in CSV or in JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from akool_dagster.ledger.errors import InvalidJobError
from akool_dagster.ledger.records import TrackRequest, check_labels, normalise_job_id

ID_COLUMNS = ("_id", "job_id", "id")
"""Names under which a CSV column or a JSON object may hold the id; the first that is there is taken."""


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


def parse_track_input(text: str, labels: Mapping[str, str] | None = None) -> TrackInput:
    """Read ids, and labels where the format has them, from a text.

    The first line decides the format: JSON lines (objects with ``_id`` and, if wanted, ``labels``, or plain strings),
    CSV with a header that names an id column (a ``labels`` column holds JSON text), or ids separated by line ends,
    commas and blanks. ``labels`` are added to every id; those in the text win.
    """
    lines = text.removeprefix("\ufeff").splitlines()
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
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith(("{", '"', "[")):
        return _json_lines(lines)
    header = [cell.strip() for cell in next(csv.reader([first]), [])]
    if any(name in header for name in ID_COLUMNS):
        return _csv_rows(lines)
    return _plain_lines(lines)


def _plain_lines(lines: Sequence[str]) -> Iterator[_Entry]:
    for number, line in enumerate(lines, start=1):
        for raw_id in re.split(r"[\s,;]+", line):
            if raw_id:
                yield number, raw_id, {}


def _json_lines(lines: Sequence[str]) -> Iterator[_Entry | Problem]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            for item in value if isinstance(value, list) else [value]:
                yield number, *_json_entry(item)
        except (ValueError, _BadLineError) as error:
            yield Problem(line=number, message=f"not a line of JSON with an id: {error}")


def _json_entry(item: object) -> tuple[str, Mapping[str, str]]:
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, dict):
        raise _BadLineError("expected an object or a string")
    raw_id = next((item[name] for name in ID_COLUMNS if name in item), None)
    if not isinstance(raw_id, str):
        raise _BadLineError(f"no text under {' or '.join(ID_COLUMNS)}")
    return raw_id, _labels(item.get("labels"))


def _csv_rows(lines: Sequence[str]) -> Iterator[_Entry | Problem]:
    reader = csv.DictReader(lines, skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    column = next(name for name in ID_COLUMNS if name in reader.fieldnames)
    for row in reader:
        raw_id = row[column]
        if not raw_id or not raw_id.strip():
            if any(isinstance(value, str) and value.strip() for value in row.values()):
                yield Problem(line=reader.line_num, message=f"no id in column {column}")
            continue
        try:
            text = row.get("labels") or ""
            yield reader.line_num, raw_id, _labels(json.loads(text) if text.strip() else None)
        except (ValueError, _BadLineError) as error:
            yield Problem(line=reader.line_num, message=f"labels are not a JSON object: {error}")


def _labels(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _BadLineError("labels must be an object of strings")
    return {str(key): label if isinstance(label, str) else json.dumps(label) for key, label in value.items()}
