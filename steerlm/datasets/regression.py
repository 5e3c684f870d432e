# SPDX-License-Identifier: Apache-2.0
"""Conversations to the reward model's samples: a text per labelled turn and its label vector (behaviour spec, 1.7)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from steerlm.attributes import MASKED, AttributeSchema, parse_labels
from steerlm.datasets.config import OnError
from steerlm.datasets.outputs import Summary, single_output
from steerlm.errors import InputError, LabelError, RecordError
from steerlm.prompt import render_readout
from steerlm.records import Conversation, RegressionSample, read_records


def write_regression(
    input_file: Path,
    output_file: Path,
    *,
    schema: AttributeSchema,
    use_system: bool = False,
    on_error: OnError = "fail",
    may_be_empty: bool = True,
) -> Summary:
    """Convert a conversations file. `use_system` puts the record's own system prompt where upstream's constant is.

    Raises `RecordError` for a bad line (with `on_error` "skip" it is counted and written beside the output). Labels of
    attributes that the schema does not have are dropped and counted. Unless it `may_be_empty`, a file without a sample
    raises `InputError`, and nothing is written; so does an output that is the input.
    """
    if output_file.exists() and input_file.exists() and output_file.samefile(input_file):
        raise InputError(f"{output_file}: is the input too, which would be lost; give the output another name")
    unknown: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    with single_output(output_file, on_error) as out:
        out.summary.vector = schema.names
        talks = read_records(input_file, Conversation, out.reject)
        for number, talk in tqdm(talks, desc=input_file.name, unit=" conversations", disable=None):
            out.summary.add("conversations")
            try:
                made = list(samples(talk, schema, use_system=use_system, unknown=unknown))
            except LabelError as error:
                out.reject(RecordError(input_file, number, str(error)), talk.to_json())
                continue
            for sample in made:
                out.write(output_file.name, sample)
                pairs = zip(schema.names, sample.label, strict=True)
                outside.update(n for n, v in pairs if v != MASKED and not schema.low <= v <= schema.high)
            if not made:
                out.summary.add("without a label (no sample)")
        if not may_be_empty and not out.summary.written[output_file.name]:
            raise InputError(f"{input_file}: no sample: {_why_none(out.summary, out.reject.count, schema, unknown)}")
    for name, count in sorted(unknown.items()):
        out.summary.notes.append(f"{count:,} labels of {name!r}, which the schema does not have, were dropped")
    for name, count in outside.items():
        out.summary.notes.append(
            f"{count:,} labels of {name!r} lie outside {schema.low}..{schema.high}; a reward model refuses them"
        )
    return out.summary


def _why_none(summary: Summary, rejected: int, schema: AttributeSchema, unknown: Counter[str]) -> str:
    if rejected or "conversations" not in summary.counts:
        return f"{summary.counts.get('conversations', 0):,} conversations were read, {rejected:,} lines rejected"
    seen = f"the labels there name {', '.join(sorted(unknown))}" if unknown else "no turn has any label"
    return f"no turn has a label of {', '.join(schema.names)}; {seen}; --attributes FILE gives attributes of your own"


def samples(
    talk: Conversation, schema: AttributeSchema, *, use_system: bool = False, unknown: Counter[str] | None = None
) -> Iterator[RegressionSample]:
    """One sample per turn with a label that is not empty; the history carries no labels.

    Names outside the schema are counted in `unknown`; a turn that names no other is passed over. Raises `LabelError`
    naming the turn.
    """
    for index, labels in labelled_turns(talk):
        if unknown is not None:
            unknown.update(name for name in labels if name not in schema.names)
        vector = schema.vector(labels)
        if any(value != MASKED for value in vector):
            yield RegressionSample(text=render_readout(talk, index, use_system=use_system), label=vector)


def labelled_turns(talk: Conversation) -> list[tuple[int, dict[str, float]]]:
    """Index and labels of every turn with a label that is not empty. Raises `LabelError` naming the turn."""
    found = []
    for index, turn in enumerate(talk.conversations):
        if turn.label:
            try:
                found.append((index, parse_labels(turn.label)))
            except LabelError as error:
                raise LabelError(f"conversations.{index}.label: {error}") from None
    return found
