# SPDX-License-Identifier: Apache-2.0
"""Prepares a recipe's data section: every source, their merged conversations, the reward model's samples."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.outputs import TRAIN, VAL, OnError, Summary, make_folder, output
from steerlm.datasets.regression import write_regression
from steerlm.datasets.sources.base import SourceSettings
from steerlm.datasets.sources.registry import SOURCES
from steerlm.records import read_lines


@dataclass(frozen=True)
class Prepared:
    """Two folders, each with `train.jsonl` and `val.jsonl`, and the summaries by source and output."""

    conversations: Path
    regression: Path
    summaries: dict[str, Summary]


def prepare_data(settings: PrepareSettings, folder: Path, *, schema: AttributeSchema) -> Prepared:
    """Write `conversations/` and `regression/` into `folder`: sources in order, training lines repeated.

    Raises `RecordError` for a bad line; with `settings.on_error` "skip" the bad lines of each source go to
    `<number>-<kind>.rejects.jsonl`.
    """
    make_folder(folder)
    result = Prepared(folder / "conversations", folder / "regression", {})
    with TemporaryDirectory(prefix=".prepare-", dir=folder) as scratch:
        parts = []
        for index, source in enumerate(settings.sources):
            name = f"{index}-{source.kind}"
            part = Path(scratch) / name
            summary = prepare_source(source, part, schema=schema, on_error=settings.on_error)
            rejects = folder / f"{name}.rejects.jsonl"
            rejects.unlink(missing_ok=True)
            if summary.rejects is not None:
                summary.rejects = summary.rejects.replace(rejects)
            result.summaries[name] = summary
            left_out = summary.left_out(source.source)
            left_out.check(settings.max_dropped, "prepare_data.max_dropped", f"mend the rows ({summary})")
            parts.append((part, source.repeat))
        result.summaries["conversations"] = _merge(parts, result.conversations)
    for split in (TRAIN, VAL):
        result.summaries[f"regression {split}"] = write_regression(
            result.conversations / split, result.regression / split, schema=schema, use_system=settings.use_system
        )
    return result


def prepare_source(
    source: SourceSettings, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` of any source."""
    return SOURCES[source.kind].prepare(source, folder, schema=schema, on_error=on_error)


def _merge(parts: list[tuple[Path, int]], folder: Path) -> Summary:
    with output([folder / TRAIN, folder / VAL], folder / "rejects.jsonl", "fail") as out:
        for split in (TRAIN, VAL):
            for part, repeat in parts:
                for _, line in read_lines(part / split):
                    for _ in range(repeat if split == TRAIN else 1):
                        out.write(split, line)
    return out.summary
