"""Dagster resources: how a deployment reaches Akool, the ledger and the video files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from typing import Any

import dagster as dg
from pydantic import ConfigDict, Field, JsonValue, PrivateAttr, field_validator

from akool_dagster.api.base_url import DEFAULT_BASE_URL, checked_base_url
from akool_dagster.api.client import AkoolClient
from akool_dagster.api.credentials import credentials_from
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import LowSpeedLimit
from akool_dagster.ledger import AccountLedger, HeldLease, JobLedger, LandingKind
from akool_dagster.storage import StorageRoot, refuse_credentials
from akool_dagster.videos.fetch import FetchLimits

_SECRET: dict[str, JsonValue] = {"dagster__is_secret": True}
_LIMITS = FetchLimits()
_QUIET = ConfigDict(hide_input_in_errors=True)  # a key given as a number, or in a list, would be quoted


class AkoolResource(dg.ConfigurableResource[Any]):
    """Akool's HTTP API. Use ``with resource.client() as client``.

    Give an API key, or a client id and secret; if both are given the key is used, and only one header is ever sent.
    """

    model_config = _QUIET

    api_key: str | None = Field(
        default=None,
        description="API key, sent as x-api-key. Give it as EnvVar('AKOOL_API_KEY'): Dagster stores a literal.",
        repr=False,
        json_schema_extra=_SECRET,
    )
    client_id: str | None = Field(
        default=None,
        description="Client id, to be exchanged with client_secret for a token. Not needed with an api_key.",
        repr=False,
        json_schema_extra=_SECRET,
    )
    client_secret: str | None = Field(
        default=None,
        description="Client secret that belongs to client_id.",
        repr=False,
        json_schema_extra=_SECRET,
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL, description="Address of the API; only an emulator's needs to be given."
    )
    connect_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout: float = Field(default=20.0, gt=0, description="Seconds to wait for the next bytes of an answer.")

    @field_validator("base_url", mode="before")
    @classmethod
    def _refuse_credentials(cls, value: object) -> object:
        # The UI shows it. Anything else that is wrong with it is said by the tick, where jobs and videos go on.
        if isinstance(value, str) and not isinstance(value, dg.EnvVar) and re.search(r"[@?#]", value):
            checked_base_url(value)
        return value

    def client(self) -> AkoolClient:
        """Return a client with a connection pool of its own; close it after use.

        Raises `AkoolConfigurationError` naming the variable to set when the credentials or the URL cannot work.
        """
        return AkoolClient(
            credentials_from(self.api_key, self.client_id, self.client_secret),
            base_url=self.base_url,
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
        )


class JobLedgerResource(dg.ConfigurableResource[Any]):
    """The durable record of jobs. Use ``with resource.open() as ledger``."""

    model_config = _QUIET

    url: str = Field(
        description="SQLAlchemy URL of the ledger: sqlite:////absolute/path/ledger.sqlite or postgresql://...",
        repr=False,  # it may hold a password
        json_schema_extra=_SECRET,
    )
    busy_timeout: float = Field(
        default=15.0, gt=0, description="Seconds to wait for what another process is writing to the ledger."
    )

    _held: list[ExitStack] = PrivateAttr(default_factory=list)

    def open(self) -> JobLedger:
        """Open the ledger; never create one. Raises `LedgerError` leaves that say what to do."""
        return JobLedger.open(self.url, busy_timeout=self.busy_timeout)

    def create(self) -> JobLedger:
        """Open the ledger, creating or upgrading it where needed: for assets that track new jobs."""
        return JobLedger.create(self.url, busy_timeout=self.busy_timeout)

    @contextmanager
    def hold(
        self, account: str, kind: LandingKind, partition_key: str, run_id: str
    ) -> Iterator[tuple[AccountLedger, HeldLease]]:
        """Open the ledger and hold the lease of a partition while the block runs, at most until the run's teardown.

        A run that fails outside of the block, as in an IO manager, leaves the block's generator suspended: then
        `teardown_after_execution` gives the lease back. Raises `LeaseHeldError` when another run goes on holding it.
        """
        stack = ExitStack()
        self._held.append(stack)
        with stack:
            ledger = stack.enter_context(self.open()).account(account)
            yield ledger, stack.enter_context(ledger.leases.acquire(kind, partition_key, run_id))

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Release the leases that the run still holds, and close their ledgers. Called when the run fails, too."""
        while self._held:
            self._held.pop().close()


class VideoStoreResource(dg.ConfigurableResource[Any]):
    """Where video files are kept, and how they are downloaded."""

    model_config = _QUIET

    storage_root: str = Field(
        description="Absolute path, or s3://, gs:// or az:// URL, of the folder that everything is stored in. "
        "Credentials for it come from the environment."
    )
    threads: int = Field(default=_LIMITS.threads, ge=1, le=64, description="Downloads at the same time.")
    max_bytes: int = Field(default=_LIMITS.max_bytes, gt=0, description="Largest video that is accepted, in bytes.")
    run_seconds: float = Field(
        default=300.0, gt=0, description="Seconds in which one run starts new downloads; the rest waits for the next."
    )
    seconds_per_file: float = Field(
        default=_LIMITS.seconds_per_file,
        gt=0,
        description="Seconds that one download may take; a newer URL of Akool's gets no more.",
    )
    stall_seconds: float = Field(
        default=_LIMITS.low_speed.seconds,
        gt=0,
        description="Seconds over which stall_bytes_per_second must be kept up; a download below is tried again later.",
    )
    stall_bytes_per_second: float = Field(
        default=_LIMITS.low_speed.bytes_per_second,
        ge=0,
        description="Slowest acceptable download, averaged over stall_seconds, in bytes a second.",
    )
    reserve_bytes: int = Field(
        default=_LIMITS.reserve_bytes,
        ge=0,
        description="Bytes of the disk that downloads leave free, and set aside for a video of unknown size.",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Exact host names that may be downloaded from though they are private or without https.",
    )
    allowed_networks: list[str] = Field(
        default_factory=list, description="Networks (CIDR) that may be downloaded from though they are private."
    )

    @field_validator("storage_root", mode="before")
    @classmethod
    def _refuse_credentials(cls, value: object) -> object:
        if isinstance(value, str) and not isinstance(value, dg.EnvVar):
            refuse_credentials(value)
        return value

    @field_validator("allowed_networks")
    @classmethod
    def _refuse_what_is_no_network(cls, networks: list[str]) -> list[str]:
        for network in networks:
            if not isinstance(network, dg.EnvVar):
                ip_network(network)
        return networks

    def root(self) -> StorageRoot:
        """Return the storage root. Raises `StorageError` for a relative path or an unknown kind of URL."""
        return StorageRoot(self.storage_root)

    def limits(self) -> FetchLimits:
        """Return what one run's downloads may use."""
        return FetchLimits(
            threads=self.threads,
            seconds_per_file=self.seconds_per_file,
            max_bytes=self.max_bytes,
            low_speed=LowSpeedLimit(bytes_per_second=self.stall_bytes_per_second, seconds=self.stall_seconds),
            reserve_bytes=self.reserve_bytes,
        )

    def address_policy(self, api_base_url: str) -> AddressPolicy:
        """Return which addresses may be downloaded from."""
        return AddressPolicy(api_base_url, self.allowed_hosts, self.allowed_networks)
