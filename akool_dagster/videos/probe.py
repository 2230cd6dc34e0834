"""Whether a file is a whole, playable video, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
from av.codec import CodecContext
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from akool_dagster.videos.errors import UnplayableVideoError

#: What libav may take a file for, and do with it. Without the first two a text file can be a playlist, and a
#: playlist opens other files and addresses; a PNG would be a video of one frame. The third keeps it from
#: decoding the beginning to guess what the header tells anyway: 0.3 ms instead of 4 to open a file of 5 MB.
DEMUXERS: Mapping[str, str] = {
    "format_whitelist": "mov,matroska,webm",
    "protocol_whitelist": "file",
    "codec_whitelist": "none",
}

#: An edit list hides samples on purpose; with this option libav gives every sample in the file.
EVERY_SAMPLE: Mapping[str, str] = {"advanced_editlist": "0"}

#: Seconds by which the last packet may end before the duration that a container without an index announces.
DURATION_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What demuxing a video to its end found."""

    container: str
    video_codec: str
    audio_codec: str | None
    width: int
    height: int
    fps: float
    frames: int
    probed_duration: float
    """Seconds, as the container announces them."""


@dataclass(frozen=True, kw_only=True)
class _Demuxed:
    facts: VideoFacts
    short_by: int
    """Packets that the container's index promises and the file does not have."""


def probe_video(path: Path) -> VideoFacts:
    """Read every packet of a video and return its facts. Nothing is decoded; memory does not grow with size.

    A header alone proves nothing: it announces the whole video in a file that was cut after it.
    Raises `UnplayableVideoError` for anything but a whole MP4, QuickTime, Matroska or WebM video, and
    `OSError` for a file that cannot be read.
    """
    _refuse_cut_boxes(path)
    try:
        demuxed = _demux(path, DEMUXERS)
        if demuxed.short_by:
            every_sample = _demux(path, {**DEMUXERS, **EVERY_SAMPLE})
            if every_sample.short_by:
                raise UnplayableVideoError(f"The video is cut short: {every_sample.short_by} packets are missing.")
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnplayableVideoError(f"The file is not a playable video: {reason}.") from error
    return demuxed.facts


def _demux(path: Path, options: Mapping[str, str]) -> _Demuxed:
    packets: Counter[int] = Counter()
    ends: dict[int, int] = {}
    with av.open(str(path.absolute()), options=dict(options), metadata_errors="replace") as container:
        pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not pictures:
            raise UnplayableVideoError("The file has no video in it.")
        # Arithmetic per packet would cost more than reading it: ends stay in their stream's own unit.
        has_index = all(stream.frames for stream in container.streams)
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.is_corrupt:
                raise UnplayableVideoError("The video is cut short or damaged.")
            index = packet.stream_index
            packets[index] += 1
            if not has_index and packet.pts is not None:
                ends[index] = max(ends.get(index, 0), packet.pts + (packet.duration or 0))
        duration = (container.duration or 0) / av.time_base
        if not has_index:
            end = max((float(ends[i] * (container.streams[i].time_base or 0)) for i in ends), default=0.0)
            if end < duration - DURATION_TOLERANCE:
                raise UnplayableVideoError(f"The video is cut short: {end:.3f} of {duration:.3f} s are there.")
        audio = container.streams.audio
        facts = _facts(
            pictures[0],
            container=container.format.name,
            audio_codec=_codec(audio[0]) if audio else None,
            frames=packets[pictures[0].index],
            duration=duration,
        )
        short_by = sum(max(0, stream.frames - packets[stream.index]) for stream in container.streams)
    return _Demuxed(facts=facts, short_by=short_by)


def _facts(stream: VideoStream, *, container: str, audio_codec: str | None, frames: int, duration: float) -> VideoFacts:
    codec = _codec(stream)
    if codec is None:
        raise UnplayableVideoError("The video's codec is unknown.")
    if not (frames and stream.width and stream.height):
        raise UnplayableVideoError("The video has no frames.")
    rate = stream.average_rate or stream.guessed_rate
    fps = float(rate) if rate else (frames / duration if duration else 0.0)
    return VideoFacts(
        container=container,
        video_codec=codec,
        audio_codec=audio_codec,
        width=stream.width,
        height=stream.height,
        fps=fps,
        frames=frames,
        probed_duration=duration or (frames / fps if fps else 0.0),
    )


def _codec(stream: Stream) -> str | None:
    # PyAV's types leave out that a stream of an unknown codec has no context.
    context: CodecContext | None = stream.codec_context
    return context.name if context is not None else None


def _refuse_cut_boxes(path: Path) -> None:
    """Refuse an MP4 whose last box reaches past the end of the file, which libav forgives after the index."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            head = file.read(16)
            if start == 0 and head[4:8] != b"ftyp":
                return
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:  # The box reaches to the end, whatever that is.
                return
            if length < 8 or start + length > size:
                raise UnplayableVideoError("The video is cut short or damaged: its last part is not whole.")
            start += length
        if start != size:
            raise UnplayableVideoError("The video is cut short or damaged: its last part is not whole.")
