"""A pair of eyes on the storage root while everything is being killed: what is visible must be whole, always."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tests.e2e.chaos.check import read_rows
from tests.e2e.chaos.findings import Finding, Harm

LOOK_SECONDS = 0.25
FINAL = frozenset({"completed", "failed"})


@dataclass(frozen=True)
class _Seen:
    """What a Parquet file held when it was last looked at."""

    versions: Mapping[str, int]
    """The version of each row, by its id."""
    final: frozenset[tuple[str, str]]


@dataclass
class Watcher:
    """Looks at every file that has changed since the last look. Use it as a context manager: it looks in a thread."""

    tables: Path
    video_of: Callable[[str], bytes]
    findings: set[Finding] = field(default_factory=set)
    looks: int = 0
    """Versions of files that were read."""
    _versions: dict[Path, tuple[int, int, int]] = field(default_factory=dict)
    _seen: dict[Path, _Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._trouble: list[BaseException] = []
        self._thread = threading.Thread(target=self._watch, name="chaos-watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._trouble:
            raise self._trouble[0]

    def look(self) -> None:
        """Look once at everything that is new."""
        for path in sorted(self.tables.rglob("[!.]*")) if self.tables.exists() else ():
            if path.suffix not in (".parquet", ".mp4"):
                continue
            status = path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._versions.get(path) != version:
                self._versions[path] = version
                self.looks += 1
                (self._look_at_table if path.suffix == ".parquet" else self._look_at_video)(path)
        for path in [path for path in self._versions if not path.exists()]:
            del self._versions[path]
            self._find(Harm.LOST, path, "disappeared")

    def _watch(self) -> None:
        try:
            while not self._stop.wait(LOOK_SECONDS):
                self.look()
            self.look()
        except BaseException as error:
            self._trouble.append(error)

    def _look_at_table(self, path: Path) -> None:
        try:
            rows = read_rows(path)
        except (pa.ArrowException, OSError):
            self._find(Harm.PARTIAL, path, "was seen when it was no whole Parquet file")
            return
        final = frozenset((row["_id"], row["state"]) for row in rows if row.get("state") in FINAL)
        now = _Seen({row["_id"]: row["version"] for row in rows}, final)
        before = self._seen.get(path, _Seen({}, frozenset()))
        self._seen[path] = now
        for job_id, version in before.versions.items():
            if job_id not in now.versions:
                self._find(Harm.LOST, path, f"had a row of {job_id} and lost it")
            elif now.versions[job_id] < version:
                self._find(Harm.WENT_BACK, path, f"showed {job_id} at {version}, then at {now.versions[job_id]}")
        for job_id, state in before.final - now.final:
            self._find(Harm.WENT_BACK, path, f"showed {job_id} as {state} and does not any more")

    def _look_at_video(self, path: Path) -> None:
        if path.read_bytes() != self.video_of(path.stem):
            self._find(Harm.PARTIAL, path, "was seen when it was not the video that Akool serves")

    def _find(self, harm: Harm, path: Path, what: str) -> None:
        self.findings.add(Finding(harm, f"{path.relative_to(self.tables)} {what}"))
