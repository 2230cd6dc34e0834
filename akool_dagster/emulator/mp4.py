"""Real videos for emulated jobs: a small moving picture that differs from job to job, in an MP4 container."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import av

from akool_dagster.emulator.jobs import EmulatedJob

FRAMES_PER_SECOND = 24
CACHE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Video:
    """The bytes of one file and their entity tag, with its quotes."""

    content: bytes
    etag: str


class VideoCache:
    """Renders videos and keeps the latest used, up to ``max_bytes``. Safe for many threads.

    Two threads may render the same video at once, and a dropped video is rendered again: the bytes are the same.
    """

    def __init__(self, seed: int, max_bytes: int = CACHE_BYTES) -> None:
        self._seed = seed
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._videos: OrderedDict[EmulatedJob, Video] = OrderedDict()

    def get(self, job: EmulatedJob) -> Video:
        """Return the job's video, rendering it in this thread when it is not in the cache."""
        with self._lock:
            if (kept := self._videos.get(job)) is not None:
                self._videos.move_to_end(job)
                return kept
        content = render(job, seed=self._seed)
        video = Video(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        with self._lock:
            self._videos[job] = video
            while len(self._videos) > 1 and sum(len(one.content) for one in self._videos.values()) > self._max_bytes:
                self._videos.popitem(last=False)
        return video

    def ready(self, job: EmulatedJob) -> bool:
        """Return whether ``get`` would answer at once."""
        return job in self._videos


def render(job: EmulatedJob, *, seed: int) -> bytes:
    """Return an MP4 whose duration is the job's to within a frame: H.264 where x264 is built in, else MPEG-4.

    Seed, id and sizes fix the bytes on one machine; another build of FFmpeg may encode the same picture otherwise.
    """
    identity = int(hashlib.sha256(f"{seed}:{job.job_id}".encode()).hexdigest()[:8], 16)
    width, height = job.picture_size
    frames = max(1, round(job.video_duration * FRAMES_PER_SECOND))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # The title makes two files differ even where their pictures encode alike.
        container.metadata["title"] = f"{job.job_id} {identity}"
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "ultrafast", "crf": "32"} if codec == "libx264" else {}
        picture: Any = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        # One thread: the bytes of several would depend on how they were scheduled.
        picture.codec_context.thread_count = 1
        sound: Any = container.add_stream("aac", rate=48_000, layout="mono") if job.has_audio else None
        for frame in islice(_scene(identity, width, height), frames):
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None:
            for samples in _tone(identity, job.video_duration):
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return buffer.getvalue()


def _scene(identity: int, width: int, height: int) -> Iterator[Any]:
    """Yield frames without end: a square that bounces over a background in the job's own colour."""
    graph = av.filter.Graph()
    side = max(2, min(width, height) // 8 * 2)
    background = graph.add("color", f"color=0x{identity & 0xFFFFFF:06x}:size={width}x{height}:rate={FRAMES_PER_SECOND}")
    square = graph.add("color", f"color=0x{~identity & 0xFFFFFF:06x}:size={side}x{side}:rate={FRAMES_PER_SECOND}")
    # The steps are even: overlay places a picture of half-sized colour planes at even pixels only.
    bounce = ":".join(
        f"{axis}='abs(mod({start + 1}+n*{step},2*max(1,{room}))-{room})'"
        for axis, start, step, room in (
            ("x", identity % 89, 4, width - side),
            ("y", identity % 97, 2, height - side),
        )
    )
    overlay = graph.add("overlay", bounce)
    background.link_to(overlay, 0, 0)
    square.link_to(overlay, 0, 1)
    overlay.link_to(graph.add("buffersink"))
    graph.configure()
    while True:
        yield graph.pull()


def _tone(identity: int, seconds: float) -> Iterator[Any]:
    graph = av.filter.Graph()
    source = graph.add("sine", f"frequency={200 + identity % 400}:sample_rate=48000:duration={seconds}")
    form = graph.add("aformat", "sample_fmts=fltp:channel_layouts=mono")
    graph.link_nodes(source, form, graph.add("abuffersink")).configure()
    with suppress(av.EOFError):
        while True:
            yield graph.pull()
