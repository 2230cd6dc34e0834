"""What tests of the storage root share."""

from __future__ import annotations

from pathlib import Path

from akool_dagster.storage import Found, StorageRoot

RELATIVE = "akool/results/2025-10-09.parquet"


def put(root: StorageRoot, content: bytes, relative: str = RELATIVE, *, replacing: Found | None = None) -> None:
    with root.temporary(relative) as path:
        path.write_bytes(content)
        root.publish(path, relative, replacing=replacing)


def put_looked(root: StorageRoot, content: bytes, relative: str = RELATIVE) -> None:
    """Put a file in the place of exactly what is there now."""
    put(root, content, relative, replacing=root.look(relative))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
