"""Akool's HTTP API, usable without Dagster."""

from akool_dagster.api.client import AkoolClient
from akool_dagster.api.credentials import ApiKey, ClientCredentials, Token, credentials_from
from akool_dagster.api.errors import (
    AkoolAccountError,
    AkoolConfigurationError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolDeadlineError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
)
from akool_dagster.api.models import ResultRow, ResultsAnswer

__all__ = [
    "AkoolAccountError",
    "AkoolClient",
    "AkoolConfigurationError",
    "AkoolContentError",
    "AkoolCredentialsError",
    "AkoolDeadlineError",
    "AkoolError",
    "AkoolResponseError",
    "AkoolThrottledError",
    "AkoolTransientError",
    "ApiKey",
    "ClientCredentials",
    "ResultRow",
    "ResultsAnswer",
    "Token",
    "credentials_from",
]
