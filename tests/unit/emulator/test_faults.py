from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest

from akool_dagster.emulator import FAULT_KINDS, Endpoint, FaultSwitch
from akool_dagster.emulator.fault_kinds import OPTION_TYPES

FIRST, SECOND = f"{1:024x}", f"{2:024x}"
LASTING = {
    *("expired_token", "banned_account", "poison_id", "foreign_id", "failed_job"),
    *("oversized", "other_length", "redirect_loop", "redirect_private", "redirect_file"),
}


def happened(switch: FaultSwitch, endpoint: Endpoint = Endpoint.RESULTS, job_ids: Collection[str] = ()) -> str | None:
    fault = switch.take_for_call(endpoint, job_ids)
    return None if fault is None else fault.kind.name


def test_these_faults_do_not_pass_by_themselves() -> None:
    assert {name for name, kind in FAULT_KINDS.items() if not kind.passes_by_itself} == LASTING


@pytest.mark.parametrize("name", sorted(FAULT_KINDS))
def test_each_fault_does_exactly_one_thing_and_reads_its_own_options(name: str) -> None:
    kind = FAULT_KINDS[name]
    effects = (kind.answer, kind.change, kind.wire, kind.rows, kind.row, kind.job, kind.video)
    assert len([effect for effect in effects if effect is not None]) == 1
    assert kind.default
    assert kind.options.keys() <= OPTION_TYPES.keys()
    assert kind.read_options(kind.options) == kind.options


def test_a_fault_goes_off_after_its_times_and_before_the_one_added_later() -> None:
    switch = FaultSwitch()
    switch.add("1005", times=2)
    switch.add("429", times=1)
    assert [happened(switch) for _ in range(4)] == ["1005", "1005", "429", None]
    assert switch.active == ()


def test_a_fault_without_times_stays_until_it_is_removed() -> None:
    switch = FaultSwitch()
    fault = switch.add("502")
    assert {happened(switch) for _ in range(50)} == {"502"}
    switch.remove(fault)
    switch.remove(fault)
    assert happened(switch) is None


def test_clearing_switches_everything_off() -> None:
    switch = FaultSwitch()
    switch.add("502")
    switch.add("missing_row")
    switch.clear()
    assert happened(switch) is None
    assert switch.take_for_job(FIRST) is None


@pytest.mark.parametrize(
    ("name", "endpoint", "hit"),
    [
        ("1005", None, {Endpoint.RESULTS, Endpoint.TOKEN, Endpoint.CREDIT}),
        ("reset", None, {Endpoint.RESULTS, Endpoint.TOKEN, Endpoint.CREDIT}),
        ("reset", "cdn", {Endpoint.CDN}),
        ("short_body", None, {Endpoint.CDN}),
        ("1005", "getToken", {Endpoint.TOKEN}),
    ],
)
def test_a_fault_happens_at_its_usual_endpoints_or_at_the_one_given(
    name: str, endpoint: str | None, hit: set[Endpoint]
) -> None:
    switch = FaultSwitch()
    switch.add(name, endpoint=endpoint)
    assert {place for place in Endpoint if happened(switch, place)} == hit


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


@pytest.mark.parametrize("random", [False, True])
def test_chance_follows_the_seed(random: bool) -> None:
    def chances(seed: int) -> list[str | None]:
        switch = FaultSwitch(seed)
        if random:
            switch.add_random(0.5)
        else:
            switch.add("1005", probability=0.5)
        return [happened(switch, Endpoint.RESULTS, [FIRST]) for _ in range(64)]

    assert chances(1) == chances(1)
    assert chances(1) != chances(2)
    assert None in chances(1)


@pytest.mark.parametrize(
    ("given", "sent"), [(7, "7"), (0.5, "0.5"), ("Thu, 09 Oct 2025 08:53:20 GMT",) * 2, (None, None)]
)
def test_retry_after_is_sent_as_given(given: float | str | None, sent: str | None) -> None:
    answer = FaultSwitch().add("1005", retry_after=given).answer
    assert answer is not None
    assert answer.headers.get("Retry-After") == sent


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("latency", {"seconds": -1}),
        ("latency", {"seconds": "soon"}),
        ("latency", {"seconds": "nan"}),
        ("slow_drip", {"every": 0}),
        ("oversized", {"bytes": 1.5}),
        ("oversized", {"bytes": 0}),
        ("429", {"retry_after": "1\r\nX-Other: 2"}),
        ("429", {"retry_after": ""}),
        ("redirect_private", {"location": ["a"]}),
        ("poison_id", {"job_id": FIRST, "http_status": 99}),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused(name: str, options: dict[str, Any]) -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match=f"of '{name}' cannot be"):
        switch.add(name, **options)
    assert switch.active == ()


def test_options_are_read_from_texts_too() -> None:
    fault = FaultSwitch().add("latency", seconds="0.25", jitter=None)
    assert fault.options == {"seconds": 0.25, "jitter": 0.0}


@pytest.mark.parametrize("name", [name for name, kind in FAULT_KINDS.items() if kind.needs_job])
def test_a_fault_of_one_job_must_be_told_which(name: str) -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match="say which with job_id"):
        switch.add(name)
    with pytest.raises(ValueError, match="say which with job_id"):
        switch.script([name])
    with pytest.raises(ValueError, match="cannot be drawn at random"):
        switch.add_random(0.5, names=[name])
    switch.add(name, job_id=FIRST.upper())
    assert happened(switch, Endpoint.RESULTS, [SECOND]) is None
    assert happened(switch, Endpoint.RESULTS, [FIRST, SECOND]) == name


def test_latency_jitters_around_its_seconds_and_never_below_zero() -> None:
    switch = FaultSwitch(3)
    fault = switch.add("latency", seconds=1, jitter=2)
    drawn = [switch.draw_seconds(fault) for _ in range(200)]
    assert min(drawn) == 0.0
    assert 2.5 < max(drawn) <= 3.0
    assert switch.draw_seconds(switch.add("latency", seconds=0.5)) == 0.5


# By script


def test_a_script_decides_call_by_call_and_then_all_is_as_usual() -> None:
    switch = FaultSwitch()
    script = switch.script(["1005", None, {"name": "429", "retry_after": 7}, "missing_row"])
    switch.add("502")
    assert [(happened(switch, Endpoint.RESULTS, [FIRST]), switch.times_left(script)) for _ in range(5)] == [
        ("1005", 3),
        (None, 2),
        ("429", 1),
        ("missing_row", 0),
        ("502", 0),
    ]


def test_a_script_of_one_endpoint_is_not_consumed_by_another() -> None:
    switch = FaultSwitch()
    switch.script(["404", None, "reset"], endpoint="cdn")
    assert happened(switch) is None
    assert [happened(switch, Endpoint.CDN) for _ in range(4)] == ["404", None, "reset", None]


def test_a_script_of_one_job_waits_for_calls_that_ask_for_it() -> None:
    switch = FaultSwitch()
    switch.script(["502", "missing_row"], job_id=SECOND)
    assert happened(switch, Endpoint.RESULTS, [FIRST]) is None
    assert happened(switch, Endpoint.RESULTS, [FIRST, SECOND]) == "502"
    fault = switch.take_for_call(Endpoint.RESULTS, [FIRST, SECOND])
    assert fault is not None
    assert fault.happens_to(SECOND, completed=False)
    assert not fault.happens_to(FIRST, completed=False)


# At random


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_random_faults_are_all_that_pass_by_themselves_at_the_endpoint(endpoint: Endpoint) -> None:
    switch = FaultSwitch(1)
    switch.add_random(0.3)
    seen = Counter(happened(switch, endpoint, [FIRST, SECOND]) for _ in range(2000))
    assert seen.keys() - {None} == {
        name for name, kind in FAULT_KINDS.items() if endpoint in kind.allowed and name not in LASTING
    }
    assert 0.25 < 1 - seen[None] / seen.total() < 0.35


def test_a_random_fault_of_rows_hits_one_job_of_the_call() -> None:
    switch = FaultSwitch(1)
    switch.add_random(1, names=["missing_row"])
    faults = [switch.take_for_call(Endpoint.RESULTS, [FIRST, SECOND]) for _ in range(20)]
    assert {None if fault is None else fault.job_id for fault in faults} == {FIRST, SECOND}


def test_random_faults_of_some_kinds_at_one_endpoint() -> None:
    switch = FaultSwitch(1)
    switch.add_random(1, names=["502", "404"], endpoint="cdn")
    assert {happened(switch, Endpoint.CDN) for _ in range(50)} == {"502", "404"}
    assert happened(switch, Endpoint.RESULTS) is None


def test_random_faults_do_not_hold_for_long() -> None:
    switch = FaultSwitch(1)
    switch.add_random(1, names=["timeout", "slow_drip", "latency"], hold_seconds=0.5)
    for _ in range(20):
        fault = switch.take_for_call(Endpoint.RESULTS, [])
        assert fault is not None
        assert switch.draw_seconds(fault) == 0.5
