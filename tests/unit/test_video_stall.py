from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.videos.stall import MinimumPace, PaceWatch

MINIMUM = MinimumPace(bytes_per_s=1000.0, over_seconds=30.0)
TICK = 0.5
ticks = st.floats(min_value=0.01, max_value=20.0)


class Watched:
    """A download that is looked at tick by tick."""

    def __init__(self, minimum: MinimumPace = MINIMUM) -> None:
        self.now = 100.0
        self.received = 0
        self._watch = PaceWatch(minimum, self.now)
        self._watch.is_stalled(self.now, exchange=1, waiting=True, received=0)

    def tick(self, seconds: float = TICK, gained: int = 0, exchange: int = 1, waiting: bool = True) -> bool:
        self.now += seconds
        self.received += gained
        return self._watch.is_stalled(self.now, exchange=exchange, waiting=waiting, received=self.received)


@given(st.lists(st.tuples(ticks, st.floats(min_value=1.01, max_value=100.0)), max_size=200))
def test_a_download_that_keeps_the_pace_is_never_stalled(steps: list[tuple[float, float]]) -> None:
    download = Watched()
    assert not any(download.tick(seconds, int(seconds * 1000 * faster) + 1) for seconds, faster in steps)


@given(st.integers(min_value=0, max_value=1000), st.integers(min_value=0, max_value=499))
def test_a_download_that_slows_down_is_stalled_within_two_windows(good_ticks: int, drip: int) -> None:
    download = Watched()
    assert not any(download.tick(gained=10_000) for _ in range(good_ticks))
    slow_since = download.now
    while not download.tick(gained=drip):
        assert download.now <= slow_since + 2 * MINIMUM.over_seconds
    assert download.now > slow_since + MINIMUM.over_seconds / 2 or good_ticks


def test_silence_is_a_stall_after_exactly_the_window_and_no_sooner() -> None:
    download = Watched()
    assert [download.tick() for _ in range(60)] == [False] * 59 + [True]


def test_silence_is_a_stall_however_slow_a_download_may_be() -> None:
    download = Watched(MinimumPace(bytes_per_s=0.0, over_seconds=30.0))
    assert [download.tick(10.0, gained) for gained in (0, 0, 1, 0, 0, 0)] == [False, False, False, False, False, True]


@given(st.lists(ticks, max_size=100))
def test_time_in_which_nothing_is_asked_of_the_server_does_not_count(steps: list[float]) -> None:
    download = Watched()
    assert not any(download.tick(seconds, waiting=False) for seconds in steps)
    assert any(download.tick() for _ in range(61))


@given(st.lists(st.floats(min_value=0.01, max_value=29.9), max_size=100))
def test_each_request_has_a_window_of_its_own(steps: list[float]) -> None:
    download = Watched()
    for exchange, seconds in enumerate(steps, start=2):
        assert not download.tick(0.0, exchange=exchange)
        assert not download.tick(seconds, exchange=exchange)
