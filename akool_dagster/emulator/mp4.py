"""Real videos for emulated jobs: a small moving picture that differs from job to job, in an MP4 container."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from akool_dagster.emulator.jobs import EmulatedJob

FRAMES_PER_SECOND = 24
SAMPLES_PER_SECOND = 48_000
CACHE_BYTES = 256 * 1024 * 1024

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Video:
    """The bytes of one file and their entity tag, with its quotes."""

    content: bytes
    etag: str


class VideoCache:
    """Renders each job's video once and keeps the latest used, up to ``max_bytes``. Safe for many threads.

    A video that was dropped is rendered again when asked for, with the same bytes.
    """

    def __init__(self, seed: int, max_bytes: int = CACHE_BYTES) -> None:
        self._seed = seed
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._videos: OrderedDict[EmulatedJob, Future[Video]] = OrderedDict()

    def get(self, job: EmulatedJob) -> Video:
        """Return the job's video, rendering it in this thread or waiting for the thread that does."""
        with self._lock:
            found = self._videos.get(job)
            future: Future[Video] = Future() if found is None else found
            self._videos[job] = future
            self._videos.move_to_end(job)
        if found is None:
            try:
                future.set_result(_video(render(job, seed=self._seed)))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._videos.pop(job, None)
            else:
                self._drop_oldest()
        return future.result()

    def ready(self, job: EmulatedJob) -> bool:
        """Return whether ``get`` would answer at once."""
        future = self._videos.get(job)
        return future is not None and future.done()

    def _drop_oldest(self) -> None:
        with self._lock:
            finished = [
                (job, len(future.result().content))
                for job, future in self._videos.items()
                if future.done() and future.exception() is None
            ]
            kept = sum(size for _, size in finished)
            for job, size in finished[:-1]:
                if kept <= self._max_bytes:
                    break
                del self._videos[job]
                kept -= size


def _video(content: bytes) -> Video:
    return Video(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def render(job: EmulatedJob, *, seed: int) -> bytes:
    """Return an MP4 whose duration is the job's to within a frame: H.264 where x264 is built in, else MPEG-4.

    Seed, id and sizes fix the bytes on one machine; another build of FFmpeg may encode the same picture otherwise.
    """
    identity = hashlib.sha256(f"{seed}:{job.job_id}".encode()).digest()
    noise = np.random.default_rng(int.from_bytes(identity[:8], "big"))
    width, height = job.picture_size
    buffer = io.BytesIO()
    # The title makes two files differ even where their pictures would encode alike.
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        container.metadata["title"] = job.job_id
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "ultrafast", "crf": "32"} if codec == "libx264" else {}
        picture: Any = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        # One thread: the bytes of several would depend on how they were scheduled.
        picture.codec_context.thread_count = 1
        sound: Any = container.add_stream("aac", rate=SAMPLES_PER_SECOND, layout="mono") if job.has_audio else None
        scene = _Scene(noise, width, height)
        for index in range(max(1, round(job.video_duration * FRAMES_PER_SECOND))):
            frame = av.VideoFrame.from_ndarray(scene.frame(index), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None:
            container.mux(sound.encode(_tone(noise, job.video_duration)))
            container.mux(sound.encode(None))
    return buffer.getvalue()


class _Scene:
    """A drifting pattern of waves in the job's own colours, with a bright square that bounces over it."""

    def __init__(self, noise: np.random.Generator, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._side = max(2, min(width, height) // 4)
        self._drift = int(noise.integers(1, 4))
        self._start = noise.integers(0, max(width, height), size=2)
        self._step = noise.integers(1, 5, size=2)
        # Twice as wide as the picture, so that drifting is taking another slice.
        across = np.arange(2 * width) * (2 * np.pi / width)
        down = np.arange(height)[:, None] * (2 * np.pi / height)
        waves = np.zeros((height, 2 * width))
        for _ in range(3):
            right, bottom = noise.integers(1, 5, size=2)
            waves += np.sin(right * across + bottom * down + noise.uniform(0, 2 * np.pi))
        self._waves = (110 + waves * 25).astype(np.uint8)
        self._colours = np.repeat(noise.integers(60, 196, size=2).astype(np.uint8), (height // 2) * (width // 2))

    def frame(self, index: int) -> Pixels:
        """Return the planes of YUV 4:2:0 below each other, as PyAV takes them."""
        left = index * self._drift % self._width
        brightness = self._waves[:, left : left + self._width].copy()
        x = _bounce(int(self._start[0] + index * self._step[0]), self._width - self._side)
        y = _bounce(int(self._start[1] + index * self._step[1]), self._height - self._side)
        brightness[y : y + self._side, x : x + self._side] = 235
        planes = np.concatenate([brightness.reshape(-1), self._colours])
        return planes.reshape(self._height * 3 // 2, self._width)


def _bounce(position: int, room: int) -> int:
    """Return where something that turns round at 0 and at ``room`` is after going ``position`` pixels."""
    if room <= 0:
        return 0
    position %= 2 * room
    return position if position <= room else 2 * room - position


def _tone(noise: np.random.Generator, seconds: float) -> av.AudioFrame:
    moments = np.arange(round(seconds * SAMPLES_PER_SECOND)) / SAMPLES_PER_SECOND
    wave = 0.2 * np.sin(2 * np.pi * noise.uniform(200, 600) * moments)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None, :], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLES_PER_SECOND, 0, Fraction(1, SAMPLES_PER_SECOND)
    return frame
