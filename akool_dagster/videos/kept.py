"""Files of a video that are already in the storage root: stored ones, and those that the verifier refused."""

from __future__ import annotations

import hashlib
import logging
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

_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\x1b")


@dataclass(frozen=True, kw_only=True)
class VerifiedFile:
    """A whole, playable video."""

    bytes: int
    sha256: str
    facts: VideoFacts


def kept_path(video_path: str) -> str:
    """Return where a file that the verifier refused is kept: ``<_id>.unverified``, beside the video's own place."""
    return f"{video_path.removesuffix('.mp4')}.unverified"


def verify_stored(root: StorageRoot, relative: str) -> VerifiedFile | None:
    """Return what is in the file at a video's destination; None when there is no file, or it is no whole video.

    Raises `StorageError`.
    """
    with _local_file(root, relative) as path:
        return None if path is None else _verified(path)


def keep_refused(root: StorageRoot, local_file: Path, relative: str) -> None:
    """Show a file that the verifier refused at ``relative``, unless a file that is as large is there.

    ``local_file`` is one of `StorageRoot.temporary` in the same folder. Raises `StorageError`.
    """
    there = root.look(relative).size
    if there is None or local_file.stat().st_size > there:
        root.publish(local_file, relative)


def take_kept(root: StorageRoot, relative: str, before_publish: Callable[[], None]) -> VerifiedFile | None:
    """Publish a video's kept file when the verifier accepts it now; None when there is none that it accepts.

    In a remote root the kept file stays. Raises `StorageError`, and whatever ``before_publish`` does.
    """
    with _local_file(root, kept_path(relative)) as path:
        verified = None if path is None else _verified(path)
        if path is None or verified is None:
            return None
        before_publish()
        root.publish(path, relative)  # renames the file of a local root
    return verified


def is_text(path: Path) -> bool:
    """Return whether a file begins like HTML, XML, JSON or other text. An empty file does.

    The first box of an MP4 has a NUL in its length, and text has none. Raises `OSError`.
    """
    with path.open("rb") as file:
        head = file.read(TEXT_BYTES)
    if any(byte == 0x7F or (byte < 0x20 and byte not in _TEXT_CONTROLS) for byte in head):
        return False
    return head.lstrip().startswith(b"<") or _is_utf8(head)


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # in the middle of a character
    return True


def _verified(path: Path) -> VerifiedFile | None:
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
    """Give a path on this machine with the content of ``relative``; None when nothing is there."""
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
