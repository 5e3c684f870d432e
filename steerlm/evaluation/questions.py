# SPDX-License-Identifier: Apache-2.0
"""Read the questions of an evaluation: MT-bench's two forms, other JSON, or one question a line.

Only the first turn of a question of several turns is asked.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steerlm.errors import InputError, RecordError
from steerlm.records import read_lines

KEYS = ("question", "text", "turns", "prompt", "instruction")
"""Where a JSON object has its question: FastChat's MT-bench has `turns`, its copy on the hub `prompt`, both lists."""
JSON_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def read_questions(path: Path) -> list[str]:
    """Return the questions of a file.

    A file named `.jsonl` or `.json` has JSON lines or one JSON list, of texts or of objects with one of `KEYS`; its
    value is a text or a list of turns. Any other file has one question a line.

    Raises:
        InputError: The file cannot be read, has no question, or an entry is none; names the line or the item.
    """
    read = _json_values if path.name.endswith(JSON_ENDINGS) else _plain_lines
    questions = []
    for place, value in read(path):
        question = _first_turn(value)
        if question is None:
            keys = ", ".join(f'"{key}"' for key in KEYS)
            raise InputError(f"{place}: no question; a text, or an object with one of {keys}, was expected")
        questions.append(question)
    if not questions:
        raise InputError(f"{path}: has no questions")
    return questions


def _plain_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in read_lines(path):
        if line.lstrip().startswith(("{", "[")) and _is_json(line):
            raise RecordError(path, number, "is JSON, a plain question was expected; name the file .jsonl or .json")
        yield f"{path}:{number}", line.strip()


def _json_values(path: Path) -> Iterator[tuple[str, Any]]:
    lines = list(read_lines(path))
    if lines and lines[0][1].lstrip().startswith("["):
        try:
            items = json.loads("".join(line for _, line in lines))
        except json.JSONDecodeError as error:
            number, _ = lines[min(error.lineno, len(lines)) - 1]
            raise RecordError(path, number, f"not a JSON list ({error.msg})") from None
        yield from ((f"{path}: item {number}", item) for number, item in enumerate(items, 1))
        return
    for number, line in lines:
        try:
            yield f"{path}:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise RecordError(path, number, f"not JSON ({error.msg}); plain questions go into a .txt file") from None


def _first_turn(value: Any) -> str | None:
    """Return the question in a value of JSON; None if there is none."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in KEYS if value.get(key)), None)
        if isinstance(value, list):
            value = value[0]
    return value if isinstance(value, str) and value.strip() else None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True
