"""Files of a video that are already in the storage root: a stored video, and a file that the verifier refused."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from akool_dagster.storage import StorageRoot
from akool_dagster.videos.errors import UnplayableVideoError
from akool_dagster.videos.probe import VideoFacts, probe_video

TEXT_BYTES = 4096
"""How much of a file is looked at to tell an error page from a video."""

logger = logging.getLogger(__name__)

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class VerifiedFile:
    """A whole, playable video."""

    bytes: int
    sha256: str
    facts: VideoFacts


def kept_path(video_path: str) -> str:
    """Return where a file that the verifier refused is kept: ``<_id>.unverified``, beside the video's own place."""
    return f"{video_path.removesuffix('.mp4')}.unverified"


def take_existing(root: StorageRoot, relative: str, before_publish: Callable[[], None]) -> VerifiedFile | None:
    """Return the whole video that is in the storage root; None when there is none.

    That is the file at the video's destination, or the kept file if the verifier accepts it now, which is then
    published at the destination; in a remote root the kept file stays, too. Raises `StorageError`, and whatever
    ``before_publish`` does.
    """
    with _verified(root, relative) as there:
        if there is not None:
            return there[1]
    with _verified(root, kept_path(relative)) as kept:
        if kept is None:
            return None
        before_publish()
        root.publish(kept[0], relative)  # renames the file of a local root
        return kept[1]


def keep_refused(root: StorageRoot, local_file: Path, relative: str) -> None:
    """Show a file that the verifier refused at ``relative``, unless a file that is as large is there.

    ``local_file`` is one of `StorageRoot.temporary` in the same folder. Raises `StorageError`.
    """
    there = root.look(relative).size
    if there is None or local_file.stat().st_size > there:
        root.publish(local_file, relative)


def is_text(path: Path) -> bool:
    """Return whether a file begins like HTML, XML, JSON or other text: without control characters.

    The first box of an MP4 has a NUL in its length. Raises `OSError`.
    """
    with path.open("rb") as file:
        return _NO_TEXT.search(file.read(TEXT_BYTES)) is None


@contextmanager
def _verified(root: StorageRoot, relative: str) -> Iterator[tuple[Path, VerifiedFile] | None]:
    """Give a path on this machine with the whole video at ``relative``, and its facts; None when there is none."""
    with _local_file(root, relative) as path:
        verified = None if path is None else _verify(path)
        yield None if path is None or verified is None else (path, verified)


def _verify(path: Path) -> VerifiedFile | None:
    try:
        facts = probe_video(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return VerifiedFile(bytes=path.stat().st_size, sha256=sha256, facts=facts)
    except UnplayableVideoError:
        return None
    except Exception as error:  # a file that cannot be read stops no download
        logger.warning("%s could not be verified: %s", path, error)
        return None


@contextmanager
def _local_file(root: StorageRoot, relative: str) -> Iterator[Path | None]:
    if root.is_local:
        yield Path(root.uri(relative)) if root.exists(relative) else None
        return
    with root.local_copy(relative) as opened, root.temporary(relative) as path:
        if opened is None:
            yield None
            return
        with path.open("wb") as file:
            shutil.copyfileobj(opened[0], file)
        yield path
