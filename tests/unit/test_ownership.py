from __future__ import annotations

from dataclasses import replace

import pytest

from akool_dagster.ownership import LandedFile, OwnershipError, refuse_going_back

OURS, THEIRS = "ledger-1111", "ledger-2222"


def landed(
    *job_ids: str, ledger_id: str | None = OURS, revision: int = 5, uri: str = "/data/akool/results/2025-10-09.parquet"
) -> LandedFile:
    return LandedFile(uri=uri, ledger_id=ledger_id, revision=revision, job_ids=job_ids)


@pytest.mark.parametrize("revision", [5, 6])
def test_the_same_or_a_newer_state_may_replace_the_file(revision: int) -> None:
    refuse_going_back(landed("a", "b"), OURS, revision, ["a", "b", "c"])
    refuse_going_back(landed(), OURS, revision, [])


def test_a_file_of_another_ledger_is_not_replaced() -> None:
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(landed("a", ledger_id=THEIRS, revision=1), OURS, 9, ["a"])
    message = str(caught.value)
    for part in (landed().uri, OURS, THEIRS, "AKOOL_LEDGER_URL", "Nothing was written"):
        assert part in message


def test_a_file_with_jobs_that_the_ledger_does_not_know_is_not_replaced() -> None:
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(landed("c", "b", "a"), OURS, 9, ["a", "d"])
    message = str(caught.value)
    for part in (landed().uri, "2 jobs", "such as b", "Restore", "ledger restore", "Nothing was written"):
        assert part in message


def test_a_file_that_shows_an_end_is_not_replaced_by_one_that_does_not() -> None:
    file = replace(landed("a", "b", "c"), ended_ids=["a", "b"])
    refuse_going_back(file, OURS, 9, ["a", "b", "c"], ended_ids=["a", "b", "c"])
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(file, OURS, 9, ["a", "b", "c"], ended_ids=["b"])
    for part in (file.uri, "1 jobs", "such as a", "ledger restore", "Nothing was written"):
        assert part in str(caught.value)


def test_a_file_of_a_higher_revision_is_not_replaced() -> None:
    with pytest.raises(OwnershipError) as caught:
        refuse_going_back(landed("a", revision=12), OURS, 7, ["a"])
    message = str(caught.value)
    for part in (landed().uri, "revision 12", "only at 7", "Nothing was written"):
        assert part in message


def test_an_empty_partition_does_not_replace_a_fuller_file() -> None:
    with pytest.raises(OwnershipError, match="1 jobs"):
        refuse_going_back(landed("a", revision=0), OURS, 0, [])


def test_a_file_without_a_ledger_of_its_own_is_judged_by_its_rows() -> None:
    refuse_going_back(landed("a", ledger_id=None, revision=0), OURS, 1, ["a"])
    with pytest.raises(OwnershipError, match="such as z"):
        refuse_going_back(landed("z", ledger_id=None, revision=0), OURS, 1, ["a"])


def test_the_other_ledger_is_named_first_when_several_things_are_wrong() -> None:
    with pytest.raises(OwnershipError, match=THEIRS):
        refuse_going_back(landed("z", ledger_id=THEIRS, revision=99), OURS, 1, [])
