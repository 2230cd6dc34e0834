"""Real videos for tests, rendered with PyAV: small, deterministic, different for each seed."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.stream import Disposition

if TYPE_CHECKING:
    from av.container.core import Chapter

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
    audio_seconds: float | None = None,
    audio_codec: str = "aac",
    movflags: str = "",
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    b_frames: int = 0,
    variable_rate: bool = False,
    cover: bool = False,
    chapters: bool = False,
    timecode: str = "",
    hidden_start: float = 0.0,
) -> bytes:
    """Return the bytes of a video of noise. ``hidden_start`` seconds of it are cut away by an edit list."""
    options = {"movflags": movflags} if movflags else {}
    if hidden_start:
        options |= {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        with av.open(str(path), "w", format=container, options=options) as output:
            output.metadata.update({"timecode": timecode} if timecode else {})
            picture = output.add_stream(codec, rate=fps)
            assert isinstance(picture, av.VideoStream)
            picture.width, picture.height, picture.pix_fmt = width, height, pixels
            picture.options = {"g": "12", "threads": "1", **QUIET.get(codec, {})}
            if b_frames:
                picture.codec_context.max_b_frames = b_frames
            sound = output.add_stream(audio_codec, rate=SAMPLE_RATE) if audio else None
            art = _add_cover(output) if cover else None
            if chapters:
                output.set_chapters(_chapters(seconds))
            packets = []
            noise = np.random.default_rng(seed)
            for number in range(round(seconds * fps)):
                frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8), "rgb24")
                if variable_rate:
                    frame.pts, frame.time_base = number + number // 6 * 3, Fraction(1, fps)
                packets += picture.encode(frame)
            for packet in [*packets, *picture.encode()]:
                if hidden_start and packet.pts is not None and packet.dts is not None:
                    shift = round(Fraction(hidden_start) / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                output.mux(packet)
            if isinstance(sound, av.AudioStream):
                _add_tone(output, sound, seconds if audio_seconds is None else audio_seconds)
            if art is not None:
                output.mux([*art.encode(_black()), *art.encode()])
        return path.read_bytes()


#: Encoders that would write their progress to the terminal, and one that would take seconds.
QUIET = {
    "libx265": {"x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12"},
    "libvpx-vp9": {"deadline": "realtime"},
}


def _black() -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")


def _add_cover(output: av.container.OutputContainer) -> av.VideoStream:
    art = output.add_stream("png")
    assert isinstance(art, av.VideoStream)
    art.width, art.height, art.pix_fmt = 64, 64, "rgb24"
    art.disposition = Disposition.attached_pic
    return art


def _chapters(seconds: float) -> list[Chapter]:
    half = round(seconds * 500)
    return [
        {
            "id": part,
            "start": half * part,
            "end": half * (part + 1),
            "time_base": Fraction(1, 1000),
            "metadata": {"title": "Part"},
        }
        for part in (0, 1)
    ]


def _add_tone(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    total = int(seconds * SAMPLE_RATE)
    size = stream.codec_context.frame_size or 1024
    for start in range(0, total, size):
        times = np.arange(start, min(start + size, total))
        samples = (np.sin(times / 20) * 8000).astype(np.int16)[None, :]
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
            output.mux(stream.encode(_black()))
            output.mux(stream.encode())
        return path.read_bytes()


def duration_of(content: bytes) -> float:
    """Return the seconds that a video's container says it lasts."""
    with av.open(io.BytesIO(content), "r") as container:
        assert container.duration is not None
        return container.duration / av.time_base
