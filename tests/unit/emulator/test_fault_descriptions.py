from __future__ import annotations

from typing import Any

import pytest

from akool_dagster.emulator import FAULT_KINDS, Fault, FaultScript, FaultSwitch, RandomFaults
from akool_dagster.emulator.fault_descriptions import describe, kinds_table, parse_flag, switch_on

JOB_ID = f"{1:024x}"
DATE = "Thu, 09 Oct 2025 08:53:20 GMT"


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("reset", {"name": "reset"}),
        ("429,retry_after=7,times=2", {"name": "429", "retry_after": "7", "times": "2"}),
        (f"429,retry_after={DATE},times=2", {"name": "429", "retry_after": DATE, "times": "2"}),
        ("redirect,location=?a=b", {"name": "redirect", "location": "?a=b"}),
    ],
)
def test_a_flag_is_a_name_and_options(text: str, description: dict[str, str]) -> None:
    assert parse_flag(text) == description


@pytest.mark.parametrize("text", ["429,times=1,times=2", "429,name=reset"])
def test_an_option_is_given_once(text: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_flag(text)


def test_a_flag_switches_on_what_it_says() -> None:
    switch = FaultSwitch()
    flag = f"latency,seconds=0.5,times=3,probability=0.25,job_id={JOB_ID},endpoint=cdn"
    fault = switch_on(switch, parse_flag(flag))
    assert isinstance(fault, Fault)
    assert (fault.kind.name, fault.times, fault.probability, fault.job_id) == ("latency", 3, 0.25, JOB_ID)
    assert describe(fault, switch.times_left(fault)) == {
        "id": 1,
        "times_left": 3,
        "name": "latency",
        "job_id": JOB_ID,
        "options": {"seconds": 0.5, "jitter": 0.0},
        "endpoints": ["cdn"],
        "probability": 0.25,
    }


def test_a_script_and_random_faults_are_described_as_they_were_given() -> None:
    switch = FaultSwitch()
    script = switch_on(switch, {"script": ["404", None, {"name": "reset"}], "endpoint": "cdn", "job_id": JOB_ID})
    assert isinstance(script, FaultScript)
    shown = describe(script, switch.times_left(script))
    assert (shown["endpoint"], shown["job_id"], shown["times_left"]) == ("cdn", JOB_ID, 3)
    assert shown["script"] == [
        {"name": "404", "job_id": JOB_ID, "options": {}},
        None,
        {"name": "reset", "job_id": JOB_ID, "options": {}},
    ]
    chance = switch_on(switch, {"random": 0.3, "names": ["404"]})
    assert isinstance(chance, RandomFaults)
    assert describe(chance, switch.times_left(chance)) == {
        "id": chance.number,
        "times_left": None,
        "random": 0.3,
        "names": ["404"],
        "endpoint": None,
        "hold_seconds": 2.0,
    }


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "Say which fault"),
        ({"times": 1}, "Say which fault"),
        ({"name": ["429"]}, "'name' is a text"),
        ({"name": "429", "endpoint": 1}, "'endpoint' is a text"),
        ({"name": "429", "job_id": 1}, "'job_id' is a text"),
        ({"name": "429", "times": "often"}, "'times' is a number, not 'often'"),
        ({"name": "429", "times": 1.5}, "'times' is a whole number"),
        ({"name": "429", "times": True}, "'times' is a number"),
        ({"name": "429", "probability": []}, "'probability' is a number"),
        ({"name": "429", "seconds": 1}, "'429' has no option 'seconds'; it has retry_after"),
        ({"script": "429"}, "A script is a list"),
        ({"script": [1]}, "A script is a list"),
        ({"script": ["429"], "times": 1}, "Beside 'script' there is no 'times'; endpoint, job_id, script are known"),
        ({"script": ["429"], "name": "429"}, "Beside 'script' there is no 'name'"),
        ({"random": 0.5, "job_id": JOB_ID}, "Beside 'random' there is no 'job_id'"),
        ({"random": 0.5, "names": "404"}, "'names' is a list"),
        ({"random": 2}, "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(description: dict[str, Any], message: str) -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match=message):
        switch_on(switch, description)
    assert switch.active == ()


@pytest.mark.parametrize("name", sorted(FAULT_KINDS))
def test_the_table_for_people_has_every_fault(name: str) -> None:
    kind = FAULT_KINDS[name]
    line = next(line for line in kinds_table().splitlines() if line.partition(",")[0] == name)
    switch = FaultSwitch()
    examples = {f"{option}=": f"{option}={JOB_ID if option == 'job_id' else 1}" for option in ("job_id", "retry_after")}
    for empty, example in examples.items():
        if line.endswith(empty):
            line = line.removesuffix(empty) + example
    assert switch_on(switch, parse_flag(line)) in switch.active  # a line of the table can be copied
    assert kind.summary[1:] in kinds_table()
