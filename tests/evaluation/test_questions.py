# SPDX-License-Identifier: Apache-2.0
"""Questions in the forms that people have them in."""

import gzip
import json
from pathlib import Path

import pytest

from steerlm.errors import InputError
from steerlm.evaluation.questions import read_questions

ASKED = ["Why is the sky blue?", "Wo wohnt die Eule? 🦉"]


def lines(*values: object) -> str:
    return "".join(f"{json.dumps(value)}\n" for value in values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", lines(*({"question": text, "id": 1} for text in ASKED))),
        ("a.jsonl", lines(*({"text": text} for text in ASKED))),
        ("mt_bench.jsonl", lines(*({"question_id": 81, "turns": [text, "And then?"]} for text in ASKED))),
        ("mt_bench.jsonl", lines(*({"prompt_id": 81, "prompt": [text, "And then?"]} for text in ASKED))),
        ("a.jsonl", lines(*({"prompt": text, "reference": []} for text in ASKED))),
        ("alpaca_eval.json", json.dumps([{"instruction": text, "output": "x"} for text in ASKED], indent=2)),
        ("a.jsonl", lines(*ASKED)),
        ("a.json", json.dumps(ASKED)),
        ("a.json", "\n\n" + json.dumps(ASKED, indent=2, ensure_ascii=False) + "\n"),
        ("lines in.json", lines(*ASKED)),
        ("a.txt", "\n".join(ASKED)),
        ("a.txt", "".join(f"  {text}\r\n\n" for text in ASKED)),
        ("questions", "\n".join(ASKED) + "\n"),
    ],
)
def test_every_form_is_the_same_questions(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_questions(tmp_path / name) == ASKED
    with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
        file.write(text.encode())
    assert read_questions(tmp_path / f"{name}.gz") == ASKED


def test_marks_of_json_may_begin_a_plain_question(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{x} in a format string?\n[1, 2, what comes next?\n")
    assert read_questions(tmp_path / "a.txt") == ["{x} in a format string?", "[1, 2, what comes next?"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"question": "a?"}\n{"id": 2}\n', 'a.jsonl:2: no question; a text, or an object with one of "q'),
        ("a.jsonl", '{"turns": [7]}\n', "a.jsonl:1: no question"),
        ("a.jsonl", '{"question": " "}\n', "a.jsonl:1: no question"),
        ("a.jsonl", '"a?"\n\nWhy?\n', "a.jsonl:3: not JSON (Expecting value); plain questions go into a .txt file"),
        ("a.json", '["a?", {"question": null}]', "a.json: item 2: no question"),
        ("a.json", '[\n\n"a?",\n"b"\n,]', "a.json:5: not a JSON list ("),
        ("a.txt", '{"question": "a?"}\n', "a.txt:1: is JSON, a plain question was expected; name the file .jsonl"),
        ("a.txt", "\n \n", "a.txt: has no questions"),
        ("a.json", "[]", "a.json: has no questions"),
    ],
)
def test_what_is_no_question_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_questions(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_shared_questions_are_read(shared_data: Path) -> None:
    found = read_questions(shared_data / "questions" / "mt_bench_question.jsonl")
    assert len(found) == 80 and found[0].startswith(
        "Compose an engaging travel blog post about a recent trip to Hawaii"
    )
