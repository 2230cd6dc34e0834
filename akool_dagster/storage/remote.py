"""Files of a storage root in a bucket: whole objects, in bounded time and memory, none put over an unseen one."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import obstore
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

from akool_dagster.base.clock import Clock
from akool_dagster.storage.connection import connect, refuse_fork
from akool_dagster.storage.errors import ChangedMeanwhileError, StorageError, reason, unconditional
from akool_dagster.storage.files import NOTHING, Found, OsFiles
from akool_dagster.storage.location import Location

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ObjectStore

PART_BYTES = 8 * 1024**2
"""The size of one part of an upload or a download."""
PART_SECONDS = 240.0
"""The bound of a request with at most one part of an object, or with a list of names, retries included."""
LEAST_BYTES_PER_SECOND = 128 * 1024
"""A conditional write has a second more for so many bytes: the whole body is one request."""
LOOK_SECONDS = 60.0
"""The bound of a request without a body."""
TRIES = 3
"""How often a conditional write is sent that got no answer, and a copy is begun of an object that changes."""

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
_NOT_IMPLEMENTED = re.compile(r"status code: 501\b|<Code>NotImplemented</Code>")

_whole_body = threading.Lock()
"""Held during a conditional write, which has the whole body in memory: one at a time in a process."""


class RemoteFiles:
    """Objects by path below a prefix. Nothing at a path is `FileNotFoundError`; a missing bucket never is."""

    temporary_prefix = ".akool-dagster."

    def __init__(self, location: Location, files: OsFiles) -> None:
        """Take a location. The first request makes the client."""
        self._location = location
        self._files = files
        self._clients: dict[float, ObjectStore] = {}
        self._lock = threading.Lock()
        self._bucket_is_there = False

    def look(self, relative: str) -> Found:
        """Return what is there."""
        try:
            meta = obstore.head(self._client(LOOK_SECONDS), relative)
        except FileNotFoundError:
            self._refuse_missing_bucket(relative)
            raise
        return Found(size=meta["size"], etag=meta["e_tag"], version=meta["version"])

    def read(self, relative: str) -> bytes:
        """Return an object's content, in one request."""
        try:
            return bytes(obstore.get(self._client(PART_SECONDS), relative).bytes())
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise OSError(reason(error)) from None
            raise

    @contextmanager
    def local_copy(self, relative: str) -> Iterator[tuple[BinaryIO, Found]]:
        """Copy an object, all of one version of it, to a temporary file, which no killed process leaves behind."""
        with tempfile.TemporaryFile(prefix=self.temporary_prefix) as file:
            found = self._download(relative, cast(BinaryIO, file))
            file.seek(0)
            yield cast(BinaryIO, file), found

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects right below a path."""
        found = obstore.list_with_delimiter(self._client(PART_SECONDS), folder)
        # A bucket may have an object named like the folder itself, with a slash at its end.
        paths = [meta["path"] for meta in found["objects"] if not meta["path"].endswith("/")]
        return [path.rpartition("/")[2] for path in paths if path != folder]

    def folders(self, folder: str) -> list[str]:
        """Return nothing: the folders of a bucket are only names."""
        return []

    def temporary_folder(self, folder: str) -> Path:
        """Return the system's temporary folder."""
        return Path(tempfile.gettempdir())

    def make_folder(self, folder: Path) -> None:
        """Do nothing: the temporary folder is there."""

    def publish(self, source: Path, relative: str, replacing: Found | None) -> None:
        """Upload a file, whole or not at all, and look whether all of it is there.

        Without ``replacing`` in parts of 8 MiB, of which a few are in memory. With it in one request, the whole body in
        memory, and conditional: raises `ChangedMeanwhileError` when something else is there by now.
        """
        size = source.stat().st_size
        written = None
        if replacing is None:
            with self._files.open(source, "rb") as file:
                obstore.put(self._client(PART_SECONDS), relative, file, chunk_size=PART_BYTES, max_concurrency=1)
        else:
            with _whole_body:
                written = self._replace(source, relative, _mode(replacing))
        there = self.look(relative)
        # Another ETag than the one just written: a writer that has seen this content has replaced it by now.
        if written in (None, there.etag) and there.size != size:
            raise OSError(f"{there.size} bytes are there after an upload of {size}")

    def create(self, source: Path, relative: str) -> bool:
        """Upload a file where none is; return False where one is, perhaps this call's own after a lost answer."""
        try:
            self._put(relative, self._content(source), "create")
        except ChangedMeanwhileError:
            return False
        return True

    def remove(self, relative: str) -> bool:
        """Remove an object. Raises `FileNotFoundError` where none is."""
        self.look(relative)
        obstore.delete(self._client(LOOK_SECONDS), relative)
        return True

    def lock(self, relative: str, *, seconds: float, clock: Clock) -> AbstractContextManager[None]:
        """Return no lock: conditional writes do its work."""
        return nullcontext()

    def _replace(self, source: Path, relative: str, mode: PutMode) -> str | None:
        """Put a file under a condition; return its ETag."""
        content = self._content(source)
        try:
            return self._put(relative, content, mode)
        except (ChangedMeanwhileError, GenericError):
            # An answer that got lost: the object is this call's own.
            with suppress(FileNotFoundError):
                found = self.look(relative)
                if found.size == len(content) and self._has(relative, found, content):
                    return found.etag
            raise

    def _put(self, relative: str, content: bytes, mode: PutMode) -> str | None:
        """Put a whole object under a condition, again where no answer came; return its ETag.

        Raises `ChangedMeanwhileError` where the condition does not hold, perhaps through this call's own lost write.
        """
        rounded = PART_BYTES << (len(content) // PART_BYTES).bit_length()  # up to a power of two: few clients
        client = self._client(PART_SECONDS + rounded / LEAST_BYTES_PER_SECOND)
        for tries_left in reversed(range(TRIES)):
            try:
                return obstore.put(client, relative, content, mode=mode, use_multipart=False)["e_tag"]
            except (AlreadyExistsError, PreconditionError):
                raise ChangedMeanwhileError(f"{relative} was written meanwhile.") from None
            except GenericError as error:
                if _NOT_IMPLEMENTED.search(str(error)):
                    raise unconditional(self._location.shown) from None
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def _content(self, source: Path) -> bytes:
        with self._files.open(source, "rb") as file:
            return file.read()

    def _has(self, relative: str, found: Found, content: bytes) -> bool:
        rest = memoryview(content)
        for part in self._parts(relative, found):
            if part != rest[: len(part)]:
                return False
            rest = rest[len(part) :]
        return True

    def _download(self, relative: str, file: BinaryIO) -> Found:
        for _ in range(TRIES):
            found = self.look(relative)
            file.seek(0)
            file.truncate()
            with suppress(PreconditionError):
                for part in self._parts(relative, found):
                    file.write(part)
                return found
        raise ChangedMeanwhileError(f"{relative} changed again and again while it was read.")

    def _parts(self, relative: str, found: Found) -> Iterator[bytes]:
        """Yield an object part by part. Raises `PreconditionError` when it is another by now."""
        size = found.size or 0
        for start in range(0, size, PART_BYTES):
            end = min(start + PART_BYTES, size)
            options: obstore.GetOptions = {"range": (start, end)}
            if found.etag is not None:
                options["if_match"] = found.etag
            part = bytes(obstore.get(self._client(PART_SECONDS), relative, options=options).bytes())
            if len(part) != end - start:
                raise OSError(f"the storage gave {len(part)} bytes of {end - start}")
            yield part

    def _client(self, seconds: float) -> ObjectStore:
        refuse_fork()
        with self._lock:
            if seconds not in self._clients:
                self._clients[seconds] = connect(self._location, seconds)
            return self._clients[seconds]

    def _refuse_missing_bucket(self, relative: str) -> None:
        """Tell a bucket that is not there from an object: a HEAD says 404 of both. Asked once."""
        if not self._bucket_is_there:
            obstore.list_with_delimiter(self._client(LOOK_SECONDS), relative)
            self._bucket_is_there = True


def _mode(replacing: Found) -> PutMode:
    if replacing == NOTHING:
        return "create"
    if replacing.etag is None and replacing.version is None:
        raise StorageError("The storage names no version (ETag) of its objects, so that none can be replaced safely.")
    named = {"e_tag": replacing.etag, "version": replacing.version}
    return {name: value for name, value in named.items() if value is not None}  # type: ignore[return-value]
