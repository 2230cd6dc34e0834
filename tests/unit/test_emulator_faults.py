from __future__ import annotations

from collections.abc import Collection

import pytest

from akool_dagster.emulator.faults import FAULT_KINDS, Endpoint, FaultSwitch

FIRST, SECOND = f"{1:024x}", f"{2:024x}"


def happened(switch: FaultSwitch, endpoint: Endpoint, job_ids: Collection[str] = ()) -> str | None:
    fault = switch.take_for_call(endpoint, job_ids)
    return None if fault is None else fault.kind.name


def test_the_faults_are_those_of_the_table() -> None:
    assert set(FAULT_KINDS) == {
        *("1005", "429", "502", "reset"),
        *("missing_row", "failed_job", "short_body", "expired_url"),
    }


@pytest.mark.parametrize("name", sorted(FAULT_KINDS))
def test_each_fault_does_exactly_one_thing_somewhere(name: str) -> None:
    kind = FAULT_KINDS[name]
    assert sum(effect is not None for effect in (kind.answer, kind.breaks, kind.row, kind.job)) == 1
    assert kind.default
    assert kind.default <= kind.allowed
    assert kind.summary


def test_nothing_happens_unless_switched_on() -> None:
    switch = FaultSwitch()
    assert happened(switch, Endpoint.RESULTS, [FIRST]) is None
    assert switch.take_for_job(FIRST) is None


def test_a_fault_goes_off_after_its_times() -> None:
    switch = FaultSwitch()
    switch.add("1005", times=2)
    assert [happened(switch, Endpoint.RESULTS) for _ in range(3)] == ["1005", "1005", None]
    assert switch.active == ()


def test_a_fault_without_times_stays_until_it_is_removed() -> None:
    switch = FaultSwitch()
    fault = switch.add("502")
    assert {happened(switch, Endpoint.RESULTS) for _ in range(50)} == {"502"}
    switch.remove(fault)
    switch.remove(fault)
    assert happened(switch, Endpoint.RESULTS) is None


def test_clearing_switches_everything_off() -> None:
    switch = FaultSwitch()
    switch.add("502")
    switch.add("missing_row")
    switch.clear()
    assert happened(switch, Endpoint.RESULTS) is None
    assert switch.take_for_job(FIRST) is None


def test_faults_happen_in_the_order_they_were_added() -> None:
    switch = FaultSwitch()
    switch.add("reset", times=1)
    switch.add("429", times=1)
    assert [happened(switch, Endpoint.RESULTS) for _ in range(3)] == ["reset", "429", None]


def test_api_faults_leave_the_cdn_alone_unless_told() -> None:
    switch = FaultSwitch()
    for name in ("1005", "429", "502", "reset"):
        switch.add(name)
    assert happened(switch, Endpoint.CDN) is None
    switch.add("reset", endpoint="cdn")
    assert happened(switch, Endpoint.CDN) == "reset"


@pytest.mark.parametrize("name", ["short_body", "expired_url"])
def test_file_faults_leave_the_api_alone(name: str) -> None:
    switch = FaultSwitch()
    switch.add(name)
    assert [happened(switch, endpoint) for endpoint in Endpoint] == [None, None, None, name]


def test_a_fault_of_one_endpoint_leaves_the_others_alone() -> None:
    switch = FaultSwitch()
    switch.add("1005", endpoint="getToken")
    assert [happened(switch, endpoint) for endpoint in Endpoint] == [None, "1005", None, None]


def test_a_fault_of_one_job_waits_for_a_call_that_asks_for_it() -> None:
    switch = FaultSwitch()
    switch.add("502", job_id=SECOND, times=1)
    switch.add("missing_row", job_id=SECOND, times=1)
    assert happened(switch, Endpoint.RESULTS, [FIRST]) is None
    assert switch.take_for_job(FIRST) is None
    assert happened(switch, Endpoint.RESULTS, [FIRST, SECOND]) == "502"
    assert switch.take_for_job(SECOND) is not None
    assert switch.active == ()


def test_faults_of_jobs_and_of_calls_do_not_take_each_others_turns() -> None:
    switch = FaultSwitch()
    switch.add("failed_job", times=1)
    assert happened(switch, Endpoint.RESULTS, [FIRST]) is None
    assert switch.take_for_job(FIRST) is not None
    switch.add("1005", times=1)
    assert switch.take_for_job(FIRST) is None


def chances(seed: int) -> list[str | None]:
    switch = FaultSwitch(seed)
    switch.add("1005", probability=0.5)
    return [happened(switch, Endpoint.RESULTS) for _ in range(64)]


def test_chance_follows_the_seed() -> None:
    assert chances(1) == chances(1)
    assert chances(1) != chances(2)
    assert set(chances(1)) == {"1005", None}


def test_what_never_happens_never_happens() -> None:
    switch = FaultSwitch()
    switch.add("1005", probability=0)
    assert {happened(switch, Endpoint.RESULTS) for _ in range(100)} == {None}


@pytest.mark.parametrize(
    ("given", "sent"), [(7, "7"), (0.5, "0.5"), ("Thu, 09 Oct 2025 08:53:20 GMT",) * 2, (None, None)]
)
@pytest.mark.parametrize("name", ["429", "1005", "502"])
def test_retry_after_is_sent_as_given(name: str, given: float | str | None, sent: str | None) -> None:
    answer = FaultSwitch().add(name, retry_after=given).answer
    assert answer is not None
    assert answer.headers.get("Retry-After") == sent


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"1005.*missing_row"):
        FaultSwitch().add("503")


@pytest.mark.parametrize("options", [{"times": 0}, {"times": -1}, {"probability": 1.5}, {"probability": -0.1}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least once|between 0 and 1"):
        FaultSwitch().add("1005", **options)  # type: ignore[arg-type]


def test_options_a_fault_does_not_have_are_refused() -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match="no Retry-After"):
        switch.add("reset", retry_after=1)
    with pytest.raises(ValueError, match="cannot happen at 'cdn'"):
        switch.add("1005", endpoint="cdn")
    with pytest.raises(ValueError, match="nowhere"):
        switch.add("1005", endpoint="nowhere")
    assert switch.active == ()
