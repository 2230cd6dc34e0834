"""The error hierarchy: one base, picklable leaves, no secrets in messages."""

from __future__ import annotations

import pickle

import pytest

from akool_dagster.api import errors
from akool_dagster.api.errors import AkoolError, AkoolThrottledError
from akool_dagster.errors import AkoolDagsterError

LEAVES = [
    errors.AkoolConfigurationError,
    errors.AkoolCredentialsError,
    errors.AkoolAccountError,
    errors.AkoolThrottledError,
    errors.AkoolContentError,
    errors.AkoolTransientError,
    errors.AkoolDeadlineError,
    errors.AkoolResponseError,
]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_is_an_error_of_the_package_and_survives_pickling(leaf: type[AkoolError]) -> None:
    error = leaf("what to do", code=1003, job_id="68919a464b4dbdd4ab3d3034")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(copy, AkoolDagsterError)
    assert type(copy) is leaf
    assert (str(copy), copy.message, copy.code, copy.job_id) == (
        "what to do",
        "what to do",
        1003,
        "68919a464b4dbdd4ab3d3034",
    )


def test_a_throttle_keeps_its_wait_through_pickling() -> None:
    assert pickle.loads(pickle.dumps(AkoolThrottledError("slow", retry_after=7.5))).retry_after == 7.5  # noqa: S301


def test_a_url_in_a_message_loses_its_query_and_user_info() -> None:
    error = AkoolError("cannot reach https://user:hunter2@api.example/v4?token=hunter2#hunter2 today")
    assert str(error) == "cannot reach https://api.example/v4 today"
    assert "hunter2" not in repr(error)
