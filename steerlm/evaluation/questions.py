# SPDX-License-Identifier: Apache-2.0
"""Read the questions of an evaluation."""

from pathlib import Path

from steerlm.errors import RecordError
from steerlm.records import Line, read_records


def read_questions(path: Path) -> list[str]:
    """Return the questions of a JSONL file: each line's `question` or `text`, or the first of MT-bench's `turns`.

    Raises:
        RecordError: A line has none of them.
    """
    questions = []
    for number, record in read_records(path, Line):
        values = record.model_extra or {}
        value = values.get("question") or values.get("text") or next(iter(values.get("turns") or []), None)
        if not isinstance(value, str):
            raise RecordError(path, number, 'a "question" or "text" was expected')
        questions.append(value)
    return questions
