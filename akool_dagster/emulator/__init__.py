"""A local Akool: the same endpoints, real MP4 files, and faults on demand. Needs the extra ``emulator``.

It imitates what the documentation describes of ``resultsByIds``, ``getToken`` and ``quota/info``, and a CDN for the
videos. It is a stand-in for tests and demonstrations, not a model of Akool's timing, prices or limits.
"""

from akool_dagster.emulator.errors import EmulatorError, EmulatorExtraMissingError
from akool_dagster.emulator.jobs import EmulatedJob, JobStatus, population
from akool_dagster.emulator.journal import Journal, RecordedRequest

try:
    from akool_dagster.emulator.fault_kinds import FAULT_KINDS, Endpoint, FaultKind
    from akool_dagster.emulator.faults import Fault, FaultScript, FaultSwitch, RandomFaults
    from akool_dagster.emulator.server import AkoolEmulator
except ImportError as error:
    if (error.name or "").partition(".")[0] in ("starlette", "uvicorn"):
        raise EmulatorExtraMissingError from error
    raise

__all__ = [
    "FAULT_KINDS",
    "AkoolEmulator",
    "EmulatedJob",
    "EmulatorError",
    "EmulatorExtraMissingError",
    "Endpoint",
    "Fault",
    "FaultKind",
    "FaultScript",
    "FaultSwitch",
    "JobStatus",
    "Journal",
    "RandomFaults",
    "RecordedRequest",
    "population",
]
