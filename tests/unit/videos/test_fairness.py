"""Which video is fetched next: properties of the fair queue."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.http.addresses import host_of
from akool_dagster.videos.fairness import GIVE_UP_AFTER, FairQueue
from akool_dagster.videos.store import VideoRequest
from tests.thoroughness import thorough


def video(job_id: str, host: str = "one.example", *, expires: int = 0, attempts: int = 0) -> VideoRequest:
    return VideoRequest(
        job_id=job_id,
        source_url=f"https://{host}/{job_id}.mp4",
        expires_at_ms=expires,
        partition_at_ms=0,
        attempts=attempts,
    )


def take_all(queue: FairQueue) -> list[VideoRequest]:
    return list(iter(queue.take, None))


def hosts(taken: list[VideoRequest]) -> Counter[str]:
    return Counter(host_of(request.source_url) for request in taken)


def end(queue: FairQueue, request: VideoRequest, *, answers: bool) -> None:
    queue.ended(request)
    queue.note(host_of(request.source_url), answers=answers)


requests = st.lists(
    st.builds(
        video,
        job_id=st.uuids().map(str),
        host=st.sampled_from(["one.example", "two.example", "three.example"]),
        expires=st.integers(min_value=0, max_value=20),
        attempts=st.sampled_from([0, 0, 1, 30]),
    ),
    max_size=40,
    unique_by=lambda request: request.job_id,
)
threads = st.integers(min_value=1, max_value=8)


@settings(max_examples=thorough(50, 1000))
@given(requests, threads, st.data())
def test_every_video_is_begun_once_or_deferred_and_no_more_run_than_there_are_threads(
    due: list[VideoRequest], threads: int, data: st.DataObject
) -> None:
    queue, begun, running = FairQueue(due, threads), Counter[str](), list[VideoRequest]()
    while True:
        while len(running) < threads and (request := queue.take()) is not None:
            begun[request.job_id] += 1
            running.append(request)
        if not running:
            break
        ending = running.pop(data.draw(st.integers(0, len(running) - 1)))
        end(queue, ending, answers=data.draw(st.booleans()))
    assert queue.waiting == 0  # nothing is left over but what is deferred
    assert set(begun.values()) <= {1}
    assert begun.total() + sum(queue.deferred.values()) == len(due)


@settings(max_examples=thorough(50, 1000))
@given(requests, threads)
def test_without_trouble_and_retries_the_earliest_expiring_comes_first(due: list[VideoRequest], threads: int) -> None:
    queue = FairQueue([video(one.job_id, expires=one.expires_at_ms) for one in due], threads)
    taken = []
    while (request := queue.take()) is not None:
        taken.append(request.expires_at_ms)
        end(queue, request, answers=True)
    assert taken == sorted(one.expires_at_ms for one in due)


def test_one_host_alone_may_have_every_thread() -> None:
    assert len(take_all(FairQueue([video(str(number)) for number in range(20)], 8))) == 8


def test_a_host_that_has_not_answered_yet_leaves_the_others_their_share() -> None:
    first = [video(f"a{number}", "a.example", expires=1) for number in range(20)]
    others = [video(f"{host}{number}", host, expires=2) for host in ("b.example", "c.example") for number in range(20)]
    taken = take_all(FairQueue(first + others, 8))
    assert hosts(taken) == {"a.example": 3, "b.example": 3, "c.example": 3}


def test_a_host_that_answers_may_have_every_thread_in_its_turn() -> None:
    queue = FairQueue([video(f"{host}{n}", host) for host in ("a.example", "b.example") for n in range(20)], 8)
    queue.note("a.example", answers=True)
    assert hosts(take_all(queue)) == {"a.example": 8, "b.example": 4}


def test_a_host_in_trouble_is_asked_one_at_a_time_and_then_not_at_all() -> None:
    queue = FairQueue([video(str(number)) for number in range(20)], 8)
    first = queue.take()
    assert first is not None
    end(queue, first, answers=False)
    for failures in range(2, GIVE_UP_AFTER + 1):
        (alone,) = take_all(queue)
        end(queue, alone, answers=False)
        assert queue.deferred == ({"one.example": 15} if failures == GIVE_UP_AFTER else {})
    assert (queue.take(), queue.waiting) == (None, 0)


def test_one_good_answer_ends_the_trouble_also_of_a_host_that_was_given_up() -> None:
    queue = FairQueue([video(str(number)) for number in range(20)], 8)
    running = [queue.take() for _ in range(8)]
    for request in running[:GIVE_UP_AFTER]:
        assert request is not None
        end(queue, request, answers=False)
    assert queue.take() is None
    assert running[-1] is not None
    end(queue, running[-1], answers=True)
    assert queue.deferred == {}
    assert len(take_all(queue)) == 6  # beside the two that still run


def test_trouble_of_the_host_of_a_newer_url_is_that_host_s() -> None:
    queue = FairQueue([video("a", "old.example"), video("b", "old.example")], 8)
    taken = queue.take()
    assert taken is not None
    queue.ended(taken)
    for _ in range(GIVE_UP_AFTER):
        queue.note("new.example", answers=False)
    assert queue.take() == video("b", "old.example")


@settings(max_examples=thorough(50, 1000))
@given(threads, st.integers(min_value=1, max_value=30), st.integers(min_value=1, max_value=30))
def test_videos_that_failed_before_never_keep_fresh_ones_waiting(threads: int, retries: int, fresh: int) -> None:
    due = [video(f"old{number}", expires=1, attempts=9) for number in range(retries)]
    queue = FairQueue(due + [video(f"new{number}", expires=2) for number in range(fresh)], threads)
    held: list[VideoRequest] = []  # an old one never ends; a fresh one ends at once
    stored = 0
    while len(held) < threads and (request := queue.take()) is not None:
        if request.attempts:
            held.append(request)
            assert len(held) <= max(1, threads // 2) or stored == fresh
        else:
            stored += 1
            end(queue, request, answers=True)
    assert stored == fresh or threads == 1


def test_with_one_thread_fresh_ones_and_retries_take_turns() -> None:
    retries = [video(f"old{number}", expires=1, attempts=9) for number in range(3)]
    queue = FairQueue(retries + [video(f"new{number}", expires=2) for number in range(3)], 1)
    begun = []
    while (request := queue.take()) is not None:
        begun.append(request.job_id[:3])
        queue.ended(request)
    assert begun == ["old", "new", "old", "new", "old", "new"]


def test_what_is_no_url_has_no_host_to_be_blamed() -> None:
    queue = FairQueue([VideoRequest(job_id="a", source_url="nonsense", expires_at_ms=0, partition_at_ms=0)], 1)
    taken = queue.take()
    assert taken is not None
    queue.ended(taken)
    assert (queue.waiting, queue.deferred) == (0, {})
