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


_LEDGER = "akool_dagster.ledger.ledger:JobLedger"
_LANDINGS = "akool_dagster.ledger.landings:Landings"
_LEASES = "akool_dagster.ledger.leases"
_STORAGE = "akool_dagster.storage"
_TICK, _RUN, _COMMAND = Place.TICK, Place.RUN, Place.COMMAND

BOUNDARIES: tuple[Boundary, ...] = (
    Boundary(name="claim ids", target=f"{_LEDGER}.claim", place=_TICK),
    Boundary(name="call Akool", target="akool_dagster.api.client:AkoolClient.results", place=_TICK),
    Boundary(name="record answers", target=f"{_LEDGER}.record", place=_TICK),
    Boundary(name="give claims back", target=f"{_LEDGER}.release", place=_TICK),
    Boundary(name="hold polling", target=f"{_LEDGER}.hold_polling", place=_TICK, fault="429", calls=4),
    Boundary(name="remember landings", target=f"{_LANDINGS}.remember", place=_TICK),
    Boundary(name="land anew", target=f"{_LANDINGS}.land_anew", place=_TICK),
    Boundary(name="take lease", target=f"{_LEASES}:Leases.take", place=_RUN),
    Boundary(name="renew lease", target=f"{_LEASES}:Leases.renew", place=_RUN),
    Boundary(name="check lease", target=f"{_LEASES}:HeldLease.check", place=_RUN),
    Boundary(name="release lease", target=f"{_LEASES}:Leases.release", place=_RUN),
    Boundary(name="read snapshot", target=f"{_LEDGER}.snapshot", place=_RUN),
    # Dagster records the materialisation right after the IO manager, and the lease ends after the last of them.
    Boundary(name="handle output", target="akool_dagster.io_manager:ParquetIOManager.handle_output", place=_RUN),
    Boundary(name="end of landing", target=f"{_LEASES}:HeldLease.__exit__", place=_RUN),
    Boundary(name="publish table", target=f"{_STORAGE}:StorageRoot.publish", place=_RUN, suffix=".parquet"),
    Boundary(name="rename table", target=f"{_STORAGE}:OsFiles.replace", place=_RUN, suffix=".parquet"),
    Boundary(name="mark storage root", target=f"{_STORAGE}:OsFiles.link", place=_RUN, suffix=".json"),
    Boundary(name="note first landing", target=f"{_LANDINGS}.note_first", place=_RUN),
    Boundary(name="forget landing", target=f"{_LANDINGS}.forget", place=_RUN),
    Boundary(name="read due videos", target=f"{_LEDGER}.due_videos", place=_RUN),
    Boundary(name="download", target="akool_dagster.videos.store:download_video", place=_RUN),
    Boundary(name="publish video", target=f"{_STORAGE}:StorageRoot.publish", place=_RUN, suffix=".mp4"),
    Boundary(name="rename video", target=f"{_STORAGE}:OsFiles.replace", place=_RUN, suffix=".mp4"),
    Boundary(name="record stored video", target=f"{_LEDGER}.store_video", place=_RUN),
    Boundary(name="record failed video", target=f"{_LEDGER}.fail_video", place=_RUN),
    Boundary(name="keep newer URL", target=f"{_LEDGER}.keep_video_url", place=_RUN, fault="no_video_url", calls=2),
    Boundary(name="count revision", target="akool_dagster.ledger.ledger:next_revision", place=_COMMAND),
    Boundary(name="write changes", target="akool_dagster.ledger.ledger:write_changes", place=_TICK),
    Boundary(name="track ids", target=f"{_LEDGER}.track", place=_COMMAND),
)

ONLY_AT_THE_FIRST_LANDING = "mark storage root"
ONLY_WITH_A_RESTORED_LEDGER = "land anew"
