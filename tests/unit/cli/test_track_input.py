from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.cli.track_input import DELIMITERS, HEADER_NAMES, parse_track_input
from tests.thoroughness import thorough


def ids(text: str) -> list[str]:
    """Return the ids of a text that has no problems."""
    parsed = parse_track_input(text)
    assert parsed.problems == []
    return [request.job_id for request in parsed.requests]


def labelled(text: str, common: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
    parsed = parse_track_input(text, common)
    assert parsed.problems == []
    return {request.job_id: dict(request.labels) for request in parsed.requests}


searches = settings(max_examples=thorough(40, 1000))
job_ids = st.text("abcXYZ019_-", min_size=1, max_size=64).filter(lambda one: one.lower() not in HEADER_NAMES)
label_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
label_maps = st.dictionaries(label_text.filter(str.strip), label_text, max_size=3)

# One a line, commas, blanks


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\nc",
        "a\nb\nc\n",
        "a\r\nb\r\nc\r\n",
        "a\rb\rc",
        "a,b,c",
        "a, b ,c,",
        "a b  c",
        "\n\n  a\n\n\tb \n\n\nc\n\n",
        ",a,,\n,b,c",
        "\ufeffa\nb\nc\n",
    ],
)
def test_ids_are_separated_by_line_ends_commas_and_blanks(text: str) -> None:
    assert ids(text) == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n", "\ufeff", "\ufeff\n"])
def test_a_text_without_ids_asks_for_nothing(text: str) -> None:
    assert ids(text) == []


@searches
@given(st.lists(job_ids), st.sampled_from(["\n", "\r\n", ",", ", ", " ", "\n\n"]))
def test_any_ids_come_back_in_their_order(given_ids: list[str], separator: str) -> None:
    assert ids(separator.join(given_ids)) == given_ids


def test_an_object_id_is_lower_cased_and_any_other_is_left_as_it_is() -> None:
    upper = "68AA00000000000000000ABC"
    assert ids(f"{upper}\nJob-ABC_1") == [upper.lower(), "Job-ABC_1"]


def test_many_ids_in_one_long_line_are_read() -> None:
    many = [f"job-{number:060}" for number in range(5000)]  # longer than any cell that Python's CSV reader takes
    assert ids(" ".join(many)) == ids(",".join(many)) == many


def test_a_bad_id_is_refused_with_its_line_and_the_others_are_kept() -> None:
    parsed = parse_track_input("good-1\n\nb@d\ngood-2, alsobäd\n" + "x" * 65 + "\ngood-3\n")
    assert [request.job_id for request in parsed.requests] == ["good-1", "good-2", "good-3"]
    assert [problem.line for problem in parsed.problems] == [3, 4, 5]
    assert "'b@d' is not a job id: expected 1 to 64 letters" in parsed.problems[0].message
    assert "'alsobäd'" in parsed.problems[1].message


@searches
@given(st.lists(st.tuples(job_ids, st.sampled_from(["", "!", "a.b", "é"])), max_size=30))
def test_every_line_is_either_a_request_or_a_problem(lines: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{identifier}{bad}" for identifier, bad in lines)
    parsed = parse_track_input(text)
    assert [problem.line for problem in parsed.problems] == [n for n, (_, bad) in enumerate(lines, 1) if bad]
    assert len(parsed.requests) == sum(not bad for _, bad in lines)


def test_labels_that_cannot_be_stored_are_a_problem_of_each_line() -> None:
    parsed = parse_track_input("a\nb", {"": "x"})
    assert ([problem.line for problem in parsed.problems], parsed.requests) == ([1, 2], [])


# A table that does not say where its ids are


AN_ID = "68aa00000000000000000abc"


@pytest.mark.parametrize(
    "header",
    ["ID", "Id,status", "taskId", "task_id;state", "Job ID\tStatus", '"ID"', '"Name";"TASK_ID"', "_ID", "name,jobId"],
)
def test_a_header_without_the_column_refuses_the_whole_text(header: str) -> None:
    parsed = parse_track_input(f"\n{header}\n{AN_ID}\nother\n")
    assert parsed.requests == []
    (problem,) = parsed.problems
    assert problem.line == 2
    assert repr(header) in problem.message
    assert "a table whose first line names a column _id" in problem.message


@pytest.mark.parametrize(
    "row",
    [
        f"{AN_ID};completed;20",
        f"{AN_ID}\tcompleted",
        "a;b",
        "a\tb",
        f"20,{AN_ID}",
        f"{AN_ID} completed",
        f"{AN_ID},b@d",
    ],
)
def test_a_row_among_plain_ids_refuses_the_whole_text(row: str) -> None:
    parsed = parse_track_input(f"{AN_ID}\n{row}\n{AN_ID}\n")
    assert parsed.requests == []
    (problem,) = parsed.problems
    assert (problem.line, repr(row) in problem.message) == (2, True)


def test_names_of_columns_are_ids_anywhere_but_in_the_first_line() -> None:
    assert ids("a\nID") == ["a", "ID"]


# CSV


@pytest.mark.parametrize(
    "text",
    [
        "_id\na\nb\n",
        "_id,name\na,one\nb,two\n",
        "name,_id\r\none,a\r\ntwo,b\r\n",
        'name,"_id"\none,a\ntwo,"b"\n',
        '"_id","name"\n"a","one"\n"b","two"\n',
        '"name", "_id"\n"one", "a"\n"two", "b"\n',
        "job_id,name\na,one\nb,two\n",
        "id\na\nb",
        " _id , name \n a , one \n b , two \n",
        "\ufeff_id,name\na,one\nb,two\n",
        '\ufeff"_id"\n"a"\n"b"\n',
        "_id,name\na,one\n\n,\n  ,  \nb,two\n\n",
        "\n\n_id,name\na,one\nb,two\n",
        "_id,name\na\nb,two,too,many\n",
        '_id,note\na,"one\ntwo, three"\nb,"say ""hi"""\n',
        "_id;status;credits\na;completed;2,5\nb;failed;0\n",
        "status\t_id\r\ncompleted\ta\r\n\tb\r\n",
        '\ufeff"_id";"name"\n"a";"one; two"\n"b";""\n',
        "id,job_id,_id\n1,2,a\n3,4,b",
    ],
)
def test_a_csv_header_names_the_column_of_the_ids(text: str) -> None:
    assert ids(text) == ["a", "b"]


def test_a_labels_column_holds_json() -> None:
    text = '_id,labels\na,"{""campaign"": ""spring, summer"", ""n"": 7, ""on"": true}"\nb,\nc,  \nd\n'
    assert labelled(text) == {"a": {"campaign": "spring, summer", "n": "7", "on": "true"}, "b": {}, "c": {}, "d": {}}


def test_labels_of_a_line_win_over_the_labels_for_all() -> None:
    text = '_id,labels\na,"{""campaign"": ""own""}"\nb,\n'
    common = {"campaign": "common", "centre": "7"}
    assert labelled(text, common) == {"a": {"campaign": "own", "centre": "7"}, "b": common}


def test_csv_problems_have_the_line_that_the_row_begins_at() -> None:
    text = "\n".join(
        [
            "",  # 1
            "_id,labels,note",
            "a,,fine",
            "b@d,,",  # 4
            ",,no id here",  # 5
            "",
            'c,,"two',
            'lines"',
            "d,{nonsense,",  # 9
            'e,"[1, 2]",',  # 10
            "b@d,,",  # 11
            "f,,fine",
        ]
    )
    parsed = parse_track_input(text)
    assert [request.job_id for request in parsed.requests] == ["a", "c", "f"]
    assert [problem.line for problem in parsed.problems] == [4, 5, 9, 10, 11]
    messages = [problem.message for problem in parsed.problems]
    assert "no id in column _id" in messages[1]
    assert all("labels are not a JSON object" in message for message in messages[2:4])


def test_a_quotation_mark_that_is_never_closed_hides_no_id_without_a_word() -> None:
    parsed = parse_track_input('_id,note\na,fine\nb,"never closed\nc,hidden\nd,hidden\n')
    assert [request.job_id for request in parsed.requests] == ["a"]
    (problem,) = parsed.problems
    assert problem.line == 3
    assert "read up to line 5" in problem.message


def test_a_row_that_is_no_csv_does_not_stop_the_rows_after_it() -> None:
    parsed = parse_track_input('_id,note\na,"x"y\nb,fine\n' + "c," + "x" * 200_000 + "\nd,fine\n")
    assert [request.job_id for request in parsed.requests] == ["b", "d"]
    assert [problem.line for problem in parsed.problems] == [2, 4]


# Python 3.11's writer leaves a lone carriage return without quotation marks.
notes = label_text.map(lambda note: note.replace("\r", ""))


@searches
@given(st.lists(st.tuples(job_ids, label_maps, notes)), st.sampled_from(["\n", "\r\n"]), st.sampled_from(DELIMITERS))
def test_whatever_a_csv_writer_writes_is_read(
    rows: list[tuple[str, dict[str, str], str]], line_end: str, delimiter: str
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=line_end, delimiter=delimiter)
    writer.writerow(["note", "_id", "labels"])
    writer.writerows((note, identifier, json.dumps(labels)) for identifier, labels, note in rows)
    parsed = parse_track_input(file.getvalue())
    assert parsed.problems == []
    assert [request.job_id for request in parsed.requests] == [identifier for identifier, _, _ in rows]
    assert [request.labels for request in parsed.requests] == [labels for _, labels, _ in rows]


# JSON lines


@pytest.mark.parametrize(
    "text",
    [
        '{"_id": "a"}\n{"_id": "b", "status": 3}\n',
        '{"_id": "a"}\r\n\r\n{"job_id": "b"}',
        '"a"\n"b"\n',
        '["a", "b"]',
        '[{"_id": "a"}, "b"]\n',
        '\ufeff\n\n  {"_id": " a "}\n{"id": "b"}\n',
        '{"id": "x", "_id": "a"}\n"b"',
        '\n[\n{"_id": "a", "state": "missing"},\n{"_id": "b"}\n]\n',
        '[\n"a",\n"b"]',
        '["a"]\n["b"]',
    ],
)
def test_json_lines_are_objects_texts_or_lists_of_them(text: str) -> None:
    assert ids(text) == ["a", "b"]


def test_json_lines_may_give_labels() -> None:
    text = (
        '{"_id": "a", "labels": {"k": "v", "n": 1.5, "none": null, "deep": {"x": [1]}}}\n{"_id": "b", "labels": null}'
    )
    assert labelled(text, {"k": "common"}) == {
        "a": {"k": "v", "n": "1.5", "none": "null", "deep": '{"x": [1]}'},
        "b": {"k": "common"},
    }


@searches
@given(st.lists(st.tuples(job_ids, label_maps), min_size=1), st.booleans())
def test_whatever_json_writes_is_read(rows: list[tuple[str, dict[str, str]]], ascii_only: bool) -> None:
    lines = [json.dumps({"_id": identifier, "labels": labels}, ensure_ascii=ascii_only) for identifier, labels in rows]
    parsed = parse_track_input("\n".join(lines))
    assert parsed.problems == []
    assert [(request.job_id, request.labels) for request in parsed.requests] == rows


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "plain-id",
        "7",
        "null",
        "{}",
        '{"_id": 7}',
        '{"_id": null, "id": "x"}',
        '{"_id": "x", "labels": ["k"]}',
        '{"_id": "x", "labels": "k=v"}',
        '{"_id": "b@d"}',
        '{"_id": ""}',
        '{"_id": "x", "labels": {"k": "\\u0000"}}',
        '{"_id": "x", "labels": {"k": "\\ud800"}}',
        '{"_id": "x", "labels": {" ": "v"}}',
        json.dumps({"_id": "x", "labels": {"k": "v" * 1025}}),
        "[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_a_bad_line_is_a_problem_and_the_others_are_kept(line: str) -> None:
    parsed = parse_track_input(f'{{"_id": "a"}}\n\n{line}\n{{"_id": "b"}}\n')
    assert [request.job_id for request in parsed.requests] == ["a", "b"]
    assert [problem.line for problem in parsed.problems] == [3]


def test_a_bad_item_of_an_array_is_named_by_its_place_and_the_others_are_kept() -> None:
    parsed = parse_track_input('\n[\n{"_id": "a"},\n{"state": "missing"}, {"_id": 4}, "b@d",\n{"_id": "b"}\n]\n')
    assert [request.job_id for request in parsed.requests] == ["a", "b"]
    assert [problem.line for problem in parsed.problems] == [2, 2, 2]
    assert "item 2" in parsed.problems[0].message


@searches
@given(st.text())
def test_no_text_at_all_makes_it_fail(text: str) -> None:
    parsed = parse_track_input(text)
    assert all(1 <= problem.line <= text.count("\n") + text.count("\r") + 1 for problem in parsed.problems)
