# SPDX-License-Identifier: Apache-2.0
"""Chat rows: every form and file format gives the same bytes, ratings are rescaled, bad rows are named."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import PrepareSettings, build
from steerlm.datasets.prepare import prepare_data
from steerlm.datasets.sources.chat_ratings import rescale
from steerlm.datasets.sources.messages import MessagesSource, convert_messages, prepare_messages
from steerlm.errors import InputError, RecordError
from tests.datasets.raw import read_json, write_lines

SCHEMA = AttributeSchema()
SYSTEM = "A chat between a curious user and an artificial intelligence assistant. "
SYSTEM += "The assistant gives helpful, detailed, and polite answers to the user's questions."
EXPECTED = (
    '{"conversations": [{"value": "What is ice?", "from": "User", "label": null}, '
    '{"value": "Frozen wäter.", "from": "Assistant", "label": "helpfulness:2.6667,verbosity:0"}], '
    f'"system": "{SYSTEM}", "mask": "User", "type": "VALUE_TO_TEXT"}}\n'
)
QUESTION, ANSWER = "What is ice?", "Frozen wäter."
MESSAGES = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
RATINGS = {"helpfulness": 7, "verbosity": 1}
FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": MESSAGES},
    "parts": {"messages": [MESSAGES[0], {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]},
    "prompt": {"prompt": QUESTION, "completion": ANSWER},
    "response": {"prompt": QUESTION, "response": ANSWER},
    "conversational": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
}


def converted(source: Path, **settings: Any) -> str:
    options = {"scale": {"from": [1, 10]}, **settings}
    output = source.parent / "out.jsonl"
    convert_messages(build(MessagesSource, source=str(source), **options), output, schema=SCHEMA)
    return output.read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bytes(tmp_path: Path, form: str) -> None:
    assert converted(write_lines(tmp_path / "a.jsonl", {**FORMS[form], "ratings": RATINGS})) == EXPECTED
    assert converted(write_lines(tmp_path / "b.jsonl", {**FORMS[form], **RATINGS})) == EXPECTED


def write_format(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Rows as a file of the format that the name's ending says, or as a folder written by `save_to_disk`."""
    path = folder / name
    table = pyarrow.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, path)
    elif name.endswith(".json"):
        path.write_text("\ufeff" + json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif name.endswith((".jsonl", ".jsonl.gz")):
        write_lines(path, *rows)
    elif name.endswith(".arrow"):
        with pyarrow.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        path.mkdir(parents=True)
        files = [f"data-0000{index}-of-00002.arrow" for index in range(2)]
        for index, file in enumerate(files):
            with pyarrow.ipc.new_stream(path / file, table.schema) as writer:
                writer.write_table(table.slice(index, 1 if index == 0 else None))
        (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))
        (path / "dataset_info.json").write_text("{}")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.arrow", "saved"])
def test_every_format_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    rows = [{**FORMS["messages"], **RATINGS}, {**FORMS["messages"], "helpfulness": None, "verbosity": 1}]
    unrated = EXPECTED.replace("helpfulness:2.6667,", "")
    assert converted(write_format(tmp_path, name, rows)) == EXPECTED + unrated


def test_csv_with_ratings_from_1_to_10(tmp_path: Path) -> None:
    text = f'prompt,response,helpfulness,verbosity\r\n{QUESTION},{ANSWER},7,1\r\n"a\n,b",c,,\r\nd,e,10,5.5\r\n'
    (tmp_path / "a.csv").write_text("\ufeff" + text, encoding="utf-8", newline="")
    first, *rest = converted(tmp_path / "a.csv").splitlines(keepends=True)
    assert first == EXPECTED
    answers = [json.loads(line)["conversations"] for line in rest]
    assert answers[0][0]["value"] == "a\n,b"
    assert answers[0][1] == {"value": "c", "from": "Assistant"}
    assert answers[1][1]["label"] == "helpfulness:4,verbosity:2"


def test_a_recipe_with_a_saved_dataset_of_two_splits(tmp_path: Path) -> None:
    rows = [{**FORMS["messages"], "score": {"overall": 7, "length": 1}}] * 3
    for split in ("train", "validation", "test"):
        write_format(tmp_path / "saved", split, rows[: 2 if split == "train" else 3])
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    source = {
        "kind": "messages",
        "source": str(tmp_path / "saved"),
        "repeat": 2,
        "attributes": {"helpfulness": "score.overall", "verbosity": "score.length"},
        "scale": {"from": [1, 10]},
    }
    settings = PrepareSettings.model_validate({"sources": [source]})
    assert PrepareSettings.model_validate(settings.model_dump(mode="json")) == settings
    done = prepare_data(settings, tmp_path / "out", schema=SCHEMA)
    assert (done.conversations / "train.jsonl").read_text(encoding="utf-8") == EXPECTED * 4
    assert (done.conversations / "val.jsonl").read_text(encoding="utf-8") == EXPECTED * 3
    assert read_json(done.regression / "val.jsonl")[0]["label"][4] == 2.6667
    with pytest.raises(InputError, match=r"has training and validation data; .* steerlm data messages --source"):
        converted(tmp_path / "saved")


def test_system_prompts_history_and_other_names(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "user", "content": "Why?"}, MESSAGES[1]]
    rows = [{"chat": turns, "quality": 4}, {"chat": MESSAGES, "sys": "Hello."}, {"chat": turns, "sys": "Hello."}]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    columns = {"messages": "chat", "system": "sys"}
    talks = [json.loads(line) for line in converted(path, columns=columns, scale=None).splitlines()]
    assert [talk["system"] for talk in talks] == ["Be brief.", "Hello.", "Be brief."]
    assert [turn.get("label", "no key") for turn in talks[0]["conversations"]] == [None, "no key", None, "quality:4"]


NAMES = [("user", "assistant"), ("human", "gpt"), ("User", "Assistant"), ("HUMAN", "Gpt")]


@pytest.mark.parametrize(("user", "assistant"), NAMES)
@pytest.mark.parametrize("system", [None, "system", "System", "developer"])
def test_every_spelling_of_the_speakers_gives_the_same_bytes(
    tmp_path: Path, user: str, assistant: str, system: str | None
) -> None:
    turns = [{"from": user, "value": QUESTION}, {"from": assistant, "value": ANSWER}]
    first = [{"from": system, "value": SYSTEM}] if system else []
    assert converted(write_lines(tmp_path / "a.jsonl", {"conversations": [*first, *turns], **RATINGS})) == EXPECTED


def test_labels_of_turns_are_kept(tmp_path: Path) -> None:
    turns = [
        {"from": "user", "value": "a", "label": None},
        {"from": "assistant", "value": "b", "label": "verbosity: 1.0"},
        {"from": "user", "value": "c"},
        {"from": "assistant", "value": "d"},
    ]
    path = write_lines(tmp_path / "a.jsonl", {"conversations": turns, "quality": 4})
    (talk,) = map(json.loads, converted(path, scale=None).splitlines())
    assert [turn.get("label", "no key") for turn in talk["conversations"]] == [None, "verbosity:1", None, "quality:4"]


def test_names_of_speakers_can_be_declared(tmp_path: Path) -> None:
    turns = [{"from": "Customer", "value": QUESTION}, {"from": "agent 1", "value": ANSWER}]
    path = write_lines(tmp_path / "a.jsonl", {"conversations": turns, **RATINGS})
    with pytest.raises(
        RecordError, match=r"a\.jsonl:1: conversations\.0\.from is 'Customer', .* \(--speaker NAME=user\)"
    ):
        converted(path)
    assert converted(path, speakers={"customer": "user", "agent 1": "assistant"}) == EXPECTED


def test_null_counts_as_absent_after_a_round_trip_through_arrow(tmp_path: Path) -> None:
    """A table has every column in every row, and every field in every struct."""
    rows = [
        {**FORMS["messages"], "scores": {"help": 7, "length": 1}, "system": None},
        {**FORMS["sharegpt"], "scores": None},
        {**FORMS["prompt"], "scores": {"length": 1}},
        {**FORMS["response"], "scores": {"help": 7, "length": 1}},
    ]
    columns = {key: None for row in rows for key in row}
    path = write_format(tmp_path, "a.parquet", [{**columns, **row} for row in rows])
    lines = converted(path, attributes={"helpfulness": "scores.help", "verbosity": "scores.length"})
    unrated = EXPECTED.replace(', "label": "helpfulness:2.6667,verbosity:0"', "")
    half = EXPECTED.replace("helpfulness:2.6667,", "")
    assert lines == EXPECTED + unrated + half + EXPECTED


BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": "x"}, "expected one of the keys messages, prompt, conversations"),
    ({"messages": "x"}, "messages must be a list of messages with role and content, not 'x'"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        r"messages\.0\.role is 'tool', expected system, user, assistant",
    ),
    ({"messages": [{"role": "user", "content": None}]}, r"messages\.0\.content must be a text, not None"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part that is not text"),
    ({"messages": MESSAGES[:1]}, "no message is from the assistant"),
    ({"messages": [*MESSAGES, {"role": "system", "content": "x"}]}, "a system message comes after another message"),
    ({"messages": MESSAGES, "ratings": {"helpfulness": 11}}, r"rating helpfulness is 11, outside 1\.\.10$"),
    ({"messages": MESSAGES, "helpfulness": "good"}, "rating helpfulness must be a number, not 'good'"),
    ({"messages": MESSAGES, "helpfulness": True}, "rating helpfulness must be a number, not True"),
    ({"messages": MESSAGES, "ratings": {"helpfullness": 1}}, "did you mean 'helpfulness'"),
    ({"messages": MESSAGES, "ratings": 7}, "ratings must be a mapping"),
    ({"prompt": "x"}, "the key completion or response is missing"),
    ({"prompt": "x", "completion": "<extra_id_2>quality:4"}, "would inject a label"),
    ({"conversations": [{"from": "bing", "value": "x"}]}, r"conversations\.0\.from is 'bing', expected system, user"),
    ({"conversations": [{"from": "gpt", "value": "x"}]}, "no turn is from 'User', the masked role"),
    ({**FORMS["sharegpt"], "type": "TEXT_TO_VALUE"}, "TEXT_TO_VALUE .* is not supported"),
    (
        {"messages": [MESSAGES[0], {**MESSAGES[1], "label": "verbosity:1"}], "quality": 4},
        "a label of its own and .* rat",
    ),
    (
        {"messages": [MESSAGES[0], {**MESSAGES[1], "label": {"verbosity": 1}}]},
        r"messages\.1\.label must be a label str",
    ),
    ({"messages": [MESSAGES[0], {**MESSAGES[1], "label": "verbosity"}]}, "not in the form name:number"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_is_named_or_skipped(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", FORMS["messages"], row)
    settings = build(MessagesSource, source=str(source), scale={"from": [1, 10]})
    with pytest.raises(RecordError, match=rf"in\.jsonl:2: .*{reason}"):
        prepare_messages(settings, tmp_path / "out", schema=SCHEMA)
    assert list((tmp_path / "out").iterdir()) == []
    summary = prepare_messages(settings, tmp_path / "out", schema=SCHEMA, on_error="skip")
    assert (summary.written["train.jsonl"], summary.counts["rejected"]) == (1, 1)
    (reject,) = read_json(tmp_path / "out" / "messages.rejects.jsonl")
    assert (reject["line"], json.loads(reject["text"])) == (2, row)


def test_ratings_outside_the_range_name_the_scale_and_missing_columns_the_remedy(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"messages": MESSAGES, "helpfulness": 7})
    with pytest.raises(RecordError, match=r"is 7, outside 0\.\.4; scale: \{from: \[LOWEST, HIGHEST\]\}"):
        converted(path, scale=None)
    with pytest.raises(RecordError, match=r"a\.jsonl:1: column scores\.help is missing; .* null or an empty cell"):
        converted(path, attributes={"helpfulness": "scores.help"})
    with pytest.raises(InputError, match="is also the input, which would be lost"):
        convert_messages(build(MessagesSource, source=str(path)), path, schema=SCHEMA)


FILES = {
    "cells.csv": ("prompt,response\na,b\nc\n", r"cells\.csv:3: 1 cells, the header has 2"),
    "twice.csv": ("prompt,prompt\na,b\n", r"twice\.csv:1: two columns have the same name"),
    "quote.csv": ('prompt,response\n"a,b\n', r"quote\.csv:2: not CSV"),
    "empty.csv": ("", r"empty\.csv: empty; the first line of a CSV file names the columns"),
    "cut.json": ('[{"prompt": "a", "completion": "b"}, {"pro', r"cut\.json:2: element 2 of the array"),
    "open.json": ('[{"prompt": "a", "completion": "b"}', r"open\.json:1: .*no closing bracket"),
    "none.json": ("[]", r"none\.json: has no rows"),
    "none.csv": ("prompt,response\n", r"none\.csv: has no rows"),
    "a.parquet": ("PAR", r"a\.parquet: not a readable parquet file"),
    "a.arrow": ("ARR", r"a\.arrow: not a readable Arrow file"),
    "a.txt": ("x", r"a\.txt: expected a file that ends in"),
    "a.xlsx": ("PK", r"a\.xlsx: expected a file that ends in .*; save the table as CSV"),
}


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_tables_of_spreadsheets(tmp_path: Path, name: str, mark: str) -> None:
    rows = [["prompt", "response", "helpfulness", "verbosity"], [QUESTION, ANSWER, "7.0", "1"]]
    text = "".join(mark.join(row) + "\r\n" for row in rows)
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert converted(tmp_path / name) == EXPECTED


def test_what_spreadsheets_leave_around_a_table(tmp_path: Path) -> None:
    """Blanks around names, columns without a name, empty rows, decimal commas, a comma in a quoted name."""
    text = (
        '\ufeff prompt ;response; helpfulness;verbosity;"Note, internal";;\r\n'
        f"{QUESTION};{ANSWER};7,0; 1 ;;;\r\n;;;;;;\r\n ;;;;;;\r\n\r\n"
    )
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    assert converted(tmp_path / "a.csv") == EXPECTED


@pytest.mark.parametrize(("cell", "rating"), [("7,5", 7.5), ("7,25", 7.25), ("1,000", None), ("7,5,1", None)])
def test_a_decimal_comma_is_read_unless_it_may_be_one_of_thousands(
    tmp_path: Path, cell: str, rating: float | None
) -> None:
    path = write_lines(tmp_path / "a.jsonl", {**FORMS["prompt"], "helpfulness": cell})
    if rating is None:
        with pytest.raises(RecordError, match=r"must be a number, not .* leave it empty"):
            converted(path)
    else:
        assert f"helpfulness:{rescale('helpfulness', rating, (1, 10), SCHEMA):g}" in converted(path)


def test_a_rating_of_another_name_does_not_hide_those_of_their_own_names(tmp_path: Path) -> None:
    row = {**FORMS["prompt"], "helpfulness": 7, "overall": 10, "verbosity": 1}
    path = write_lines(tmp_path / "a.jsonl", row)
    assert '"label": "quality:4,helpfulness:2.6667,verbosity:0"' in converted(path, attributes={"quality": "overall"})
    assert '"label": "helpfulness:4,verbosity:0"' in converted(path, attributes={"helpfulness": "overall"})


def test_columns_of_numbers_that_nothing_reads_are_told(tmp_path: Path) -> None:
    rows = [{**FORMS["prompt"], "warmth": str(value), "who": who} for value, who in ((3, "7"), ("", "Ann"))]
    path = write_lines(tmp_path / "train.jsonl", *rows)
    own = AttributeSchema(names=("warmth",), low=1, high=10)

    def notes(schema: AttributeSchema, **settings: Any) -> list[str]:
        made = build(MessagesSource, source=str(path), **settings)
        one = convert_messages(made, tmp_path / "out.jsonl", schema=schema).notes
        both = prepare_messages(made, tmp_path / "out", schema=schema).notes
        assert both == ["val.jsonl is empty: the source has no rows of that split", *one]
        return one

    (note,) = notes(SCHEMA)
    assert note.startswith("no rating of quality, toxicity,")
    assert "nothing was read of the columns warmth; attributes: {ATTRIBUTE: COLUMN} (--rating ATTRIBUTE=COLUMN)" in note
    assert notes(SCHEMA, attributes={"quality": "warmth"}) == notes(own) == []


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        (
            {"Question": "a", "response": "b"},
            {},
            r"keys are Question, response; columns: \{prompt: NAME, response: NAME",
        ),
        ({"Question": "a", "response": "b"}, {"prompt": "question"}, "column question is missing; did you mean 'Quest"),
        ({"prompt": " ", "response": "b"}, {}, "prompt is empty"),
        ({"prompt": "a", "response": ""}, {}, "response is empty"),
    ],
)
def test_a_row_without_question_or_answer_names_its_columns(
    tmp_path: Path, row: dict[str, str], columns: dict[str, str], reason: str
) -> None:
    with pytest.raises(RecordError, match=rf"a\.jsonl:1: .*{reason}"):
        converted(write_lines(tmp_path / "a.jsonl", row), columns=columns)


def test_columns_written_the_wrong_way_round(tmp_path: Path) -> None:
    for columns, reason in (
        ({"question": "q"}, "known: messages, prompt, completion, resp"),
        ({"q": "prompt"}, "prompt=q"),
    ):
        with pytest.raises(InputError, match=f"columns: unknown key .*; .*{reason}"):
            build(MessagesSource, source="a.csv", columns=columns)


def test_a_byte_order_mark_at_any_line(tmp_path: Path) -> None:
    line = json.dumps({**FORMS["messages"], **RATINGS}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"\ufeff{line}\n\ufeff{line}\n\ufeff", encoding="utf-8")
    assert converted(tmp_path / "a.jsonl") == EXPECTED * 2


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    text, reason = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        converted(tmp_path / name)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_json_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steerlm.datasets import row_readers

    values = [{"a": 1, "b": ["ü", None, "]"]}, {}, "text", 123456, [], 2.5]
    for indent in (None, 2):
        path = tmp_path / "a.json"
        path.write_text(" " + json.dumps(values, indent=indent), encoding="utf-8")
        for chunk in (3, 5, 1000):
            monkeypatch.setattr(row_readers, "CHUNK", chunk)
            rows = list(row_readers.read_json(path))
            assert [number for number, _ in rows] == [1, 2, 3, 4, 5, 6]
            assert [json.loads(text) for _, text in rows] == values


@given(st.floats(-5, 5), st.floats(0.1, 100), st.floats(0, 1))
def test_rescaling_is_linear_and_stays_in_the_range(low: float, width: float, share: float) -> None:
    high = low + width
    rating = min(max(low + share * width, low), high)
    assert rescale("quality", low, (low, high), SCHEMA) == 0
    assert rescale("quality", high, (low, high), SCHEMA) == 4
    assert abs(rescale("quality", rating, (low, high), SCHEMA) - 4 * share) < 1e-3
