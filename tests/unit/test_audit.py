"""What the dependency audit makes of what its tools say: a check that did not happen is never called a passed one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.audit import consistency, vulnerabilities

CLEAN: dict[str, Any] = {"name": "clean", "version": "1.0", "vulns": []}
SKIPPED: dict[str, Any] = {"name": "skipped", "skip_reason": "Dependency not found on PyPI"}
BAD: dict[str, Any] = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_finding_fails_and_is_named_even_when_others_were_not_looked_up() -> None:
    verdict = vulnerabilities(report(SKIPPED, CLEAN, BAD))
    assert verdict.failed
    assert "bad 2.0: PYSEC-1" in verdict.message
    assert "bad 2.0: PYSEC-2" in verdict.message


def test_a_clean_report_says_how_many_were_looked_up_and_which_were_not() -> None:
    verdict = vulnerabilities(report(CLEAN, SKIPPED))
    assert not verdict.failed
    assert "No known vulnerability in 1 packages" in verdict.message
    assert "NOT LOOKED UP: skipped" in verdict.message


@pytest.mark.parametrize(
    "said",
    [report(), report(SKIPPED), report(SKIPPED, SKIPPED), "", "{}", "[]", "null", '{"dependencies": 3}', "Traceback"],
)
def test_an_audit_that_looked_nothing_up_says_that_it_did_not_run(said: str) -> None:
    verdict = vulnerabilities(said, "Traceback ...\nrequests.exceptions.ConnectionError: no such host\n")
    assert verdict.message.startswith("AUDIT DID NOT RUN")
    assert not verdict.failed


def test_the_reason_is_the_last_thing_that_was_said() -> None:
    assert (
        "(ConnectionError: no such host)"
        in vulnerabilities("", "Traceback\n  line\nConnectionError: no such host").message
    )


def test_packages_that_do_not_fit_together_fail() -> None:
    assert consistency(1, "a 1.0 requires b, which is not installed.\n").failed
    assert "requires b" in consistency(1, "a 1.0 requires b, which is not installed.\n").message
    assert not consistency(0, "No broken requirements found.\n").failed
