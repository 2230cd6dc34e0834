"""Marked secrets, and a search for them through everything that was written or said."""

from __future__ import annotations

import base64
import json
import pickle
import sqlite3
import traceback
import zlib
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq


def mark(name: str) -> str:
    """Return a secret that nothing but itself looks like, without a character that some encoding would change."""
    return f"marked{name}{zlib.crc32(name.encode()):08x}secret"


WEBHOOK, PRESIGNED, NESTED = mark("webhook"), mark("presigned"), mark("nested")
USER_INFO, REASON = mark("userinfo"), mark("reason")
SECRETS_IN_ROWS = (WEBHOOK, PRESIGNED, NESTED, USER_INFO, REASON)


def leaky_fields(remark: str) -> dict[str, object]:
    """Return fields of one of Akool's rows that are full of other people's secrets; the remark is kept as it is."""
    return {
        "webhookUrl": f"https://user:{USER_INFO}@hooks.example/{WEBHOOK}?token={WEBHOOK}",
        "image_url": f"https://bucket.example/my cat.png?X-Amz-Signature={PRESIGNED}",
        "audio_url": f"s3://key:{USER_INFO}@bucket/a.mp3#{PRESIGNED}",
        "prompt": f"as in https://bucket.example/b.png?sig={PRESIGNED}, but {remark}",
        "uid": f"https://misfit.example/?{PRESIGNED}",
        "debug": {
            "webhook_url": f"https://hooks.example/{WEBHOOK}",
            "webhook": f"https://hooks.example/{WEBHOOK}",
            "callbackUrl": f"https://hooks.example/{WEBHOOK}",
            "inputs": [{"url": f"https://x.example/a?{NESTED}"}, [f"see ftp://u:{USER_INFO}@x.example/b?{NESTED}"]],
            "video_url": f"https://x.example/v.mp4?{NESTED}",
            f"https://x.example/?{NESTED}": 1,
        },
        "msg": f"cannot fetch https://bucket.example/c.png?X-Amz-Signature={REASON}",
        "error_reasons": [{"text": f"GET https://u:{REASON}@bucket.example/ refused"}],
    }


def _spellings(secret: str) -> Iterator[bytes]:
    """Yield a secret as it is, in hex, and in base64 wherever in the encoded bytes it begins."""
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        yield encoded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]


@dataclass
class Haystack:
    """What was found in each place; a place is a kind of thing that may give a secret away."""

    places: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, place: str, content: str | bytes) -> None:
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self.places.setdefault(place, []).append(raw)

    def add_object(self, place: str, *things: object) -> None:
        for thing in things:
            self.add(place, f"{thing!r}\n{thing!s}\n{thing:}")

    def add_error(self, place: str, error: BaseException, *, with_locals: bool = False) -> None:
        """Add an exception with all that led to it, as text and pickled; the variables of its frames if wanted."""
        shown = traceback.TracebackException.from_exception(error, capture_locals=with_locals)
        self.add(place, "".join(shown.format(chain=True)))
        waiting: list[BaseException | None] = [error]
        seen: set[int] = set()
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            self.add_object(place, one)
            self.add(place, repr((one.args, getattr(one, "__notes__", None), vars(one))))
            waiting += [one.__cause__, one.__context__]  # the hidden context too: error reporters show it
        self.add(place, pickle.dumps(error))

    def add_folder(self, place: str, folder: Path) -> None:
        """Add every file: its name, its bytes, and what is in it where that is a database or a table."""
        for path in sorted(folder.rglob("*")):
            self.add(place, str(path.relative_to(folder)))
            if path.is_file():
                self.add_file(place, path)

    def add_file(self, place: str, path: Path) -> None:
        raw = path.read_bytes()
        self.add(place, raw)
        if raw.startswith(b"SQLite format 3\0"):
            for value in _database_values(path):
                self.add(place, value)
        elif raw.startswith(b"PAR1"):
            table = pq.read_table(path)
            self.add(place, json.dumps(table.to_pylist(), default=str))
            self.add(place, repr(table.schema.to_string(show_schema_metadata=True, truncate_metadata=False)))

    def find(self, secrets: Collection[str]) -> set[tuple[str, str]]:
        """Return every (secret, place) where one of the secrets is, however it is spelled."""
        found = set()
        for place, contents in self.places.items():
            everything = b"\n".join(contents)
            small = everything.lower()
            for secret in secrets:
                if any(spelling in everything or spelling in small for spelling in _spellings(secret)):
                    found.add((secret, place))
        return found


def _database_values(path: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                for value in row:
                    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
                    yield raw
                    try:
                        yield zlib.decompress(raw)  # Dagster keeps its snapshots so
                    except zlib.error:
                        continue
