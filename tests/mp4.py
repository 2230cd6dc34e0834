"""Real videos for tests, rendered with PyAV: small, deterministic, different for each seed."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 44_100


@cache
def render_video(
    seed: int = 0,
    *,
    seconds: float = 1.0,
    fps: int = 24,
    width: int = 96,
    height: int = 64,
    audio: bool = False,
    movflags: str = "",
    container: str = "mp4",
    codec: str = "libx264",
    hidden_start: float = 0.0,
) -> bytes:
    """Return the bytes of a video of noise. ``hidden_start`` seconds of it are cut away by an edit list."""
    options = {"movflags": movflags} if movflags else {}
    if hidden_start:
        options |= {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        with av.open(str(path), "w", format=container, options=options) as output:
            picture = output.add_stream(codec, rate=fps)
            assert isinstance(picture, av.VideoStream)
            picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
            picture.options = {"g": "12", "threads": "1"}
            sound = output.add_stream("aac", rate=SAMPLE_RATE) if audio else None
            packets = []
            noise = np.random.default_rng(seed)
            for _ in range(round(seconds * fps)):
                pixels = noise.integers(0, 255, (height, width, 3), dtype=np.uint8)
                packets += picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
            for packet in [*packets, *picture.encode()]:
                if hidden_start and packet.pts is not None and packet.dts is not None:
                    shift = round(Fraction(hidden_start) / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                output.mux(packet)
            if isinstance(sound, av.AudioStream):
                _add_tone(output, sound, seconds)
        return path.read_bytes()


def _add_tone(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    total = int(seconds * SAMPLE_RATE)
    for start in range(0, total, 1024):
        moments = np.arange(start, min(start + 1024, total))
        samples = (np.sin(moments / 20) * 8000).astype(np.int16)[None, :]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


@cache
def render_sound() -> bytes:
    """Return the bytes of an MP4 with sound and no picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sound.mp4")
        with av.open(str(path), "w") as output:
            sound = output.add_stream("aac", rate=SAMPLE_RATE)
            assert isinstance(sound, av.AudioStream)
            _add_tone(output, sound, 0.5)
        return path.read_bytes()


@cache
def render_png() -> bytes:
    """Return the bytes of a PNG picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        with av.open(str(path), "w", format="image2") as output:
            stream = output.add_stream("png")
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
            pixels = np.zeros((64, 64, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            output.mux(stream.encode())
        return path.read_bytes()


def duration_of(content: bytes) -> float:
    """Return the seconds that a video's container says it lasts."""
    with av.open(io.BytesIO(content), "r") as container:
        assert container.duration is not None
        return container.duration / av.time_base
