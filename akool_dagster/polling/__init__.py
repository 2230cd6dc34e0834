"""One bounded poll pass over the due ids, and when to poll next."""

from akool_dagster.polling.observations import observation_of
from akool_dagster.polling.poll_pass import (
    DEFAULT_CONCURRENT_REQUESTS,
    DEFAULT_IDS_PER_REQUEST,
    NEEDS_THE_USER,
    PollReport,
    ResultsApi,
    run_poll_pass,
)
from akool_dagster.polling.schedule import next_poll_delay_ms

__all__ = [
    "DEFAULT_CONCURRENT_REQUESTS",
    "DEFAULT_IDS_PER_REQUEST",
    "NEEDS_THE_USER",
    "PollReport",
    "ResultsApi",
    "next_poll_delay_ms",
    "observation_of",
    "run_poll_pass",
]
