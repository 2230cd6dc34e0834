"""Files of a storage root in a bucket: whole objects, in bounded time and memory, none put over an unseen one."""

from __future__ import annotations

import re
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError

from akool_dagster.base.clock import Clock, Deadline, SystemClock
from akool_dagster.storage.connection import connect, reason, refuse_fork
from akool_dagster.storage.errors import ChangedMeanwhileError, StorageError, unconditional
from akool_dagster.storage.files import NOTHING, PARTIAL_SUFFIX, Found, OsFiles
from akool_dagster.storage.location import Location

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ObjectStore

PART_BYTES = 8 * 1024**2
"""Of an upload or a download."""
UPLOAD_SECONDS = 120.0
"""What any upload may take, retries included, and then a second for each `LEAST_BYTES_PER_SECOND`."""
LEAST_BYTES_PER_SECOND = 128 * 1024
READ_SECONDS = 300.0
"""What one request may take that lists a folder or reads an object."""
LOOK_SECONDS = 60.0
"""What looking at one object may take."""
TRIES = 3
"""Of a conditional write whose answer got lost, and of a copy whose object changed meanwhile."""

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
_NOT_IMPLEMENTED = re.compile(r"status code: 501\b|<Code>NotImplemented</Code>")

_whole_body = threading.Lock()
"""Held during a conditional write, which has the whole body in memory: one at a time in a process."""


class RemoteFiles:
    """Objects by path below a prefix. Nothing at a path is `FileNotFoundError`; a missing bucket never is."""

    temporary_prefix = ".akool-dagster."

    def __init__(self, location: Location, files: OsFiles, clock: Clock | None = None) -> None:
        """Take a location. The first request makes the client."""
        self._location = location
        self._files = files
        self._clock = clock or SystemClock()
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
            return bytes(obstore.get(self._client(READ_SECONDS), relative).bytes())
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise OSError(reason(error)) from None
            raise

    @contextmanager
    def local_copy(self, relative: str) -> Iterator[tuple[BinaryIO, Found]]:
        """Copy an object, all of one version of it, to a temporary file, which no killed process leaves behind."""
        path = self.temporary_folder("") / f"{self.temporary_prefix}{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        with self._files.open(path, "w+b") as file:
            path.unlink()
            found = self._download(relative, file)
            file.seek(0)
            yield file, found

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects right below a path."""
        found = obstore.list_with_delimiter(self._client(READ_SECONDS), folder)
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
        if replacing is None:
            self._upload(source, relative, size)
            written = None
        else:
            with _whole_body:
                written = self._replace(source, relative, size, replacing)
        there = self.look(relative)
        if written is not None and there.etag != written:
            return  # replaced once more by now, by a writer that has seen it
        if there.size != size:
            raise OSError(f"{there.size} bytes are there after an upload of {size}")

    def create(self, relative: str, content: bytes) -> bool:
        """Put an object where none is; return False where one is, perhaps this call's own after a lost answer."""
        seconds = UPLOAD_SECONDS + len(content) / LEAST_BYTES_PER_SECOND
        for tries_left in reversed(range(TRIES)):
            try:
                obstore.put(self._client(seconds), relative, content, mode="create")
                return True
            except (AlreadyExistsError, PreconditionError):
                return False
            except GenericError as error:
                self._refuse_unconditional(error)
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def remove(self, relative: str) -> None:
        """Remove an object. Raises `FileNotFoundError` where none is."""
        self.look(relative)
        obstore.delete(self._client(LOOK_SECONDS), relative)

    def lock(self, relative: str, *, seconds: float, clock: Clock) -> AbstractContextManager[None]:
        """Return no lock: conditional writes do its work."""
        return nullcontext()

    def _upload(self, source: Path, relative: str, size: int) -> None:
        with self._files.open(source, "rb") as file:
            if size <= PART_BYTES:
                seconds = UPLOAD_SECONDS + PART_BYTES / LEAST_BYTES_PER_SECOND
                obstore.put(self._client(seconds), relative, file, use_multipart=False)
                return
            obstore.put(
                self._client(UPLOAD_SECONDS + PART_BYTES / LEAST_BYTES_PER_SECOND),
                relative,
                self._parts(file, size),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=1,
            )

    def _parts(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        """Yield a file in parts. What is raised here ends the upload, whose parts the client then removes."""
        deadline = self._deadline(size)
        while part := file.read(PART_BYTES):
            if deadline.expired():
                raise OSError(f"the storage did not take {size} bytes in time")
            yield part

    def _replace(self, source: Path, relative: str, size: int, replacing: Found) -> str | None:
        """Put a file in the place of what was found; return its ETag."""
        rounded = PART_BYTES << max(0, (size - 1).bit_length() - (PART_BYTES - 1).bit_length())  # few clients for all
        client = self._client(UPLOAD_SECONDS + rounded / LEAST_BYTES_PER_SECOND)
        for tries_left in reversed(range(TRIES)):
            try:
                with self._files.open(source, "rb") as file:
                    return obstore.put(client, relative, file.read(), mode=_mode(replacing), use_multipart=False)[
                        "e_tag"
                    ]
            except BaseError as error:
                refused = isinstance(error, (AlreadyExistsError, PreconditionError))
                if not refused and not isinstance(error, GenericError):
                    raise
                self._refuse_unconditional(error)
                there = self._same_content(relative, source, size)
                if there is not None:
                    return there.etag
                if refused:
                    raise ChangedMeanwhileError(f"{relative} was written meanwhile.") from None
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def _same_content(self, relative: str, source: Path, size: int) -> Found | None:
        """Return what is there when it is this very file: a write whose answer got lost, and the retry that met it."""
        with suppress(FileNotFoundError):
            found = self.look(relative)
            if found.size == size:
                with self._files.open(source, "rb") as file:
                    if all(part == file.read(len(part)) for part in self._ranges(relative, found)):
                        return found
        return None

    def _download(self, relative: str, file: BinaryIO) -> Found:
        for _ in range(TRIES):
            found = self.look(relative)
            file.seek(0)
            file.truncate()
            with suppress(PreconditionError):
                for part in self._ranges(relative, found):
                    file.write(part)
                file.flush()
                return found
        raise ChangedMeanwhileError(f"{relative} changed again and again while it was read.")

    def _ranges(self, relative: str, found: Found) -> Iterator[bytes]:
        """Yield an object part by part. Raises `PreconditionError` when it is another by now."""
        size = found.size or 0
        deadline = self._deadline(size)
        for start in range(0, size, PART_BYTES):
            if deadline.expired():
                raise OSError(f"the storage did not give {size} bytes in time")
            end = min(start + PART_BYTES, size)
            options: obstore.GetOptions = {"range": (start, end)}
            if found.etag is not None:
                options["if_match"] = found.etag
            part = bytes(obstore.get(self._client(READ_SECONDS), relative, options=options).bytes())
            if len(part) != end - start:
                raise OSError(f"the storage gave {len(part)} bytes of {end - start}")
            yield part

    def _deadline(self, size: int) -> Deadline:
        return Deadline(self._clock, UPLOAD_SECONDS + size / LEAST_BYTES_PER_SECOND)

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

    def _refuse_unconditional(self, error: BaseError) -> None:
        if _NOT_IMPLEMENTED.search(str(error)):
            raise unconditional(self._location.shown) from None


def _mode(replacing: Found) -> PutMode:
    if replacing == NOTHING:
        return "create"
    if replacing.etag is None and replacing.version is None:
        raise StorageError("The storage names no version (ETag) of its objects, so that none can be replaced safely.")
    named = {"e_tag": replacing.etag, "version": replacing.version}
    return {name: value for name, value in named.items() if value is not None}  # type: ignore[return-value]
