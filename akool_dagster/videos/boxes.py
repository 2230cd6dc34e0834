"""Read the boxes of an MP4 file: whether all are there, and what kind of index the file has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from akool_dagster.videos.errors import UnplayableVideoError

MATROSKA = b"\x1a\x45\xdf\xa3"

BOXES = frozenset(b"ftyp styp moov moof mdat mfra sidx ssix free skip wide pnot pdin meta udta uuid emsg prft".split())
"""Boxes that a movie consists of. A file that ends within one of them was cut; other bytes after a movie are junk."""


class Index(Enum):
    """What a file says about the packets that it should have."""

    WHOLE = "one index of all packets"
    FRAGMENTS = "an index in each fragment, of that fragment's packets"
    CLUSTERS = "Matroska and WebM: no index of all packets"


@dataclass(frozen=True)
class _Box:
    kind: bytes
    start: int
    """Of the content, in bytes from the beginning of the file."""
    end: int
    is_whole: bool


def read_index_kind(path: Path) -> Index:
    """Return what kind of index a file has. Only the heads of boxes are read.

    Raises `UnplayableVideoError` for an MP4 that was cut, which libav forgives after the index, and for a file
    that has no index, such as a picture; `OSError` for a file that cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) == MATROSKA:
            return Index.CLUSTERS
        movie, end = None, 0
        for box in _boxes(file, 0, size):
            if not box.is_whole and box.kind in BOXES:
                raise _cut()
            if box.kind == b"moov":
                movie = box
            end = box.end
        if movie is None:
            raise UnplayableVideoError("The file is not a playable video, or it is cut short: it has no index.")
        if all(box.kind != b"mvex" for box in _boxes(file, movie.start, movie.end)):
            return Index.WHOLE
    if end < size:  # within the head of the next fragment
        raise _cut()
    return Index.FRAGMENTS


def _boxes(file: BinaryIO, start: int, size: int) -> Iterator[_Box]:
    """Yield the boxes between two places. The last may not be whole; fewer than 8 bytes are no box."""
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, content = int.from_bytes(head[:4], "big"), start + 8
        if length == 1:
            length, content = int.from_bytes(head[8:16], "big"), start + 16
        end = start + length if length else size  # without a length the box reaches to the end, whatever that is
        is_whole = content <= end <= size
        yield _Box(head[4:8], content, end if is_whole else size, is_whole)
        if not is_whole:
            return
        start = end


def _cut() -> UnplayableVideoError:
    return UnplayableVideoError("The video is cut short or damaged: its last part is not whole.")
