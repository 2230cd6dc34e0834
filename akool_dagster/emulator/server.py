"""The emulator as an HTTP server: what tests and demonstrations start, ask and stop."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.emulator.admin import admin_routes
from akool_dagster.emulator.errors import EmulatorError
from akool_dagster.emulator.faults import FaultSwitch
from akool_dagster.emulator.jobs import EmulatedJob
from akool_dagster.emulator.journal import Journal
from akool_dagster.emulator.mp4 import VideoCache
from akool_dagster.emulator.routes import AkoolRoutes
from akool_dagster.emulator.service import Account, AkoolService
from akool_dagster.emulator.web_server import WebServer, listen


class AkoolEmulator(AkoolService):
    """A local Akool with its CDN, for tests and demonstrations. Use it as a context manager, or start and stop it.

    It listens on ``port``, 0 for any free one, and again on the same after a restart, so that an outage can be
    played. Job times run by ``clock``, ``speed`` times as fast. ``faults`` says which faults are on, ``journal`` what
    was asked and answered. It answers nothing the documentation does not describe: no creating, deleting or listing
    of jobs. Below ``/emulator/`` are paths that Akool does not have: to switch faults and to read the journal of an
    emulator in another process. Example::

        with AkoolEmulator(jobs=[EmulatedJob(job_id="6891abe782f7cd2a890c44ba")]) as emulator:
            client = AkoolClient(ApiKey("emulator-key"), base_url=emulator.base_url)
    """

    def __init__(
        self,
        api_key: str = "emulator-key",
        client_id: str = "emulator-client",
        client_secret: str = "emulator-secret",  # noqa: S107 - it guards nothing
        seed: int = 0,
        jobs: Sequence[EmulatedJob] = (),
        clock: Clock | None = None,
        speed: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 0,
        max_ids_per_call: int | None = None,
    ) -> None:
        super().__init__(
            Account(api_key=api_key, client_id=client_id, client_secret=client_secret),
            clock=clock or SystemClock(),
            faults=FaultSwitch(seed),
            speed=speed,
            max_ids_per_call=max_ids_per_call,
        )
        for job in jobs:
            self.add_job(job)
        self.journal = Journal()
        self._videos = VideoCache(seed)
        self._host = host
        self._port = port
        self._server: WebServer | None = None

    @property
    def base_url(self) -> str:
        """Where the API is; the CDN is below it at ``/cdn/``. Raises `EmulatorError` before the first start."""
        if not self.address:
            raise EmulatorError("The emulator has no address before it is started.")
        return self.address

    def video_bytes(self, job_id: str) -> bytes:
        """Return the bytes the CDN serves for a job that completes. Raises ``KeyError`` for an unknown id."""
        return self._videos.get(self.jobs[job_id]).content

    def start(self) -> None:
        """Listen and serve in a thread. Raises `EmulatorError` when running already or when the port is taken."""
        if self._server is not None:
            raise EmulatorError(f"The emulator is running at {self.base_url} already.")
        listener = listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"http://{host}:{self._port}"
        server = WebServer(self.application())
        server.start(listener)
        self._server = server
        self.begin()

    def application(self) -> Starlette:
        """Return the emulator as an ASGI application: Akool's paths, the CDN's, and those below ``/emulator/``."""
        akool = AkoolRoutes(self, self.journal, self._videos, self._clock)
        return Starlette(
            routes=akool.routes + admin_routes(self, self.journal),
            exception_handlers={HTTPException: akool.refuse_unknown},
        )

    def stop(self) -> None:
        """Close every connection and end the thread. Jobs, journal and faults stay; stopping twice is harmless."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
