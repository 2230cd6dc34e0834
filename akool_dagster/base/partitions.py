"""The partitions of an account: equal stretches of UTC time, and their keys."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

END_OF_TIME = 2**62
"""Later than any time, in milliseconds."""


class Granularity(StrEnum):
    """How much time one partition covers, in UTC."""

    DAILY = "daily"
    HOURLY = "hourly"


_LENGTHS = {Granularity.DAILY: timedelta(days=1), Granularity.HOURLY: timedelta(hours=1)}
_KEY_FORMATS = {Granularity.DAILY: "%Y-%m-%d", Granularity.HOURLY: "%Y-%m-%d-%H:%M"}


@dataclass(frozen=True, slots=True)
class PartitionGrid:
    """The partitions of an account: equal stretches of UTC time from a first day on, today's included."""

    granularity: Granularity
    start: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is not UTC or self.start != self.start.replace(hour=0, minute=0, second=0, microsecond=0):
            raise ValueError(f"The partitions start at midnight UTC, not at {self.start}.")

    @property
    def start_ms(self) -> int:
        """Return the start of the first partition."""
        return _to_ms(self.start)

    @property
    def key_format(self) -> str:
        """Return the strftime format of the keys, the same as Dagster's own for this granularity."""
        return _KEY_FORMATS[self.granularity]

    @property
    def first_key(self) -> str:
        """Return the key of the first partition."""
        return self.start.strftime(self.key_format)

    def key(self, at_ms: int, now_ms: int) -> str | None:
        """Return the key of the partition that holds a time; None before the first and after the current one."""
        length_ms = self.length_ms
        if at_ms < self.start_ms or at_ms // length_ms > now_ms // length_ms:
            return None
        return _from_ms(at_ms - at_ms % length_ms).strftime(self.key_format)

    def window(self, key: str) -> tuple[int, int]:
        """Return the first millisecond of a partition and that of the next. Raises ValueError for a wrong key."""
        start = datetime.strptime(key, self.key_format).replace(tzinfo=UTC)
        start_ms = _to_ms(start)
        # "2026-3-1" would land the first of March, and "...-10:30" that hour, a second time under another name.
        if start.strftime(self.key_format) != key or start_ms % self.length_ms:
            raise ValueError(f"{key!r} is not the key of a partition: those are like {self.first_key}.")
        return start_ms, start_ms + self.length_ms

    def end_ms(self, now_ms: int) -> int:
        """Return the end of the partition that holds now."""
        return now_ms - now_ms % self.length_ms + self.length_ms

    def saving_key(self, at_ms: int, now_ms: int) -> str | None:
        """Return the partition whose run downloads the video of a job at a time; None before there is any.

        Videos of jobs from before the first partition, or that were tracked under a clock that went ahead, are in none
        yet, and their URLs do not wait: the first and the current partition save them.
        """
        return self.key(min(max(at_ms, self.start_ms), now_ms), now_ms)

    def saving_window(self, key: str, now_ms: int) -> tuple[int | None, int]:
        """Return the stretch of time whose videos a partition's run downloads; None: from the beginning of time."""
        start_ms, end_ms = self.window(key)
        is_current = key == self.key(now_ms, now_ms)
        return None if key == self.first_key else start_ms, END_OF_TIME if is_current else end_ms

    @property
    def length_ms(self) -> int:
        """Return the length of a partition in milliseconds."""
        return int(_LENGTHS[self.granularity].total_seconds() * 1000)


def partition_window(file_key: str) -> tuple[int, int] | None:
    """Return the first millisecond of a partition, and that of the next, by its key as file names have it.

    File names leave out the colons. None for what is no partition's key in any granularity.
    """
    for granularity, key_format in _KEY_FORMATS.items():
        file_format = key_format.replace(":", "")
        with suppress(ValueError, OverflowError):  # the day after the last one there is
            start = datetime.strptime(file_key, file_format).replace(tzinfo=UTC)
            if start.strftime(file_format) == file_key:  # strptime reads "2025-1-9" too
                return _to_ms(start), _to_ms(start + _LENGTHS[granularity])
    return None


def partition_file_key(window: tuple[int, int]) -> str:
    """Return the key of a partition as file names have it, given its first millisecond and that of the next."""
    start, end = window
    length = timedelta(milliseconds=end - start)
    granularity = next(granularity for granularity, one in _LENGTHS.items() if one == length)
    return _from_ms(start).strftime(_KEY_FORMATS[granularity]).replace(":", "")


def _to_ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _from_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
