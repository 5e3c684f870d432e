# SPDX-License-Identifier: Apache-2.0
"""Thousands of damaged input files: every command ends with 0, or one clear line and 2, and nothing half-written."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerlm.cli.main import call
from tests.fuzz.mutations import damaged_bytes, damaged_value, dumps

CONVERSATIONS = [
    {
        "system": "A chat.",
        "mask": "User",
        "type": "VALUE_TO_TEXT",
        "conversations": [
            {"from": "User", "value": f"question {n}", "label": None},
            {"from": "Assistant", "value": f"answer {n}", "label": "quality:4,toxicity:0"},
        ],
    }
    for n in range(3)
]
MESSAGES = [
    {"message_id": "1", "parent_id": None, "message_tree_id": "1", "text": "hi", "role": "prompter", "lang": "en"},
    {"message_id": "2", "parent_id": "1", "message_tree_id": "1", "text": "oh", "role": "assistant", "lang": "en",
     "labels": {"name": ["quality", "humor"], "value": [0.75, 0.5], "count": [3, 3]}},
]  # fmt: skip
TREES = [
    {
        "message_tree_id": "1",
        "prompt": {
            "message_id": "1", "parent_id": None, "text": "hi", "role": "prompter", "lang": "en", "labels": {},
            "replies": [{"message_id": "2", "parent_id": "1", "text": "oh", "role": "assistant", "lang": "en",
                         "labels": {"quality": {"value": 0.5, "count": 3}}, "replies": []}],
        },
    }
]  # fmt: skip
HELPSTEER = [{"prompt": "p", "response": "r", "helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1,
              "verbosity": 2}] * 2  # fmt: skip


def data(command: str, *more: str) -> Callable[[Path, Path], list[str]]:
    return lambda source, out: ["data", command, "--source", str(source), "--output_directory", str(out), *more]


CASES: dict[str, tuple[list[Any], Callable[[Path, Path], list[str]]]] = {
    "check": (CONVERSATIONS, lambda source, out: ["data", "check", str(source)]),
    "regression": (
        CONVERSATIONS,
        lambda source, out: ["data", "regression", "--input-file", str(source), "--output-file", str(out)],
    ),
    "merge": (CONVERSATIONS, lambda source, out: ["data", "merge", str(source), "--output-file", str(out)]),
    "skip": (
        CONVERSATIONS,
        lambda source, out: [
            "data", "regression", "--input-file", str(source), "--output-file", str(out), "--on-error", "skip",
        ],
    ),
    "oasst messages": (MESSAGES, data("oasst")),
    "oasst trees": (TREES, data("oasst")),
    "helpsteer": (HELPSTEER, data("helpsteer")),
    "helpsteer2": ([{**row, "prompt": "a<extra_id_1>Assistant\nb"} for row in HELPSTEER], data("helpsteer2")),
}  # fmt: skip
ROUNDS = 400


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_told_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines, words = CASES[name]
    dice = random.Random(name)
    good = b"".join(dumps(line) + b"\n" for line in lines)
    seen = {0: 0, 2: 0}
    for number in range(ROUNDS):
        if number % 2:
            content = damaged_bytes(good, dice)
        else:
            content = b"".join(dumps(damaged_value(line, dice)) + b"\n" for line in lines)
        source, out = tmp_path / "in.jsonl", tmp_path / f"out{number}"
        source.write_bytes(content)
        status = call(words(source, out))
        told = capfd.readouterr().err
        assert status in seen, (content, told)
        seen[status] += 1
        assert "Traceback" not in told, content
        assert "--debug shows where" not in told, (content, told)
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        assert len(errors) == (1 if status else 0), (content, told)
        if status:
            left = [p.name for p in tmp_path.rglob("*") if p.name.startswith(out.name) and p.is_file()]
            assert not left, (content, left)
    assert seen[2] > ROUNDS // 20 or name == "skip", "damage that is noticed"
    assert seen[0] > 0, "damage that does not matter"


def test_damaged_recipes_are_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from steerlm.recipe import shipped

    good = shipped("recipes")["steerlm-llama2"].read_bytes()
    dice, seen = random.Random(1), {0: 0, 2: 0}
    for _ in range(ROUNDS):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(damaged_bytes(good, dice))
        status = call(["plan", str(path), "--json"])
        out, told = capfd.readouterr()
        assert status in seen, told
        seen[status] += 1
        assert "Traceback" not in told
        assert "--debug shows where" not in told, (path.read_bytes(), told)
        assert bool(status) == told.startswith("error: ")
        if not status:
            json.loads(out)
    assert min(seen.values()) > ROUNDS // 20
