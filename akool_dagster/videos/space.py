"""Room on the disk for downloads that run at the same time."""

from __future__ import annotations

import threading

from akool_dagster.storage import StorageFullError, StorageRoot

RESERVE_BYTES = 64 << 20


class NoRoomError(StorageFullError):
    """One video does not fit at the moment; a smaller one may."""


class Room:
    """What one download takes of the disk. `DiskSpace.open` makes it; the download says what it learns."""

    def __init__(self, space: DiskSpace) -> None:
        self._space = space
        self.expected: int | None = None
        """Bytes of the body, once the server said so."""
        self.received = 0
        """Bytes already written."""

    def expect(self, length: int | None) -> None:
        """Set aside what the body needs. Raises `NoRoomError` when there is not that much."""
        self._space.set_aside(self, length)


class DiskSpace:
    """The free bytes of the disk of temporary files, less what running downloads will still write. Thread-safe.

    ``reserve_bytes`` stay free, and are set aside for each download whose size is not known. Where the file system
    does not tell what is free, everything fits.
    """

    def __init__(self, root: StorageRoot, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._rooms: set[Room] = set()
        self._lock = threading.Lock()

    def shortage(self) -> StorageFullError | None:
        """Return why no further download can be begun now; None when one can."""
        with self._lock:
            free, taken = self._root.free_bytes(), self._taken()
        if free is None or free - taken >= self._reserve_bytes:
            return None
        return StorageFullError(self._explained(free, taken, "Another video"))

    def open(self) -> Room:
        """Return room for a download of yet unknown size. `close` it when its file is published or removed."""
        room = Room(self)
        with self._lock:
            self._rooms.add(room)
        return room

    def close(self, room: Room) -> None:
        """Take room back."""
        with self._lock:
            self._rooms.discard(room)

    def set_aside(self, room: Room, length: int | None) -> None:
        """Do what `Room.expect` says."""
        with self._lock:
            room.expected, room.received = None, 0
            free, taken = self._root.free_bytes(), self._taken(but=room)
            if free is not None and free - taken < (length or 0) + self._reserve_bytes:
                what = "A video" if length is None else f"A video of {_mb(length)}"
                raise NoRoomError(self._explained(free, taken, what))
            room.expected = length

    def _taken(self, but: Room | None = None) -> int:
        return sum(
            max(0, (self._reserve_bytes if room.expected is None else room.expected) - room.received)
            for room in self._rooms
            if room is not but
        )

    def _explained(self, free: int, taken: int, what: str) -> str:
        return (
            f"{what} does not fit at {self._root.temporary_place}: {_mb(free)} are free, running downloads will take "
            f"{_mb(taken)} of it, and {_mb(self._reserve_bytes)} are to stay free (reserve_bytes). Make room there."
        )


def _mb(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
