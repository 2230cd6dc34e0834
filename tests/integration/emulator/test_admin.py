"""Another process switches the faults of a running emulator, and reads what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from tests.clock import FakeClock

KEY = {"x-api-key": "emulator-key"}
FIRST = f"{FakeClock().now_ms() // 1000 - 60:08x}{1:016x}"


@pytest.fixture(scope="module")
def running() -> Iterator[AkoolEmulator]:
    with AkoolEmulator(jobs=[EmulatedJob(job_id=FIRST, queue_polls=0)], clock=FakeClock()) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: AkoolEmulator) -> AkoolEmulator:
    running.faults.clear()
    running.journal.clear()
    running.max_ids_per_call = None
    return running


class Admin:
    """Asks the paths below ``/emulator/``, and `resultsByIds` for the effect."""

    def __init__(self, emulator: AkoolEmulator, session: requests.Session) -> None:
        self._url = emulator.base_url
        self._session = session

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._session.request(method, f"{self._url}/emulator/{path}", timeout=10, **options)

    def poll(self, *job_ids: str) -> requests.Response:
        url = f"{self._url}/api/open/v4/image2Video/resultsByIds"
        return self._session.post(url, json={"_ids": ",".join(job_ids or (FIRST,))}, headers=KEY, timeout=10)


@pytest.fixture
def admin(emulator: AkoolEmulator) -> Iterator[Admin]:
    with requests.Session() as session:
        session.trust_env = False
        yield Admin(emulator, session)


def test_a_fault_is_switched_on_shown_and_removed(admin: Admin) -> None:
    added = admin("POST", "faults", json={"name": "429", "retry_after": 7, "endpoint": "resultsByIds"})
    assert added.status_code == 201
    shown = added.json()
    assert (shown["name"], shown["options"], shown["times_left"]) == ("429", {"retry_after": "7"}, None)
    assert admin("GET", "faults").json() == {"faults": [shown]}
    refused = admin.poll()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert admin("DELETE", "faults", params={"id": shown["id"]}).status_code == 204
    assert admin("GET", "faults").json() == {"faults": []}
    assert admin.poll().json()["code"] == 1000


def test_a_script_and_random_faults_are_switched_on_and_all_are_cleared(admin: Admin) -> None:
    script = admin("POST", "faults", json={"script": ["1005", None, {"name": "1015"}]})
    assert script.json()["times_left"] == 3
    assert [admin.poll().json()["code"] for _ in range(4)] == [1005, 1000, 1015, 1000]
    admin("POST", "faults", json={"random": 1, "names": ["2001"], "endpoint": "resultsByIds"})
    assert admin.poll().json()["code"] == 2001
    assert admin("DELETE", "faults").status_code == 204
    assert admin.poll().json()["code"] == 1000


def test_the_journal_is_read_and_cleared_and_has_no_admin_request_in_it(admin: Admin) -> None:
    admin("GET", "faults")
    admin.poll()
    (request,) = admin("GET", "journal").json()["requests"]
    assert (request["endpoint"], request["job_ids"], request["code"]) == ("resultsByIds", [FIRST], 1000)
    assert request["auth_headers"] == ["x-api-key"]
    assert admin("GET", "journal", params={"endpoint": "cdn"}).json() == {"requests": []}
    assert admin("DELETE", "journal").status_code == 204
    assert admin("GET", "journal").json() == {"requests": []}


def test_the_limit_of_ids_is_shown_and_changed(admin: Admin) -> None:
    assert admin("GET", "settings").json() == {"max_ids_per_call": None}
    assert admin("POST", "settings", json={"max_ids_per_call": 1}).json() == {"max_ids_per_call": 1}
    assert (admin.poll(FIRST).json()["code"], admin.poll(FIRST, "a").json()["code"]) == (1000, 1003)
    admin("POST", "settings", json={"max_ids_per_call": None})
    assert admin.poll(FIRST, "a").json()["code"] == 1000


@pytest.mark.parametrize(
    ("method", "path", "options", "message"),
    [
        ("POST", "faults", {"json": {"name": "no_such"}}, "There is no fault 'no_such'"),
        ("POST", "faults", {"json": {"name": "429", "times": 0}}, "'times' is not understood"),
        ("POST", "faults", {"json": ["429"]}, "JSON object"),
        ("POST", "faults", {"data": b"[" * 100_000}, "JSON object"),
        ("POST", "faults", {"json": {"name": "429"}, "params": {"times": 1}}, "no parameter 'times'"),
        ("DELETE", "faults", {"params": {"id": 4711}}, "No fault with the id '4711'"),
        ("GET", "journal", {"params": {"since": 1}}, "no parameter 'since'"),
        ("POST", "settings", {"json": {"max_ids_per_call": 0}}, "a number from 1"),
        ("POST", "settings", {"json": {"max_ids_per_call": "7"}}, "a number from 1"),
        ("POST", "settings", {"json": {"speed": 2}}, "only setting is 'max_ids_per_call'"),
    ],
)
def test_what_is_not_understood_is_a_400_that_says_why_and_changes_nothing(
    method: str, path: str, options: dict[str, Any], message: str, admin: Admin, emulator: AkoolEmulator
) -> None:
    response = admin(method, path, **options)
    assert response.status_code == 400
    assert message in response.json()["error"]
    assert emulator.faults.active == ()
    assert emulator.max_ids_per_call is None


def test_faults_do_not_keep_anybody_from_switching_them_off(admin: Admin) -> None:
    admin("POST", "faults", json={"random": 1, "hold_seconds": 0})
    assert admin("DELETE", "faults").status_code == 204
    assert admin.poll().json()["code"] == 1000


def test_there_is_nothing_else_below_the_emulators_own_paths(admin: Admin) -> None:
    assert admin("GET", "jobs").status_code == 404
    assert admin("PUT", "faults", json={}).status_code == 405
