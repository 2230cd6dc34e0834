"""What keeps the emulator from running."""

from __future__ import annotations

from akool_dagster.errors import AkoolDagsterError


class EmulatorError(AkoolDagsterError):
    """The emulator cannot start, or is used before it was started."""


class EmulatorExtraMissingError(EmulatorError, ImportError):
    """The packages of the extra ``emulator`` are not installed."""

    def __init__(self) -> None:
        super().__init__("The emulator needs starlette and uvicorn: pip install 'akool-dagster[emulator]'")
