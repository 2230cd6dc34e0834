"""The partitions of an account: equal stretches of UTC time, and their keys in Dagster and in file names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum

END_OF_TIME = 2**62
"""Later than any time, in milliseconds."""


class Granularity(StrEnum):
    """How much time one partition covers, in UTC."""

    DAILY = "daily"
    HOURLY = "hourly"


_LENGTHS_MS = {Granularity.DAILY: 86_400_000, Granularity.HOURLY: 3_600_000}
_KEY_FORMATS = {Granularity.DAILY: "%Y-%m-%d", Granularity.HOURLY: "%Y-%m-%d-%H:%M"}


@dataclass(frozen=True, slots=True)
class PartitionGrid:
    """The partitions of an account: equal stretches of UTC time from a first day to now. Times are milliseconds.

    >>> PartitionGrid(Granularity.HOURLY, date(2026, 3, 14)).first_key
    '2026-03-14-00:00'
    """

    granularity: Granularity
    first_day: date

    @property
    def start_ms(self) -> int:
        """Return the start of the first partition."""
        return _to_ms(datetime.combine(self.first_day, time.min, UTC))

    @property
    def length_ms(self) -> int:
        """Return the length of a partition."""
        return _LENGTHS_MS[self.granularity]

    @property
    def first_key(self) -> str:
        """Return the key of the first partition."""
        return self._key_from(self.start_ms)

    def key(self, at_ms: int, now_ms: int) -> str | None:
        """Return the key of the partition that holds a time; None before the first and after the current one."""
        if at_ms < self.start_ms or at_ms >= self.end_ms(now_ms):
            return None
        return self._key_from(at_ms - at_ms % self.length_ms)

    def window(self, key: str) -> tuple[int, int]:
        """Return the start of a partition and of the next. Raises ValueError for a wrong key."""
        start_ms = _start_ms(key, _KEY_FORMATS[self.granularity], self.length_ms)
        return start_ms, start_ms + self.length_ms

    def end_ms(self, now_ms: int) -> int:
        """Return the end of the partition that holds now."""
        return now_ms - now_ms % self.length_ms + self.length_ms

    def saving_key(self, at_ms: int, now_ms: int) -> str | None:
        """Return the partition whose run downloads the video of a job at a time; None before there is any.

        Some jobs lie before the first partition, or after the current one (tracked under a clock that was ahead).
        Their videos' URLs die all the same: the first and the current partition save them.
        """
        return self.key(min(max(at_ms, self.start_ms), now_ms), now_ms)

    def saving_window(self, key: str, now_ms: int) -> tuple[int | None, int]:
        """Return the stretch of time whose videos a partition's run downloads; None: from the beginning of time."""
        start_ms, end_ms = self.window(key)
        is_current = key == self.key(now_ms, now_ms)
        return None if key == self.first_key else start_ms, END_OF_TIME if is_current else end_ms

    def _key_from(self, start_ms: int) -> str:
        return _from_ms(start_ms).strftime(_KEY_FORMATS[self.granularity])


def partition_window(file_key: str) -> tuple[int, int] | None:
    """Return the start of a partition and of the next, by its key in file names, which leave out the colon.

    None for a text that is no partition's key in any granularity.
    """
    for granularity, length_ms in _LENGTHS_MS.items():
        with suppress(ValueError):
            start_ms = _start_ms(file_key, _file_format(granularity), length_ms)
            return start_ms, start_ms + length_ms
    return None


def partition_file_key(window: tuple[int, int]) -> str:
    """Return the key of a partition in file names, given its start and that of the next."""
    start, end = window
    granularity = next(granularity for granularity, length_ms in _LENGTHS_MS.items() if length_ms == end - start)
    return _from_ms(start).strftime(_file_format(granularity))


def _file_format(granularity: Granularity) -> str:
    return _KEY_FORMATS[granularity].replace(":", "")


def _start_ms(key: str, key_format: str, length_ms: int) -> int:
    start = datetime.strptime(key, key_format).replace(tzinfo=UTC)
    # strptime reads "2026-3-1" too, and "...-10:30" lies within an hour: one partition would have two names.
    if start.strftime(key_format) != key or _to_ms(start) % length_ms:
        raise ValueError(f"{key!r} is not the key of a partition.")
    return _to_ms(start)


def _to_ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _from_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
