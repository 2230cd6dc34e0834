from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from akool_dagster.videos.errors import UnplayableVideoError
from akool_dagster.videos.probe import probe_video
from tests.mp4 import render_png, render_sound, render_video

KINDS: dict[str, Callable[[], bytes]] = {
    "index at the end": lambda: render_video(1),
    "index first": lambda: render_video(2, movflags="+faststart"),
    "index at the end, with sound": lambda: render_video(3, audio=True),
    "index first, with sound": lambda: render_video(4, audio=True, movflags="+faststart"),
    "fragments": lambda: render_video(5, movflags="frag_keyframe+empty_moov"),
    "webm": lambda: render_video(6, container="webm", codec="libvpx"),
}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_video_tells_its_facts(kind: str, tmp_path: Path) -> None:
    facts = probe_video(written(tmp_path, KINDS[kind]()))
    assert (facts.width, facts.height, facts.fps, facts.frames) == (96, 64, 24.0, 24)
    assert facts.probed_duration == pytest.approx(1.0, abs=0.05)
    assert facts.video_codec == ("vp8" if kind == "webm" else "h264")
    assert facts.audio_codec == ("aac" if "sound" in kind else None)
    assert ("webm" if kind == "webm" else "mp4") in facts.container


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_cut_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    whole = KINDS[kind]()
    # A WebM has no index to hold against: a cut within its last twentieth of a second shows nowhere.
    fractions = range(1, 19) if kind == "webm" else range(1, 21)
    for length in (len(whole) * step // 21 for step in fractions):
        with pytest.raises(UnplayableVideoError):
            probe_video(written(tmp_path, whole[:length]))


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_mp4_cut_at_any_byte_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = KINDS[data.draw(st.sampled_from(["index first, with sound", "index at the end, with sound"]))]()
    length = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, whole[:length]))


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=40), st.integers(min_value=0, max_value=2000))
@example(junk=b"", other=b"\x08\x00", at=460)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("nothing", b""),
        ("html", b"<!doctype html><html><body>Access denied</body></html>" * 50),
        ("text", b"hello world\n" * 500),
        ("json", b'{"code": 1000}'),
        ("zeros", b"\0" * 5000),
        ("a header only", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"),
        ("subtitles", b"1\n00:00:00,000 --> 00:00:01,000\nhi\n"),
    ],
)
def test_what_is_no_video_is_refused(what: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, content))


def test_a_picture_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(UnplayableVideoError):
        probe_video(written(tmp_path, render_png()))


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


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(UnplayableVideoError, match="no video"):
        probe_video(written(tmp_path, render_sound()))


def test_a_file_that_is_not_there_is_not_an_unplayable_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe_video(tmp_path / "missing.mp4")
