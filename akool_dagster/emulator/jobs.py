"""What an emulated job is, where it stands at a moment, and the row Akool would answer for it. No effects."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import cycle
from typing import Literal

Outcome = Literal["completed", "failed"]
Row = dict[str, object]

DAY_MS = 86_400_000
URL_LIFETIME_SECONDS = 7 * 86_400
_OBJECT_ID = re.compile(r"[0-9a-f]{24}")

#: Encoded pictures are small so that rendering them is quick; the real sizes would only cost time.
PICTURE_SIZES: Mapping[str, tuple[int, int]] = {"720p": (160, 96), "1080p": (240, 136), "4k": (320, 180)}
#: The price list of Akool's documentation, in credits: (for up to five seconds, for up to ten).
CREDITS: Mapping[str, tuple[int, int]] = {"720p": (20, 40), "1080p": (25, 50), "4k": (30, 60)}
AUDIO_CREDITS = (5, 10)


class JobStatus(IntEnum):
    """The status numbers of Akool's rows."""

    QUEUEING = 1
    PROCESSING = 2
    COMPLETED = 3
    FAILED = 4


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED})


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulatedJob:
    """One image-to-video job as the emulator will play it.

    The job queues, processes and then ends with ``outcome``. It moves by seconds, or by the number of calls that
    asked for it as soon as ``queue_polls`` or ``processing_polls`` is set (the other one then counts as 0).
    ``extra_fields`` are merged into every row last, so they can also replace a field. Raises ``ValueError`` for an
    id that is not 24 lower-case hexadecimal digits, and for sizes a video cannot have.
    """

    job_id: str
    queue_seconds: float = 1.0
    processing_seconds: float = 2.0
    queue_polls: int | None = None
    processing_polls: int | None = None
    outcome: Outcome = "completed"
    video_duration: float = 5.063
    resolution: str = "720p"
    deduction_credit: float = 20
    prompt: str = "Animate this image with smooth camera movement and subtle object motion."
    has_audio: bool = False
    only_add_audio: bool = False
    created_ms: int | None = None
    available_from_ms: int | None = None
    extra_fields: Mapping[str, object] = field(default_factory=dict, hash=False)
    failure_reason: str | None = None
    width: int | None = None
    height: int | None = None
    url_lifetime_seconds: float = URL_LIFETIME_SECONDS

    def __post_init__(self) -> None:
        if not _OBJECT_ID.fullmatch(self.job_id):
            raise ValueError(f"{self.job_id!r} is not an id of 24 lower-case hexadecimal digits.")
        if self.video_duration <= 0:
            raise ValueError(f"A video lasts longer than {self.video_duration} seconds.")
        if any(size < 2 or size % 2 for size in self.picture_size):
            raise ValueError(f"Width and height of a video are even and positive, not {self.picture_size}.")

    @property
    def create_time(self) -> int:
        """Epoch milliseconds of creation: ``created_ms``, or else the second that the id starts with."""
        return int(self.job_id[:8], 16) * 1000 if self.created_ms is None else self.created_ms

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of the rendered video in pixels."""
        width, height = PICTURE_SIZES.get(self.resolution, PICTURE_SIZES["720p"])
        return self.width or width, self.height or height

    @property
    def moves_by_polls(self) -> bool:
        """Whether calls move the job, and not seconds."""
        return self.queue_polls is not None or self.processing_polls is not None

    @property
    def work_seconds(self) -> float:
        """Seconds from creation to the end as the rows tell it, whatever the emulator's speed."""
        return self.queue_seconds + self.processing_seconds

    def status(self, *, elapsed_seconds: float, earlier_polls: int) -> JobStatus:
        """Return where the job stands after that many seconds, or after that many earlier polls."""
        queue, processing, passed = self.queue_seconds, self.processing_seconds, elapsed_seconds
        if self.moves_by_polls:
            queue, processing, passed = self.queue_polls or 0, self.processing_polls or 0, earlier_polls
        if passed < queue:
            return JobStatus.QUEUEING
        if passed < queue + processing:
            return JobStatus.PROCESSING
        return JobStatus.COMPLETED if self.outcome == "completed" else JobStatus.FAILED

    def update_time(self, settled_ms: int) -> int:
        """Return the epoch milliseconds of the end, for a job the emulator saw end at ``settled_ms``.

        A job created long ago ended soon after its creation, also when the emulator plays its end only now.
        """
        return min(self.create_time + round(self.work_seconds * 1000), settled_ms)

    def row(self, status: JobStatus, *, video_url: str, settled_ms: int | None) -> Row:
        """Return the row of ``resultsByIds``; ``settled_ms`` is None while the job has not ended.

        Fields and their order follow the vendor's examples: no ``video_url`` key unless completed, and a job that
        only adds audio shows the times of the video it came from while it waits.
        """
        create_time = self.create_time
        completed = status is JobStatus.COMPLETED
        row: Row = {
            "_id": self.job_id,
            "create_time": create_time,
            "uid": 100001,
            "team_id": "680000000000000000000001",
            "webhookUrl": "",
            "file_name": f"Image2Video_{self.prompt[:24]}.mp4",
            "effect_name": "",
            "image_url": f"https://cdn.example/inputs/{self.job_id}.png",
            "prompt": self.prompt,
            "resolution": self.resolution,
            "audio_type": 2 if self.only_add_audio else 1 if self.has_audio else 3,
            "audio_url": f"https://cdn.example/inputs/{self.job_id}.mp3" if self.only_add_audio else "",
            "deduction_credit": self.deduction_credit,
            "effect_code": "",
            "status": int(status),
            "only_add_audio": self.only_add_audio,
        }
        if settled_ms is not None:
            row["update_time"] = self.update_time(settled_ms)
        elif self.only_add_audio:
            row["update_time"] = create_time - 303_606
        if completed or (self.only_add_audio and settled_ms is None):
            row["video_duration"] = self.video_duration
        if completed:
            row["sub_type"] = 1501
            row["video_url"] = video_url
        if status is JobStatus.FAILED and self.failure_reason is not None:
            row["error_reason"] = self.failure_reason
        row.update(self.extra_fields)
        return row


_PROMPTS = (
    "Animate this image with smooth camera movement and subtle object motion.",
    "A paper boat drifts along a rainy street, the camera follows close to the water.",
    "Slow push-in on the perfume bottle, light sweeps across the glass.",
    "The fox turns its head and looks into the camera, snow falling.",
    "Orbit around the sneaker on a rotating pedestal, studio light.",
    "Clouds race over the mountain ridge while the grass moves in the wind.",
)
_FAILURE_REASONS = (
    "The input image could not be downloaded.",
    "The input image was refused by the content check.",
    "The video could not be generated, check your input resources.",
)
#: What the create requests of some customers leave in their rows: batches, and addresses that carry secrets.
_ECHOES: tuple[Mapping[str, object], ...] = (
    {},
    {},
    {"model_name": "AkoolImage2VideoFastV1", "negative_prompt": "blur, text"},
    {"effect_name": "Squish", "effect_code": "squish_89244231312"},
    {"image_url": "https://images.example.com/product.png?X-Expires=3600&X-Signature=emulated"},
    {"webhookUrl": "https://hooks.example.org/akool?token=emulated"},
)


def population(count: int, *, seed: int, now_ms: int, days: int = 4) -> tuple[EmulatedJob, ...]:
    """Return ``count`` varied jobs, oldest first, spread evenly over the last ``days`` UTC days.

    The same arguments give the same jobs. All were created at least two minutes before ``now_ms``; just after
    midnight, when today has no room for that, the days end with yesterday. One job in eight fails; the video
    addresses of the others are still alive. Raises ``ValueError`` for a negative count or less than one day.
    """
    if count < 0 or days < 1:
        raise ValueError("A population has no fewer than 0 jobs and spans at least 1 day.")
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    failed = set(rng.sample(range(count), round(count / 8)))
    audio_only = set(rng.sample(range(count), round(count / 12))) - failed
    moments = _creation_moments(count, rng, now_ms=now_ms, days=days)
    lifetime = max(URL_LIFETIME_SECONDS, (days + 3) * 86_400)
    jobs = (
        _varied_job(rng, created_ms, index in failed, index in audio_only, lifetime)
        for index, created_ms in enumerate(moments)
    )
    return tuple(sorted(jobs, key=lambda job: (job.create_time, job.job_id)))


def _creation_moments(count: int, rng: random.Random, *, now_ms: int, days: int) -> Iterator[int]:
    newest = now_ms - 120_000
    last_midnight = newest // DAY_MS * DAY_MS
    if newest - last_midnight < 600_000:
        newest = last_midnight - 1
        last_midnight -= DAY_MS
    midnights = cycle(last_midnight - day * DAY_MS for day in range(days))
    for _, midnight in zip(range(count), midnights, strict=False):
        yield rng.randint(midnight, min(midnight + DAY_MS - 1, newest))


def _varied_job(rng: random.Random, created_ms: int, failed: bool, audio_only: bool, lifetime: float) -> EmulatedJob:
    resolution = rng.choices(tuple(CREDITS), weights=(5, 3, 1))[0]
    duration = round(rng.uniform(2.0, 10.0), 3)
    prices = AUDIO_CREDITS if audio_only else CREDITS[resolution]
    queue_tenths = rng.randint(3, 30)
    return EmulatedJob(
        job_id=f"{created_ms // 1000:08x}{rng.getrandbits(64):016x}",
        created_ms=created_ms,
        queue_seconds=queue_tenths / 10,
        processing_seconds=rng.randint(10, 80 - queue_tenths) / 10,
        outcome="failed" if failed else "completed",
        failure_reason=rng.choice(_FAILURE_REASONS) if failed else None,
        video_duration=duration,
        resolution=resolution,
        deduction_credit=0 if failed else prices[duration > 5.1],
        prompt=rng.choice(_PROMPTS),
        has_audio=audio_only or rng.random() < 0.3,
        only_add_audio=audio_only,
        extra_fields=rng.choice(_ECHOES),
        url_lifetime_seconds=lifetime,
    )
