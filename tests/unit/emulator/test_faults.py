from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import fields
from typing import Any

import pytest

from akool_dagster.emulator import FAULT_KINDS, Endpoint, FaultKind, FaultSwitch
from akool_dagster.emulator.fault_kinds import OPTION_READERS

FIRST, SECOND = f"{1:024x}", f"{2:024x}"


def happened(switch: FaultSwitch, endpoint: Endpoint, job_ids: Collection[str] = ()) -> str | None:
    fault = switch.take_for_call(endpoint, job_ids)
    return None if fault is None else fault.kind.name


PASSING = {
    *("latency", "reset", "reset_body", "timeout", "short_body", "short_body_unsized", "slow_drip"),
    *("429", "1005", "500", "502", "503", "1015", "2001"),
    *("cut_json", "data_null", "empty_result", "unasked_rows", "shuffled_rows"),
    *("missing_row", "duplicate_rows", "numeric_strings", "unknown_status", "unknown_fields", "no_video_url"),
    *("expired_url", "404", "410", "html_200", "empty_body", "redirect"),
}
LASTING = {
    *("expired_token", "banned_account", "poison_id", "foreign_id", "failed_job"),
    *("oversized", "other_length", "redirect_loop", "redirect_private", "redirect_file"),
}
EFFECTS = ("answer", "change", "wire", "rows", "row", "job", "video")


def test_the_faults_are_these_and_say_whether_they_pass_by_themselves() -> None:
    assert {name for name, kind in FAULT_KINDS.items() if kind.passes_by_itself} == PASSING
    assert {name for name, kind in FAULT_KINDS.items() if not kind.passes_by_itself} == LASTING


def test_the_effects_are_the_last_fields_of_a_kind() -> None:
    assert tuple(field.name for field in fields(FaultKind))[-len(EFFECTS) :] == EFFECTS


@pytest.mark.parametrize("name", sorted(FAULT_KINDS))
def test_each_fault_does_exactly_one_thing_somewhere(name: str) -> None:
    kind = FAULT_KINDS[name]
    assert sum(getattr(kind, effect) is not None for effect in EFFECTS) == 1
    assert kind.default
    assert kind.default <= kind.allowed
    assert kind.summary
    assert kind.options.keys() <= OPTION_READERS.keys()
    assert kind.read_options(kind.options) == kind.options


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
@pytest.mark.parametrize("name", ["429", "1005", "500", "502", "503"])
def test_retry_after_is_sent_as_given(name: str, given: float | str | None, sent: str | None) -> None:
    answer = FaultSwitch().add(name, retry_after=given).answer
    assert answer is not None
    assert answer.headers.get("Retry-After") == sent


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no fault '504'.*1005.*missing_row"):
        FaultSwitch().add("504")


@pytest.mark.parametrize("options", [{"times": 0}, {"times": -1}, {"probability": 1.5}, {"probability": -0.1}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least once|between 0 and 1"):
        FaultSwitch().add("1005", **options)  # type: ignore[arg-type]


def test_options_a_fault_does_not_have_are_refused() -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match="'reset' has no option 'retry_after'; it has none of its own"):
        switch.add("reset", retry_after=1)
    with pytest.raises(ValueError, match="'latency' has no option 'self'; it has seconds, jitter"):
        switch.add("latency", self=1)
    with pytest.raises(ValueError, match="cannot happen at 'cdn'"):
        switch.add("1005", endpoint="cdn")
    with pytest.raises(ValueError, match="nowhere"):
        switch.add("1005", endpoint="nowhere")
    assert switch.active == ()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("latency", {"seconds": -1}),
        ("latency", {"seconds": "soon"}),
        ("latency", {"seconds": "nan"}),
        ("latency", {"seconds": True}),
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


def test_a_script_is_followed_call_by_call_and_then_all_is_as_usual() -> None:
    switch = FaultSwitch()
    script = switch.script(["1005", None, {"name": "429", "retry_after": 7}, "missing_row"])
    assert [(happened(switch, Endpoint.RESULTS, [FIRST]), switch.times_left(script)) for _ in range(5)] == [
        ("1005", 3),
        (None, 2),
        ("429", 1),
        ("missing_row", 0),
        (None, 0),
    ]
    assert switch.active == ()


def test_a_script_of_one_endpoint_is_not_consumed_by_another() -> None:
    switch = FaultSwitch()
    switch.script(["404", None, "reset"], endpoint="cdn")
    assert happened(switch, Endpoint.RESULTS) is None
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


def test_a_step_decides_its_call() -> None:
    switch = FaultSwitch()
    switch.script([None, "1015"])
    switch.add("502")
    assert [happened(switch, Endpoint.RESULTS) for _ in range(3)] == [None, "1015", "502"]


@pytest.mark.parametrize(
    ("steps", "endpoint", "message"),
    [
        ([], "resultsByIds", "at least one step"),
        (["1005", "no_such"], "resultsByIds", "no fault 'no_such'"),
        ([{"seconds": 1}], "resultsByIds", "no fault 'None'"),
        ([{"name": "1005", "seconds": 1}], "resultsByIds", "no option 'seconds'"),
        (["1005"], "cdn", "cannot happen at 'cdn'"),
        (["1005"], "nowhere", r"no endpoint 'nowhere'.*resultsByIds"),
    ],
)
def test_an_impossible_script_is_refused(steps: list[Any], endpoint: str, message: str) -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match=message):
        switch.script(steps, endpoint=endpoint)
    assert switch.active == ()


# At random


def drawn(switch: FaultSwitch, endpoint: Endpoint, calls: int = 2000) -> Counter[str | None]:
    return Counter(happened(switch, endpoint, [FIRST, SECOND]) for _ in range(calls))


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_random_faults_are_all_that_pass_by_themselves_at_the_endpoint(endpoint: Endpoint) -> None:
    switch = FaultSwitch(1)
    switch.add_random(0.3)
    seen = drawn(switch, endpoint)
    assert seen.keys() - {None} == {name for name in PASSING if endpoint in FAULT_KINDS[name].allowed}
    assert 0.25 < 1 - seen[None] / seen.total() < 0.35


def test_random_faults_follow_the_seed() -> None:
    def sequence(seed: int) -> list[str | None]:
        switch = FaultSwitch(seed)
        switch.add_random(0.5)
        return [happened(switch, Endpoint.RESULTS, [FIRST]) for _ in range(50)]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_a_random_fault_of_rows_hits_one_job_of_the_call() -> None:
    switch = FaultSwitch(1)
    switch.add_random(1, names=["missing_row"])
    faults = [switch.take_for_call(Endpoint.RESULTS, [FIRST, SECOND]) for _ in range(20)]
    assert {None if fault is None else fault.job_id for fault in faults} == {FIRST, SECOND}


def test_random_faults_of_some_kinds_at_one_endpoint() -> None:
    switch = FaultSwitch(1)
    switch.add_random(1, names=["502", "404"], endpoint="cdn")
    assert drawn(switch, Endpoint.CDN, 50).keys() == {"502", "404"}
    assert drawn(switch, Endpoint.RESULTS, 50).keys() == {None}


def test_random_faults_do_not_hold_for_long() -> None:
    switch = FaultSwitch(1)
    switch.add_random(1, names=["timeout", "slow_drip", "latency"], hold_seconds=0.5)
    for _ in range(20):
        fault = switch.take_for_call(Endpoint.RESULTS, [])
        assert fault is not None
        assert switch.draw_seconds(fault) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "between 0 and 1"),
        ({"probability": 0.5, "names": ["no_such"]}, "no fault 'no_such'"),
        ({"probability": 0.5, "names": ["404"], "endpoint": "getToken"}, "None of these faults"),
        ({"probability": 0.5, "endpoint": "nowhere"}, "no endpoint"),
        ({"probability": 0.5, "hold_seconds": -1}, "does not last"),
    ],
)
def test_impossible_random_faults_are_refused(options: dict[str, Any], message: str) -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match=message):
        switch.add_random(**options)
    assert switch.active == ()
