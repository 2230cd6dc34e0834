"""What the verifier accepts, with which facts, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from akool_dagster.videos.errors import UnplayableVideoError
from akool_dagster.videos.probe import probe_video
from tests.mp4 import render_png, render_sound, render_video
from tests.thoroughness import thorough

FRAGMENTS = "frag_keyframe+empty_moov"

#: Files that play. Each has 24 pictures of 96 x 64 in a second, and no sound, but for what is said under OTHER_FACTS.
PLAYABLE: dict[str, dict[str, Any]] = {
    "index at the end": {},
    "index first": {"movflags": "+faststart"},
    "index at the end, with sound": {"audio": True},
    "index first, with sound": {"audio": True, "movflags": "+faststart"},
    "sound longer than the picture": {"audio": True, "audio_seconds": 3.0},
    "sound shorter than the picture": {"audio": True, "audio_seconds": 0.2},
    "PCM sound": {"audio": True, "audio_codec": "pcm_s16le"},
    "MP3 sound": {"audio": True, "audio_codec": "libmp3lame"},
    "B-frames": {"b_frames": 3},
    "4:4:4": {"pixels": "yuv444p"},
    "odd size": {"width": 97, "height": 63, "pixels": "yuv444p"},
    "one picture": {"seconds": 1 / 24},
    "variable rate": {"variable_rate": True},
    "HEVC": {"codec": "libx265"},
    "AV1": {"codec": "libsvtav1"},
    "VP9": {"codec": "libvpx-vp9"},
    "MPEG-4 Part 2": {"codec": "mpeg4"},
    "MPEG-4 Part 2 with B-frames": {"codec": "mpeg4", "b_frames": 2},
    "MPEG-4 Part 2 of odd size": {"codec": "mpeg4", "width": 97, "height": 63},
    "MPEG-4 Part 2 in fragments": {"codec": "mpeg4", "movflags": FRAGMENTS},
    "fragments": {"movflags": FRAGMENTS},
    "fragments, one a picture, with sound": {"audio": True, "movflags": "frag_every_frame+empty_moov"},
    "fragments after an index of the first": {"movflags": "frag_keyframe"},
    "fragments with their own index": {"movflags": f"{FRAGMENTS}+dash+global_sidx"},
    "one picture in a fragment": {"seconds": 1 / 24, "movflags": FRAGMENTS},
    "cover art": {"cover": True},
    "chapters": {"chapters": True},
    "timecode": {"timecode": "01:00:00:00"},
    "QuickTime": {"container": "mov"},
    "WebM": {"container": "webm", "codec": "libvpx"},
}
OTHER_FACTS: dict[str, dict[str, Any]] = {
    "sound longer than the picture": {"probed_duration": 3.0},
    "PCM sound": {"audio_codec": "pcm_s16le"},
    "MP3 sound": {"audio_codec": "mp3"},
    "odd size": {"width": 97, "height": 63},
    "MPEG-4 Part 2 of odd size": {"width": 97, "height": 63},
    "one picture": {"frames": 1, "probed_duration": 1 / 24},
    "one picture in a fragment": {"frames": 1, "probed_duration": 1 / 24},
    "variable rate": {"fps": 24 / (33 / 24), "probed_duration": 33 / 24},
    "HEVC": {"video_codec": "hevc"},
    "AV1": {"video_codec": "av1"},
    "VP9": {"video_codec": "vp9"},
    "WebM": {"video_codec": "vp8", "container": "matroska,webm"},
}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", PLAYABLE)
def test_a_video_that_plays_is_accepted_with_its_facts(kind: str, tmp_path: Path) -> None:
    options = PLAYABLE[kind]
    expected = {
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "video_codec": "mpeg4" if kind.startswith("MPEG-4") else "h264",
        "audio_codec": "aac" if options.get("audio") else None,
        "width": 96,
        "height": 64,
        "fps": 24.0,
        "frames": 24,
        "probed_duration": 1.0,
        **OTHER_FACTS.get(kind, {}),
    }
    facts = asdict(probe_video(written(tmp_path, render_video(**options))))
    assert facts.pop("probed_duration") == pytest.approx(expected.pop("probed_duration"), abs=0.12)
    assert facts.pop("fps") == pytest.approx(expected.pop("fps"), rel=0.01)
    assert facts == expected


@given(st.data())
@settings(max_examples=thorough(100, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_video_cut_at_any_byte_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(PLAYABLE)))
    whole = render_video(**PLAYABLE[kind])
    # A WebM has no index of all packets: a cut in its last twentieth of a second shows nowhere.
    longest = len(whole) * 9 // 10 if kind == "WebM" else len(whole) - 1
    length = data.draw(st.integers(min_value=0, max_value=longest))
    assume(length not in ends_of_fragments(whole))
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, whole[:length]))


def ends_of_fragments(whole: bytes) -> set[int]:
    """Return where a file may be cut without anyone seeing it: after a fragment, which is a shorter whole video."""
    ends, start, has_fragments = set(), 0, False
    while whole[4:8] == b"ftyp" and start < len(whole):
        kind = whole[start + 4 : start + 8]
        has_fragments = has_fragments or kind == b"moof"
        start += int.from_bytes(whole[start : start + 4], "big")
        if kind == b"mdat":
            ends.add(start)
    return ends if has_fragments else set()


@pytest.mark.parametrize("junk", [bytes(3), bytes(64), b"TAG" + b"a title" * 18])
def test_bytes_after_the_movie_are_no_part_of_it(junk: bytes, tmp_path: Path) -> None:
    assert probe_video(written(tmp_path, render_video(movflags="+faststart") + junk)).frames == 24


def test_an_mp4_that_does_not_say_what_it_is_is_one(tmp_path: Path) -> None:
    whole = render_video(movflags="+faststart").replace(b"ftyp", b"free", 1)
    assert probe_video(written(tmp_path, whole)).frames == 24


def sample_sizes(whole: bytes) -> tuple[int, int]:
    """Return where an MP4 of one track has its table of packet sizes, and how many there are."""
    at = whole.index(b"stsz") + 12
    return at + 4, int.from_bytes(whole[at : at + 4], "big")


@pytest.mark.parametrize(("size", "is_accepted"), [(0, True), (1 << 30, False)])
def test_a_packet_may_be_empty_but_not_missing(size: int, is_accepted: bool, tmp_path: Path) -> None:
    whole = bytearray(render_video(movflags="+faststart"))
    sizes, number = sample_sizes(bytes(whole))
    last = sizes + 4 * (number - 1)
    whole[last : last + 4] = size.to_bytes(4, "big")
    path = written(tmp_path, bytes(whole))
    if is_accepted:
        assert probe_video(path).frames == 24
    else:
        with pytest.raises(UnplayableVideoError, match="cut short"):
            probe_video(path)


def test_a_video_of_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnplayableVideoError, match="codec is unknown"):
        probe_video(written(tmp_path, render_video().replace(b"avc1", b"zzzz")))


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=40), st.integers(min_value=0, max_value=2000))
@example(junk=b"", other=b"\x08\x00", at=460)
@settings(max_examples=thorough(40, 1000), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_probed_or_refused_and_nothing_else(
    tmp_path: Path, junk: bytes, other: bytes, at: int
) -> None:
    whole = render_video(2, movflags="+faststart")
    for content in (junk, whole[:at] + other + whole[at + len(other) :]):
        try:
            assert probe_video(written(tmp_path, content)).frames > 0
        except UnplayableVideoError as error:
            assert str(tmp_path) not in str(error)


def streamed(whole: bytes) -> bytes:
    """Let the last box of an MP4 reach to the end of the file, wherever that is, so that no size gives a cut away."""
    at = whole.rindex(b"mdat") - 4
    return whole[:at] + bytes(4) + whole[at + 4 :]


@pytest.mark.parametrize("missing", ["a part of the last packet", "the last packet", "the last two packets"])
def test_a_cut_is_found_by_the_packets_alone(missing: str, tmp_path: Path) -> None:
    whole = streamed(render_video(2, movflags="+faststart"))
    path = written(tmp_path, whole)
    assert probe_video(path).frames == 24
    with av.open(str(path)) as container:
        starts = sorted(packet.pos for packet in container.demux() if packet.pos is not None and packet.size)
    length = {
        "a part of the last packet": len(whole) - 1,
        "the last packet": starts[-1],
        "the last two packets": starts[-2],
    }
    with pytest.raises(UnplayableVideoError, match="cut short"):
        probe_video(written(tmp_path, whole[: length[missing]]))


def test_frames_hidden_by_an_edit_list_are_not_missing(tmp_path: Path) -> None:
    facts = probe_video(written(tmp_path, render_video(7, seconds=2.0, hidden_start=1.25)))
    assert facts.probed_duration == pytest.approx(0.75, abs=0.05)
    assert 0 < facts.frames < 48


def test_a_cut_video_with_an_edit_list_is_refused(tmp_path: Path) -> None:
    whole = render_video(8, seconds=2.0, hidden_start=1.25, movflags="+faststart")
    assert probe_video(written(tmp_path, whole)).frames > 0
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, whole[: len(whole) * 9 // 10]))


NO_VIDEOS = {
    "nothing": b"",
    "html": b"<!doctype html><html><body>Access denied</body></html>" * 50,
    "json": b'{"code": 1000}',
    "zeros": bytes(5000),
    "a header only": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhi\n",
    "a picture": render_png(),
    "sound": render_sound(),
}


@pytest.mark.parametrize("content", NO_VIDEOS.values(), ids=NO_VIDEOS)
def test_what_is_no_video_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, content))


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile target.mp4\n",
    ],
)
def test_a_playlist_opens_no_other_file(playlist: str, tmp_path: Path) -> None:
    target = tmp_path / "target.mp4"
    target.write_bytes(render_video(1))
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, playlist.format(target=target).encode()))


def test_a_file_that_is_not_there_is_not_an_unplayable_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe_video(tmp_path / "missing.mp4")
