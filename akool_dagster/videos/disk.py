"""The disk space that running downloads reserve, so that a video that cannot fit is not begun."""

from __future__ import annotations

import threading

from akool_dagster.storage import StorageFullError, StorageRoot


class DiskTooSmallError(StorageFullError):
    """One video does not fit at the moment; a smaller video may."""


class DiskReservation:
    """The bytes that one download will write. `DiskReservations.open` makes it."""

    def __init__(self, owner: DiskReservations) -> None:
        self._owner = owner
        self.length: int | None = None
        """Bytes of the body, once the server said so."""
        self.written = 0

    def resize(self, length: int | None) -> None:
        """Begin a body of that many bytes. Raises `DiskTooSmallError` when there is less space than that."""
        self._owner.resize(self, length)


class DiskReservations:
    """The free bytes of the disk of temporary files, less what running downloads will still write. Thread-safe.

    ``reserve_bytes`` stay free, and are reserved for each download whose size is not known. Where the file system
    does not tell what is free, everything fits.
    """

    def __init__(self, root: StorageRoot, reserve_bytes: int) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._open: set[DiskReservation] = set()
        self._lock = threading.Lock()

    def shortage(self) -> StorageFullError | None:
        """Return why no further download can be begun now; None when a download can."""
        with self._lock:
            problem = self._problem("Another video", 0)
        return None if problem is None else StorageFullError(problem)

    def open(self) -> DiskReservation:
        """Return a reservation for a download of yet unknown size. `close` it once the file is shown or removed."""
        reservation = DiskReservation(self)
        with self._lock:
            self._open.add(reservation)
        return reservation

    def close(self, reservation: DiskReservation) -> None:
        """End a reservation."""
        with self._lock:
            self._open.discard(reservation)

    def resize(self, reservation: DiskReservation, length: int | None) -> None:
        """Do what `DiskReservation.resize` says."""
        what = "A video" if length is None else f"A video of {_mb(length)}"
        with self._lock:
            reservation.length, reservation.written = None, 0
            problem = self._problem(what, length or 0, but=reservation)
            if problem is not None:
                raise DiskTooSmallError(problem)
            reservation.length = length

    def _problem(self, what: str, length: int, but: DiskReservation | None = None) -> str | None:
        free = self._root.free_bytes()
        reserved = sum(
            max(0, (self._reserve_bytes if one.length is None else one.length) - one.written)
            for one in self._open - {but}
        )
        if free is None or free - reserved >= length + self._reserve_bytes:
            return None
        return (
            f"{what} does not fit at {self._root.temporary_place}: {_mb(free)} are free, running downloads will take "
            f"{_mb(reserved)} of it, and {_mb(self._reserve_bytes)} are to stay free (reserve_bytes). "
            "Free some space on that disk."
        )


def _mb(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
