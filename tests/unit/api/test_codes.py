"""The code table, against the list in the API reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.api.codes import CODES, Reaction, fact_for

DOCUMENTED = {
    *(1000, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1013, 1014, 1015, 1016, 1017),
    *(1101, 1102, 1103, 1104, 1105, 1108, 1109, 1110, 1111, 1112),
    *range(1200, 1224),
    2001,
}


def test_every_documented_code_is_in_the_table_and_no_other() -> None:
    assert set(CODES) == DOCUMENTED
    assert all(fact.code == code and fact.meaning for code, fact in CODES.items())


@pytest.mark.parametrize(
    ("reaction", "codes"),
    [
        (Reaction.SUCCESS, {1000}),
        (Reaction.CONTENT, {1003, 1008, 1009, 1014}),
        (Reaction.THROTTLED, {1005}),
        (Reaction.TRANSIENT, {1015, 2001}),
        (Reaction.REAUTHENTICATE, {1101}),
        (Reaction.CREDENTIALS, {1102, 1109}),
        (Reaction.ACCOUNT, {1004, 1103, 1200, 1213, 1221}),
        (Reaction.QUOTA, {1006, 1104}),
    ],
)
def test_a_reaction_belongs_to_exactly_its_codes(reaction: Reaction, codes: set[int]) -> None:
    assert {fact.code for fact in CODES.values() if fact.reaction is reaction} == codes


@given(st.integers().filter(lambda code: code not in DOCUMENTED))
def test_a_code_that_is_not_in_the_table_is_unknown_and_not_an_error(code: int) -> None:
    assert fact_for(code).reaction is Reaction.UNKNOWN
    assert fact_for(code).code == code
