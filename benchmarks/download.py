"""Download: videos from a web server on loopback, verified and published, against threads that do neither, and curl."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import av
import numpy as np

from akool_dagster.base.clock import Deadline, SystemClock
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.transport import HttpTransport
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.download import HEADERS
from akool_dagster.videos.fetch import FetchLimits, VideoRequest, fetch_videos
from akool_dagster.videos.refresh import AkoolSays, Refreshed
from benchmarks.ledgers import DAY_START_MS, job_ids
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.report import Line, best_of_rounds, megabytes, say, seconds

FILES, QUICK_FILES = 200, 40
FILE_BYTES, LARGE_BYTES = 5_000_000, 50_000_000
MEMORY_FILES = 24
THREADS = 8
ROUNDS = 3
LEAST_SHARE_OF_PLAIN = 0.6
FLAT_BYTES = 16_000_000
"""Growth that still counts as none: two megabytes a thread, where holding whole files would take 360."""
WIDTH, HEIGHT, FPS = 640, 360, 24
ALL_SECONDS = 600.0

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000; types {{ video/mp4 mp4; }}
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {files}; }}
}}
"""


def run(quick: bool) -> list[Line]:
    """Measure downloading."""
    names = [f"{job_id}.mp4" for job_id in job_ids(QUICK_FILES if quick else FILES)]
    with tempfile.TemporaryDirectory(prefix="akool-bench-") as folder:
        served = Path(folder, "served")
        served.mkdir()
        say("Download: rendering videos ...")
        size = _render(served / "small.mp4", FILE_BYTES)
        large_size = _render(served / "large.mp4", LARGE_BYTES)
        for name in names:
            (served / name).hardlink_to(served / "small.mp4")
            (served / f"large-{name}").hardlink_to(served / "large.mp4")
        with _web_server(Path(folder), served) as (base_url, server):
            urls = [f"{base_url}/{name}" for name in names]
            large = [f"{base_url}/large-{name}" for name in names[:MEMORY_FILES]]
            say("Download: memory ...")
            small_peak = in_fresh_process(_memory, Path(folder, "stored"), base_url, urls[:MEMORY_FILES])
            large_peak = in_fresh_process(_memory, Path(folder, "stored"), base_url, large)
            say(f"Download: {ROUNDS} rounds of {len(urls)} files ...")
            took = in_fresh_process(_rounds, Path(folder, "stored"), base_url, urls)
    total = size * len(urls)
    what = f"Download {len(urls)} files of {megabytes(size)} from {server}, {THREADS} threads"
    ours = f"{took['ours']:.2f} s, {megabytes(total / took['ours'])}/s, hashed, demuxed, synced"
    lines = [_against(took, total, f"{what}: against neither", ours, "plain", "same threads, neither, synced")]
    if "curl" in took:
        lines += [
            _against(took, total, f"{what}: against curl", ours, "curl", "curl -Z --parallel-max 8", share=1.0),
            _against(took, total, f"{what}: against curl, synced", ours, "curl, synced", "and its files synced"),
        ]
    grown = large_peak - small_peak
    return [
        *lines,
        Line(
            what=f"{what}: peak memory of {MEMORY_FILES} files",
            ours=f"{megabytes(large_peak)} with files of {megabytes(large_size)}",
            baseline=f"{megabytes(small_peak)} with files of {megabytes(size)}",
            target=f"does not grow (within {megabytes(FLAT_BYTES)}); grew {grown / 1e6:.1f} MB",
            met=grown <= FLAT_BYTES,
        ),
    ]


def _against(
    took: dict[str, float], total: int, what: str, ours: str, name: str, how: str, share: float = LEAST_SHARE_OF_PLAIN
) -> Line:
    reached = took[name] / took["ours"]
    stated_only = name == "curl, synced"
    return Line(
        what=what,
        ours=ours,
        baseline=f"{took[name]:.2f} s, {megabytes(total / took[name])}/s: {how}",
        target=f"{'stated' if stated_only else f'at least {share:.1f}x its rate'}; is {reached:.2f}x",
        met=None if stated_only else reached >= share,
    )


def _render(path: Path, size: int) -> int:
    """Write a video of noise of at least that many bytes, and return how many it has."""
    noise = np.random.default_rng(0)
    written = 0
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        while written < size:
            pixels = noise.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                written += packet.size
                output.mux(packet)
        output.mux(stream.encode())
    return path.stat().st_size


@contextmanager
def _web_server(folder: Path, files: Path) -> Iterator[tuple[str, str]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    nginx = shutil.which("nginx")
    if nginx is None:
        name, options = "http.server", ["--bind", "127.0.0.1", "--protocol", "HTTP/1.1", "--directory", str(files)]
        command = [sys.executable, "-m", "http.server", str(port), *options]
    else:
        name = "nginx"
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, files=files, port=port))
        command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=None if nginx else quiet)
    try:
        _wait_until_listening(process, port)
        yield f"http://127.0.0.1:{port}", name
    finally:
        process.terminate()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = Deadline(SystemClock(), 20)
    while not deadline.expired():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            SystemClock().sleep(0.05)
    raise RuntimeError(f"The web server did not start on port {port}.")


def _fetch(folder: Path, base_url: str, urls: Sequence[str]) -> None:
    outcomes: list[object] = []
    summary = fetch_videos(
        [
            VideoRequest(
                job_id=url.rpartition("/")[2].removesuffix(".mp4"),
                source_url=url,
                expires_at_ms=DAY_START_MS + number,
                partition_at_ms=DAY_START_MS,
            )
            for number, url in enumerate(urls)
        ],
        root=StorageRoot(str(folder)),
        folder="akool/videos",
        policy=AddressPolicy(base_url),
        time_budget=Deadline(SystemClock(), ALL_SECONDS),
        refresh=lambda *_: Refreshed(says=AkoolSays.NOTHING),
        on_outcome=outcomes.append,
        clock=SystemClock(),
        limits=FetchLimits(threads=THREADS),
    )
    assert summary.stored == len(urls) == len(outcomes), summary


def _fetch_plainly(folder: Path, base_url: str, urls: Sequence[str]) -> None:
    """Do what `fetch_videos` does but for hashing and demuxing."""
    root = StorageRoot(str(folder))
    bounds = Bounds(deadline=Deadline(SystemClock(), ALL_SECONDS))

    def fetch(url: str) -> None:
        relative = f"akool/videos/{url.rpartition('/')[2]}"
        with root.temporary(relative) as path:
            with (
                http.request("GET", url, bounds=bounds, headers=HEADERS) as response,
                root.files.open(path, "xb") as file,
            ):
                for chunk in response.chunks:
                    file.write(chunk)
            root.publish(path, relative)

    with (
        closing(HttpTransport(AddressPolicy(base_url), connections=THREADS)) as http,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        list(pool.map(fetch, urls))


def _fetch_with_curl(curl: str, sync: bool, folder: Path, base_url: str, urls: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / url.rpartition("/")[2] for url in urls]
    config = "".join(f'url = "{url}"\noutput = "{file}"\n' for url, file in zip(urls, files, strict=True))
    options = ["-q", "-Z", "--parallel-max", str(THREADS), "--no-progress-meter", "--fail", "--noproxy", "*", "-K", "-"]
    subprocess.run([curl, *options], input=config.encode(), check=True)
    if sync:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(StorageRoot(str(folder)).files.fsync, files))


def _memory(folder: Path, base_url: str, urls: Sequence[str]) -> int:
    _fetch(folder, base_url, urls)
    shutil.rmtree(folder)
    return peak_memory()


def _rounds(folder: Path, base_url: str, urls: Sequence[str]) -> dict[str, float]:
    curl = shutil.which("curl")
    fetchers: dict[str, Callable[[Path, str, Sequence[str]], None]] = {"ours": _fetch, "plain": _fetch_plainly}
    if curl is not None:
        fetchers |= {
            "curl": partial(_fetch_with_curl, curl, False),
            "curl, synced": partial(_fetch_with_curl, curl, True),
        }

    def timed(fetch: Callable[[Path, str, Sequence[str]], None]) -> float:
        took = seconds(lambda: fetch(folder, base_url, urls))
        shutil.rmtree(folder)  # what was not written to the disk yet need not be any more, to nobody's cost
        return took

    return best_of_rounds({name: partial(timed, fetch) for name, fetch in fetchers.items()}, ROUNDS)
