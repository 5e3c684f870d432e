# SPDX-License-Identifier: Apache-2.0
"""The reward model's samples: one text and label vector per labeled turn (docs/upstream.md#regression-samples)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from steerlm.attributes import MASKED, AttributeSchema, parse_labels
from steerlm.datasets.outputs import OnError, Summary, single_output
from steerlm.datasets.progress import with_progress
from steerlm.errors import InputError
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
    """Convert a conversations file to regression samples.

    Labels of attributes outside the schema are dropped and counted.

    Args:
        input_file: Conversations.
        output_file: The samples.
        schema: The attributes of the label vectors.
        use_system: Keep each record's own system prompt; upstream always writes the constant one.
        on_error: Whether a bad line raises `RecordError`, or is counted and written beside the output.
        may_be_empty: Accept a file without a labeled turn.

    Raises:
        InputError: If there is no sample (unless `may_be_empty`), or the output is the input.
    """
    if output_file.exists() and input_file.exists() and output_file.samefile(input_file):
        raise InputError(f"{output_file}: is also the input, which would be lost; give the output another name")
    unknown: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    with single_output(output_file, on_error) as out:
        out.summary.vector = schema.names
        conversations = read_records(input_file, Conversation, out.reject)
        for _, conversation in with_progress(conversations, input_file.name, "conversations"):
            out.summary.add("conversations")
            out.summary.kept += 1
            new_samples = list(samples(conversation, schema, use_system=use_system, unknown=unknown))
            for sample in new_samples:
                out.write(output_file.name, sample)
                pairs = zip(schema.names, sample.label, strict=True)
                outside.update(n for n, v in pairs if v != MASKED and not schema.low <= v <= schema.high)
            if not new_samples:
                out.summary.add("without a label (no sample)")
        if not may_be_empty and not out.summary.written[output_file.name]:
            raise InputError(
                f"{input_file}: no sample: {_reason_for_none(out.summary, out.reject.count, schema, unknown)}"
            )
    for name, count in sorted(unknown.items()):
        out.summary.notes.append(f"{count:,} labels of {name!r}, which the schema does not have, were dropped")
    for name, count in outside.items():
        out.summary.notes.append(
            f"{count:,} labels of {name!r} are outside {schema.low}..{schema.high}; reward training rejects them"
        )
    return out.summary


def _reason_for_none(summary: Summary, rejected: int, schema: AttributeSchema, unknown: Counter[str]) -> str:
    if rejected or "conversations" not in summary.counts:
        return f"{summary.counts.get('conversations', 0):,} conversations were read, {rejected:,} lines rejected"
    seen = f"the labels name {', '.join(sorted(unknown))}" if unknown else "no turn has any label"
    return f"no turn has a label of {', '.join(schema.names)}; {seen}; --attributes FILE gives attributes of your own"


def samples(
    conversation: Conversation,
    schema: AttributeSchema,
    *,
    use_system: bool = False,
    unknown: Counter[str] | None = None,
) -> Iterator[RegressionSample]:
    """Yield one sample per turn with a label that is not empty; the history has no labels.

    Names outside the schema are counted in `unknown`; a turn with no other names is skipped.
    """
    for index, labels in labeled_turns(conversation):
        if unknown is not None:
            unknown.update(name for name in labels if name not in schema.names)
        vector = schema.vector(labels)
        if any(value != MASKED for value in vector):
            yield RegressionSample(text=render_readout(conversation, index, use_system=use_system), label=vector)


def labeled_turns(conversation: Conversation) -> list[tuple[int, dict[str, float]]]:
    """Return index and labels of every turn with a label that is not empty."""
    return [(index, parse_labels(turn.label)) for index, turn in enumerate(conversation.conversations) if turn.label]
