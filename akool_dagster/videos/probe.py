"""Verify that a file is a whole, playable video, and find out what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from akool_dagster.videos.boxes import Index, read_index_kind
from akool_dagster.videos.errors import UnplayableVideoError

#: What libav may take a file for, and do with it. Without the first two a text file can be a playlist, and a
#: playlist opens other files and addresses; a PNG would be a video of one frame. A parser would split and join
#: packets, which are counted. libav hides the packets of chapter tracks unless it is told to ignore chapters.
DEMUXERS: Mapping[str, str] = {
    "format_whitelist": "mov,matroska,webm",
    "protocol_whitelist": "file",
    "fflags": "noparse",
    "ignore_chapters": "1",
}

#: Keeps libav from decoding the beginning of a file to guess what the header of most codecs tells: it opens an H.264
#: file of 5 MB in 0.4 ms instead of 5.6, a VP9 file in 0.4 ms instead of 16.7. In MPEG-4 Part 2 and H.263 only
#: the first picture tells width and height: such a file is opened again without this option.
HEADER_ONLY: Mapping[str, str] = {**DEMUXERS, "codec_whitelist": "none"}

#: An edit list hides frames on purpose; with this option libav gives every frame in the file.
EVERY_FRAME: Mapping[str, str] = {"advanced_editlist": "0"}

#: Seconds by which the last packet may end before the duration that a file without one index announces.
DURATION_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What demuxing a video to its end found."""

    container: str
    video_codec: str
    """The codec's name (``av1``), not a decoder's (``libdav1d``)."""
    audio_codec: str | None
    width: int
    height: int
    fps: float
    frames: int
    probed_duration: float
    """Seconds, as the container announces them."""


@dataclass(frozen=True)
class _Demuxed:
    facts: VideoFacts
    hidden: int
    """Frames of the file's own index that libav's does not have."""


def probe_video(path: Path) -> VideoFacts:
    """Read every packet of a video and return its facts. Memory does not grow with the file's size.

    A header alone proves nothing: it announces the whole video in a file that was cut after it.
    Raises `UnplayableVideoError` for anything but a whole MP4, QuickTime, Matroska or WebM video, and
    `OSError` for a file that cannot be read.
    """
    index = read_index_kind(path)
    options = HEADER_ONLY
    try:
        demuxed = _demux(path, options, index)
        if demuxed is None:
            options = DEMUXERS
            demuxed = _demux(path, options, index)
        if demuxed is None:
            raise UnplayableVideoError("The video has no width and height.")
        if demuxed.hidden and (again := _demux(path, {**options, **EVERY_FRAME}, index)) and again.hidden:
            raise UnplayableVideoError(f"The video is cut short: {again.hidden} frames are missing.")
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UnplayableVideoError(f"The file is not a playable video: {reason}.") from error
    return demuxed.facts


def _demux(path: Path, options: Mapping[str, str], index: Index) -> _Demuxed | None:
    """Return what is in a video; None when libav finds no width and height with these options."""
    packets: Counter[int] = Counter()
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    with av.open(str(path.absolute()), options=dict(options), metadata_errors="replace") as container:
        video = _main_video(container)
        if not (video.width and video.height):
            return None
        # Arithmetic per packet would cost more than reading it: times stay in their stream's own unit.
        for packet in container.demux():
            if not packet.size and packet.dts is None:
                continue  # PyAV ends every stream with such a packet; an empty packet of the file has a time
            if packet.is_corrupt:
                raise UnplayableVideoError("The video is cut short or damaged.")
            number = packet.stream_index
            packets[number] += 1
            if index is not Index.WHOLE and packet.pts is not None:
                starts[number] = min(starts.get(number, packet.pts), packet.pts)
                ends[number] = max(ends.get(number, packet.pts), packet.pts + (packet.duration or 0))
        # libav's index has the packets that are shown, and PCM sound in chunks.
        promised = {s.index: len(s.index_entries) for s in container.streams if index is not Index.CLUSTERS}
        if missing := sum(max(0, number - packets[stream]) for stream, number in promised.items()):
            raise UnplayableVideoError(f"The video is cut short: {missing} packets are missing.")
        duration = (container.duration or 0) / av.time_base
        if index is not Index.WHOLE:
            end = max((float(ends[i] * (container.streams[i].time_base or 0)) for i in ends), default=0.0)
            if end < duration - DURATION_TOLERANCE:
                raise UnplayableVideoError(f"The video is cut short: {end:.3f} of {duration:.3f} s are there.")
        frames = packets[video.index]
        if not frames:
            raise UnplayableVideoError("The video has no frames.")
        rate = video.average_rate or video.guessed_rate
        ticks = ends.get(video.index, 0) - starts.get(video.index, 0)
        if index is Index.FRAGMENTS and ticks and video.time_base:
            rate = Fraction(frames, ticks) / video.time_base  # libav knows that of the first fragment only
        fps = float(rate) if rate else (frames / duration if duration else 0.0)
        facts = VideoFacts(
            container=container.format.name,
            video_codec=_codec(video) or "",
            audio_codec=next(filter(None, map(_codec, container.streams.audio)), None),
            width=video.width,
            height=video.height,
            fps=fps,
            frames=frames,
            probed_duration=duration or (frames / fps if fps else 0.0),
        )
        hidden = sum(max(0, stream.frames - packets[stream.index]) for stream in container.streams.video)
    return _Demuxed(facts, hidden if index is Index.WHOLE else 0)


def _main_video(container: InputContainer) -> VideoStream:
    """Return the first track with pictures whose codec libav knows. Cover art is no such track."""
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        raise UnplayableVideoError("The file has no video in it.")
    known = [stream for stream in videos if _codec(stream) is not None]
    if not known:
        raise UnplayableVideoError("The video's codec is unknown.")
    return next((stream for stream in known if len(stream.index_entries)), known[0])


def _codec(stream: Stream) -> str | None:
    # PyAV's types leave out that a stream of an unknown codec has no context.
    context: CodecContext | None = stream.codec_context
    return context.codec.canonical_name if context is not None else None
