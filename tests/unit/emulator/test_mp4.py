from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import av
import pytest

from akool_dagster.emulator import mp4
from akool_dagster.emulator.jobs import EmulatedJob
from akool_dagster.emulator.mp4 import FRAMES_PER_SECOND, VideoCache, render

JOB = EmulatedJob(job_id="6891abe782f7cd2a890c44ba", video_duration=1.0)
JOBS = (
    JOB,
    replace(JOB, video_duration=5.063, resolution="1080p", has_audio=True),
    replace(JOB, video_duration=0.02, resolution="4k"),
)


def test_videos_play_to_their_end_and_last_as_long_as_their_jobs_say() -> None:
    for job in JOBS:
        content = render(job, seed=0)
        assert content[4:8] == b"ftyp"
        with av.open(io.BytesIO(content), "r") as container:
            picture = container.streams.video[0]
            assert (picture.width, picture.height) == job.picture_size
            assert picture.codec_context.name in ("h264", "mpeg4")
            codecs = [stream.codec_context.name for stream in container.streams.audio]
            assert codecs == (["aac"] if job.has_audio else [])
            assert container.duration is not None
            assert abs(container.duration / 1_000_000 - job.video_duration) <= 1 / FRAMES_PER_SECOND
            frames = sum(1 for _ in container.decode(video=0))
            assert frames == max(1, round(job.video_duration * FRAMES_PER_SECOND))


def test_the_picture_moves() -> None:
    with av.open(io.BytesIO(render(JOB, seed=0)), "r") as container:
        frames = [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]
    assert len(set(frames)) == len(frames)


@pytest.mark.parametrize("has_audio", [False, True])
def test_the_same_job_and_seed_give_the_same_bytes(has_audio: bool) -> None:
    job = replace(JOB, has_audio=has_audio)
    assert render(job, seed=5) == render(job, seed=5)
    assert render(job, seed=5) != render(job, seed=6)


def test_every_job_has_a_file_of_its_own() -> None:
    jobs = [replace(JOB, job_id=f"{number:024x}", video_duration=0.1) for number in range(5)]
    assert len({hashlib.sha256(render(job, seed=0)).digest() for job in jobs}) == len(jobs)


@pytest.mark.parametrize(("width", "height"), [(2, 2), (320, 16), (16, 320)])
def test_odd_shapes_are_rendered_too(width: int, height: int) -> None:
    content = render(replace(JOB, width=width, height=height, video_duration=0.2), seed=0)
    with av.open(io.BytesIO(content), "r") as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (width, height)


def test_the_cache_drops_the_longest_unused_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "render", lambda job, *, seed: bytes(40))
    cache = VideoCache(seed=0, max_bytes=100)
    first, second, third = (replace(JOB, job_id=f"{number:024x}") for number in range(3))
    for job in (first, second, first, third):
        cache.get(job)
    assert [cache.ready(job) for job in (first, second, third)] == [True, False, True]
