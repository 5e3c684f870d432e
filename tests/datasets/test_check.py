# SPDX-License-Identifier: Apache-2.0
"""Counts of a small file by hand, lengths in characters and tokens, real annotated conversations."""

from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.datasets.check import check
from steerlm.errors import InputError
from steerlm.prompt import render, text_of
from steerlm.records import Conversation
from tests.datasets.raw import make_tree, write_lines

SCHEMA = AttributeSchema()


def talk(*turns: tuple[str, str, Any], **keys: Any) -> dict[str, Any]:
    rows = [
        {"value": text, "from": speaker} | ({} if label is ... else {"label": label}) for speaker, text, label in turns
    ]
    return {"conversations": rows, "system": "", "mask": "User", "type": "VALUE_TO_TEXT"} | keys


ROWS = [
    talk(("User", "a", None), ("Assistant", "b", "quality:4,humor:0")),
    talk(("User", "a", None), ("Assistant", "b", "quality:1,humor:-3,style:2.5")),  # the same turns, other labels
    talk(("User", "c", None), ("Assistant", "d", ...), ("User", "e", None), ("Assistant", "f", "")),
    talk(("User", "only <extra_id_1>User", None)),
    {"conversations": talk(("User", "x" * 500, None), ("Assistant", "y", "humor:2"))["conversations"]},
]


def test_counts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *ROWS[:3], "{", *ROWS[3:], talk(("Assistant", "z", "quality")))
    report = check(path, schema=SCHEMA, window=200)
    assert (report.conversations, report.invalid, report.duplicates) == (5, 2, 1)
    assert [line.split(": ")[0] for line in report.invalid_lines] == [f"{path}:4", f"{path}:7"]
    assert "conversations.0.label" not in report.invalid_lines[0]
    assert report.turns == {"User": 6, "Assistant": 5}
    assert (report.answers, report.labeled_answers, report.unlabeled_answers, report.empty_labels) == (5, 3, 1, 1)
    assert (report.conversations_without_label, report.nothing_to_learn) == (2, 1)
    assert (report.labels_without_type, report.turn_marks_in_text) == (1, 1)
    counted = {name: (c.labeled, c.values, c.outside_range) for name, c in report.attributes.items() if c.labeled}
    assert counted == {
        "quality": (2, {"4": 1, "1": 1}, 0),
        "humor": (3, {"0": 1, "-3": 1, "2": 1}, 1),
        "style": (1, {"other": 1}, 0),
    }
    assert [name for name, c in report.attributes.items() if c.unknown] == ["style"]
    assert (report.fractional, report.attributes["style"].fractional) == (1, 1)
    assert report.looks_like is None
    lengths = sorted(len(text_of(render(Conversation.model_validate(row)))) for row in ROWS)
    assert report.lengths.unit == "characters"
    assert (report.lengths.median, report.lengths.longest) == (lengths[2], lengths[-1])
    assert report.lengths.mean == round(sum(lengths) / 5, 1)
    assert report.lengths.over_window == sum(n > 200 for n in lengths) == 1


PAIR = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1, "split": "train"}


@pytest.mark.parametrize(
    ("row", "command"),
    [
        ({"prompt": "p", "response": "r", "helpfulness": 3, "verbosity": 1}, "HelpSteer: steerlm data helpsteer "),
        (PAIR, "HelpSteer2's pairs: steerlm data helpsteer2 --preference "),
        (make_tree(0), "OpenAssistant's trees: steerlm data oasst "),
        ({"message_id": "m", "parent_id": None, "text": "t", "role": "prompter"}, "messages: steerlm data oasst "),
        (
            {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]},
            "steerlm data convert ",
        ),
        ({"conversations": [{"from": "System", "value": "Be nice."}, {"from": "User", "value": "q"}]}, "data convert "),
        ({"other": []}, None),
        ('["prompt"]', None),
    ],
)
def test_a_raw_dataset_is_recognised(tmp_path: Path, row: Any, command: str | None) -> None:
    found = check(write_lines(tmp_path / "raw.jsonl", row), schema=SCHEMA).looks_like
    assert (command in found and f" {tmp_path / 'raw.jsonl'} " in found) if command and found else not command


def test_what_a_policy_cannot_learn_is_complained_of(tmp_path: Path) -> None:
    rows = [talk(("User", "a", None), ("Assistant", "b", label)) for label in ("quality:2.5,humor:9", "style:1")]
    report = check(write_lines(tmp_path / "a.jsonl", *rows), schema=SCHEMA)
    assert report.label_problems() == [
        "1 labels outside the range",
        "labels of style, which the schema does not have",
        "1 fractional labels",
    ]
    assert check(write_lines(tmp_path / "b.jsonl", ROWS[0]), schema=SCHEMA).label_problems() == []


def test_quantiles_are_lengths_that_occur(tmp_path: Path) -> None:
    base = len(text_of(render(Conversation.model_validate(talk(("User", "", None))))))
    path = write_lines(tmp_path / "a.jsonl", *(talk(("User", "x" * n, None)) for n in range(1, 1001)))
    lengths = check(path, schema=SCHEMA).lengths
    found = [n - base for n in (lengths.median, lengths.p90, lengths.p99, lengths.longest)]
    assert found == [500, 900, 990, 1000]


def test_lengths_in_tokens_of_the_training_text(shared_data: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    path = write_lines(tmp_path / "a.jsonl", *ROWS)
    report = check(path, schema=SCHEMA, tokenizer=tokenizer, window=100)
    texts = [text_of(render(Conversation.model_validate(row))) for row in ROWS]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert (report.lengths.unit, report.lengths.longest) == ("tokens", max(lengths))
    assert report.lengths.over_window == sum(n > 100 for n in lengths)


def test_real_annotated_conversations(shared_data: Path) -> None:
    report = check(shared_data / "steerlm" / "annotated_384.jsonl", schema=SCHEMA)
    assert (report.conversations, report.invalid, report.labels_without_type) == (384, 0, 384)
    assert report.labeled_answers == report.answers > 0
    assert sum(c.outside_range + c.unknown for c in report.attributes.values()) == 0


def test_an_empty_file_and_none(tmp_path: Path) -> None:
    assert check(write_lines(tmp_path / "a.jsonl"), schema=SCHEMA).conversations == 0
    with pytest.raises(InputError, match="no such file"):
        check(tmp_path / "none.jsonl", schema=SCHEMA)
