# SPDX-License-Identifier: Apache-2.0
"""Counts over a conversations file: validity, labels, lengths, duplicates.

Streams the file; memory has the counts, a histogram of lengths and 8 bytes a record (to find duplicates).
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from steerlm.attributes import AttributeSchema
from steerlm.datasets.progress import with_progress
from steerlm.datasets.regression import labeled_turns
from steerlm.datasets.sources.registry import check_is_lines, conversion_hint
from steerlm.errors import RecordError
from steerlm.prompt import marks_in, render, text_of
from steerlm.records import Conversation, read_records

SHOWN = 10
BATCH = 256

Measure = Callable[[list[str]], Iterable[int]]


class Lengths(BaseModel):
    """Lengths of the training texts, in `unit`; the quantiles are lengths in the file."""

    unit: str
    mean: float = 0.0
    median: int = 0
    p90: int = 0
    p99: int = 0
    longest: int = 0
    over_window: int = 0


class AttributeCounts(BaseModel):
    """How often an attribute is labeled, and with which values; `other` counts fractions and large numbers."""

    labeled: int = 0
    outside_range: int = 0
    fractional: int = 0
    unknown: bool = False
    values: dict[str, int] = Field(default_factory=dict)


class CheckReport(BaseModel):
    """Counts over a file. `turns` by speaker; `answers` are the turns of roles that are not masked."""

    file: str
    conversations: int = 0
    invalid: int = 0
    invalid_lines: list[str] = Field(default_factory=list)
    """The first bad lines, each as file:line: reason."""
    looks_like: str | None = None
    """The raw form of the first bad line and the command that converts it."""
    turns: dict[str, int] = Field(default_factory=dict)
    answers: int = 0
    labeled_answers: int = 0
    unlabeled_answers: int = 0
    empty_labels: int = 0
    conversations_without_label: int = 0
    labels_without_type: int = 0
    """Conversations with labels and no `type`: read as VALUE_TO_TEXT."""
    nothing_to_learn: int = 0
    turn_marks_in_text: int = 0
    duplicates: int = 0
    """Conversations with the same speakers and texts as an earlier one."""
    window: int | None = None
    lengths: Lengths
    attributes: dict[str, AttributeCounts] = Field(default_factory=dict)

    @property
    def fractional(self) -> int:
        """Labels that are not whole numbers: a reward model learns them, a policy's prompt cannot contain them."""
        return sum(counts.fractional for counts in self.attributes.values())

    def label_problems(self) -> list[str]:
        """Return what makes labels of valid lines unusable for training a policy."""
        outside = sum(counts.outside_range for counts in self.attributes.values() if not counts.unknown)
        unknown = [name for name, counts in self.attributes.items() if counts.unknown]
        return [
            *([f"{outside:,} labels outside the range"] if outside else []),
            *([f"labels of {', '.join(unknown)}, which the schema does not have"] if unknown else []),
            *([f"{self.fractional:,} fractional labels"] if self.fractional else []),
        ]


def check(path: Path, *, schema: AttributeSchema, tokenizer: Any = None, window: int | None = None) -> CheckReport:
    """Read a conversations file and count. Bad lines are counted, not raised.

    Args:
        path: Conversations.
        schema: The attributes.
        tokenizer: A transformers tokenizer, to measure in tokens; None to measure in characters.
        window: The longest text that fits; longer ones are counted.

    Raises:
        InputError: If the file cannot be read, or is not one of JSON lines.
    """
    check_is_lines(path)
    unit = "characters" if tokenizer is None else "tokens"
    report = CheckReport(file=str(path), window=window, lengths=Lengths(unit=unit))
    report.attributes = {name: AttributeCounts() for name in schema.names}

    def reject(error: RecordError, text: str) -> None:
        report.invalid += 1
        if report.invalid == 1:
            report.looks_like = report.looks_like or conversion_hint(text, str(path))
        if report.invalid <= SHOWN:
            report.invalid_lines.append(str(error))

    histogram: Counter[int] = Counter()
    seen = array("Q")
    measure = _measure(tokenizer)
    records = with_progress(read_records(path, Conversation, reject), path.name, "conversations")
    for batch in _batched(records):
        texts = []
        for _, conversation in batch:
            _count(conversation, report, schema)
            seen.append(_digest(conversation))
            texts.append(text_of(render(conversation)))
        histogram.update(measure(texts))
    report.conversations = len(seen)
    report.duplicates = len(seen) - len(np.unique(np.frombuffer(seen, dtype=np.uint64))) if seen else 0
    _fill_lengths(report.lengths, histogram, window)
    return report


def _count(conversation: Conversation, report: CheckReport, schema: AttributeSchema) -> None:
    labels = labeled_turns(conversation)
    for turn in conversation.conversations:
        report.turns[turn.speaker] = report.turns.get(turn.speaker, 0) + 1
        if turn.speaker != conversation.mask:
            report.answers += 1
            report.labeled_answers += bool(turn.label)
            report.unlabeled_answers += turn.label is None
            report.empty_labels += turn.label == ""
    report.turn_marks_in_text += any(marks_in(turn.value) for turn in conversation.conversations)
    report.conversations_without_label += not labels
    report.labels_without_type += bool(labels) and conversation.type is None
    report.nothing_to_learn += not any(segment.learned for segment in render(conversation))
    for _, values in labels:
        for name, value in values.items():
            counts = report.attributes.setdefault(name, AttributeCounts(unknown=True))
            counts.labeled += 1
            counts.outside_range += not schema.low <= value <= schema.high
            counts.fractional += value != int(value)
            key = str(int(value)) if value == int(value) and abs(value) < 1000 else "other"
            counts.values[key] = counts.values.get(key, 0) + 1


def _digest(conversation: Conversation) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for turn in conversation.conversations:
        for part in (turn.speaker, turn.value):
            data = part.encode("utf-8", errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def _measure(tokenizer: Any) -> Measure:
    if tokenizer is None:
        return lambda texts: map(len, texts)
    return lambda texts: map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else ()


def _batched(records: Iterable[tuple[int, Conversation]]) -> Iterator[list[tuple[int, Conversation]]]:
    records = iter(records)
    while batch := list(islice(records, BATCH)):
        yield batch


def _fill_lengths(lengths: Lengths, histogram: Counter[int], window: int | None) -> None:
    total = histogram.total()
    if not total:
        return
    values = np.array(sorted(histogram))
    below = np.cumsum([histogram[int(v)] for v in values])
    lengths.mean = round(sum(v * n for v, n in histogram.items()) / total, 1)
    lengths.median, lengths.p90, lengths.p99 = (
        int(values[np.searchsorted(below, share * total)]) for share in (0.5, 0.9, 0.99)
    )
    lengths.longest = int(values[-1])
    lengths.over_window = sum(n for v, n in histogram.items() if window is not None and v > window)
