"""The effect boundaries at which a crash is tried, as data. The package knows nothing of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Place(StrEnum):
    """Which process reaches a boundary."""

    TICK = "tick"  # the code server, on behalf of the daemon's sensor
    RUN = "run"
    COMMAND = "command"  # `akool-dagster track`


class Moment(StrEnum):
    """On which side of the effect the process dies."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """One effect of the package. ``target`` is where its callers look it up: ``module:name`` or ``module:class.name``.

    ``suffix`` limits it to calls whose last argument, a path, ends so. ``fault`` is one that must happen before
    anything reaches the boundary, ``calls`` how often.
    """

    name: str
    target: str
    place: Place
    suffix: str = ""
    fault: str | None = None
    calls: int = 1


_POLLING = "akool_dagster.ledger.polling:PollingLedger"
_VIDEOS = "akool_dagster.ledger.videos:VideoLedger"
_LANDINGS = "akool_dagster.ledger.landings:LandingLedger"
_LEASES = "akool_dagster.ledger.leases"
_ROOT = "akool_dagster.storage.root:StorageRoot"
_FILES = "akool_dagster.storage.local:OsFiles"
_TICK, _RUN, _COMMAND = Place.TICK, Place.RUN, Place.COMMAND

BOUNDARIES: tuple[Boundary, ...] = (
    Boundary(name="claim ids", target=f"{_POLLING}.claim", place=_TICK),
    Boundary(name="call Akool", target="akool_dagster.api.client:AkoolClient.results", place=_TICK),
    Boundary(name="record answers", target=f"{_POLLING}.record", place=_TICK),
    Boundary(name="give claims back", target=f"{_POLLING}.release", place=_TICK),
    Boundary(name="hold polling", target=f"{_POLLING}.hold", place=_TICK, fault="429", calls=4),
    Boundary(name="halve a call", target=f"{_POLLING}.set_call_size", place=_TICK, fault="500", calls=8),
    Boundary(name="write changes", target="akool_dagster.ledger.polling:update_locked_jobs", place=_TICK),
    Boundary(name="decide landings", target=f"{_LANDINGS}.dirty", place=_TICK),
    Boundary(name="take lease", target=f"{_LEASES}:Leases.take", place=_RUN),
    Boundary(name="note start", target=f"{_LANDINGS}.note_start", place=_RUN),
    Boundary(name="renew lease", target=f"{_LEASES}:Leases.renew", place=_RUN),
    Boundary(name="check lease", target=f"{_LEASES}:HeldLease.check", place=_RUN),
    Boundary(name="release lease", target=f"{_LEASES}:Leases.release", place=_RUN),
    Boundary(name="read snapshot", target=f"{_LANDINGS}.snapshot", place=_RUN),
    # Dagster records the materialisation right after the IO manager, and the landed version comes after that.
    Boundary(name="handle output", target="akool_dagster.io_manager:ParquetIOManager.handle_output", place=_RUN),
    Boundary(name="record landed", target=f"{_LANDINGS}.record_landed", place=_RUN),
    Boundary(name="publish table", target=f"{_ROOT}.publish", place=_RUN, suffix=".parquet"),
    Boundary(name="rename table", target=f"{_FILES}.replace", place=_RUN, suffix=".parquet"),
    Boundary(name="mark storage root", target=f"{_FILES}.link", place=_RUN, suffix=".json"),
    Boundary(name="note marked root", target=f"{_LANDINGS}.note_marked_root", place=_RUN),
    Boundary(name="read due videos", target=f"{_VIDEOS}.due", place=_RUN),
    Boundary(name="download", target="akool_dagster.videos.store:download_video", place=_RUN),
    Boundary(name="publish video", target=f"{_ROOT}.publish", place=_RUN, suffix=".mp4"),
    Boundary(name="rename video", target=f"{_FILES}.replace", place=_RUN, suffix=".mp4"),
    Boundary(name="record stored video", target=f"{_VIDEOS}.store", place=_RUN),
    Boundary(name="record failed video", target=f"{_VIDEOS}.fail", place=_RUN),
    Boundary(name="keep newer URL", target=f"{_VIDEOS}.keep_url", place=_RUN, fault="no_video_url", calls=2),
    Boundary(name="count version", target="akool_dagster.ledger.part:next_version", place=_COMMAND),
    Boundary(name="track ids", target="akool_dagster.ledger.tracking:Tracking.track", place=_COMMAND),
)

ONLY_AT_THE_FIRST_LANDING = frozenset({"mark storage root", "note marked root"})
