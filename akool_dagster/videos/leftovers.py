"""Remove the temporary files that killed runs left behind, a few day folders at a time."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Collection

from akool_dagster.base.clock import Clock
from akool_dagster.storage import StorageError, StorageRoot

MOST_FOLDERS = 8
"""How many day folders one run looks into, of perhaps hundreds."""

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

logger = logging.getLogger(__name__)


def remove_leftovers(root: StorageRoot, folder: str, days: Collection[str], clock: Clock) -> int:
    """Remove stale temporary files below a folder of day folders, ``days`` first; return how many files were removed.

    Looks into a few folders only. The folders of other days, which no run may ever be asked for again, have their
    turn at other times. An error is only logged: a run that writes to that folder fails with the same error.
    """
    try:
        if not root.is_local:
            return root.remove_stale_temporaries(folder, clock)
        present = [name for name in root.folders(folder) if _DAY.fullmatch(name)]
        chosen = folders_to_clean(present, days, clock.now_ms())
        return sum(root.remove_stale_temporaries(f"{folder}/{name}", clock) for name in chosen)
    except StorageError as error:
        logger.warning("Leftovers of killed runs were not looked for. %s", error)
        return 0


def folders_to_clean(present: Collection[str], first: Collection[str], now_ms: int) -> list[str]:
    """Return at most eight of the folders: up to four of those named first, and others, drawn anew each minute."""
    wanted = sorted(set(first) & set(present))[: MOST_FOLDERS // 2]
    minute = now_ms // 60_000
    drawn = sorted(set(present) - set(wanted), key=lambda name: (zlib.crc32(f"{minute} {name}".encode()), name))
    return wanted + drawn[: MOST_FOLDERS - len(wanted)]
