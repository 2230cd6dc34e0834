from __future__ import annotations

from typing import Any

import pytest

from akool_dagster.emulator import FAULT_KINDS, FaultSwitch
from akool_dagster.emulator.fault_descriptions import describe, kinds_table, parse_flag, switch_on

JOB_ID = f"{1:024x}"
DATE = "Thu, 09 Oct 2025 08:53:20 GMT"


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("reset", {"name": "reset"}),
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


LATENCY = {"name": "latency", "options": {"seconds": 0.5, "jitter": 0.0}}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (
            parse_flag(f"latency,seconds=0.5,times=3,probability=0.25,job_id={JOB_ID},endpoint=cdn"),
            {"times_left": 3, "endpoints": ["cdn"], "job_id": JOB_ID, "probability": 0.25, **LATENCY},
        ),
        (
            {"script": ["404", None, {"name": "latency", "seconds": 0.5}], "endpoint": "cdn", "job_id": JOB_ID},
            {
                "times_left": 3,
                "endpoints": ["cdn"],
                "job_id": JOB_ID,
                "probability": 1.0,
                "script": [{"name": "404", "options": {}}, None, LATENCY],
            },
        ),
        (
            {"random": "0.3", "names": ["404"], "endpoint": None},
            {
                "times_left": None,
                "endpoints": ["cdn"],
                "job_id": None,
                "probability": 0.3,
                "names": ["404"],
                "hold_seconds": 2.0,
            },
        ),
    ],
)
def test_what_is_on_is_described_as_it_was_given(given: dict[str, Any], shown: dict[str, Any]) -> None:
    switch = FaultSwitch()
    source = switch_on(switch, given)
    assert switch.active == (source,)
    assert describe(source, switch.times_left(source)) == {"id": source.number, **shown}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "Say which fault"),
        ({"times": 1}, "Say which fault"),
        ({"name": ["429"]}, "'name' .* valid string"),
        ({"name": "429", "endpoint": 1}, "'endpoint' .* valid string"),
        ({"name": "429", "job_id": 1}, "'job_id' .* valid string"),
        ({"name": "429", "times": "often"}, "'times' .* valid integer"),
        ({"name": "429", "times": 1.5}, "'times' .* valid integer"),
        ({"name": "429", "times": 0}, "'times' .* greater than or equal to 1"),
        ({"name": "429", "probability": []}, "'probability' .* valid number"),
        ({"name": "429", "probability": -0.1}, "'probability' .* greater than or equal to 0"),
        ({"name": "429", "seconds": 1}, "'429' has no option 'seconds'; it has retry_after"),
        ({"name": "no_such"}, r"no fault 'no_such'.*1005.*missing_row"),
        ({"name": "1005", "endpoint": "cdn"}, "cannot happen at 'cdn'"),
        ({"name": "1005", "endpoint": "nowhere"}, r"no endpoint 'nowhere'.*resultsByIds"),
        ({"script": "429"}, "'script' "),
        ({"script": [1]}, "'script' .* valid string"),
        ({"script": []}, "'script' .* at least 1 item"),
        ({"script": ["1005", "no_such"]}, "no fault 'no_such'"),
        ({"script": [{"seconds": 1}]}, "no fault 'None'"),
        ({"script": [{"name": "1005", "seconds": 1}]}, "no option 'seconds'"),
        ({"script": ["1005"], "endpoint": "cdn"}, "cannot happen at 'cdn'"),
        ({"script": ["429"], "times": 1}, "'times' .* Unexpected"),
        ({"script": ["429"], "name": "429"}, "'name' .* Unexpected"),
        ({"script": ["429"], "steps": ["429"]}, "'steps' .* multiple values"),
        ({"random": 0.5, "job_id": JOB_ID}, "'job_id' .* Unexpected"),
        ({"random": 0.5, "names": "404"}, "'names' "),
        ({"random": 0.5, "names": ["404"], "endpoint": "getToken"}, "None of these faults"),
        ({"random": 0.5, "hold_seconds": -1}, "'hold_seconds' .* greater than or equal to 0"),
        ({"random": 2}, "'random' .* less than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(description: dict[str, Any], message: str) -> None:
    switch = FaultSwitch()
    with pytest.raises(ValueError, match=message):
        switch_on(switch, description)
    assert switch.active == ()


@pytest.mark.parametrize("name", sorted(FAULT_KINDS))
def test_a_line_of_the_table_for_people_can_be_copied(name: str) -> None:
    table = kinds_table()
    line = next(line for line in table.splitlines() if line.partition(",")[0] == name)
    examples = {f"{option}=": f"{option}={JOB_ID if option == 'job_id' else 1}" for option in ("job_id", "retry_after")}
    for empty, example in examples.items():
        if line.endswith(empty):
            line = line.removesuffix(empty) + example
    switch_on(FaultSwitch(), parse_flag(line))
    assert FAULT_KINDS[name].summary[1:] in table
