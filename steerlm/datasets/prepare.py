# SPDX-License-Identifier: Apache-2.0
"""A recipe's data section: prepare every source, merge them, and make the reward model's samples of the result."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from steerlm.attributes import AttributeSchema
from steerlm.datasets.config import (
    ConversationsSource,
    HelpSteer2Source,
    HelpSteerSource,
    OasstSource,
    OnError,
    PrepareSettings,
    Source,
)
from steerlm.datasets.helpsteer import prepare_helpsteer
from steerlm.datasets.helpsteer2 import prepare_helpsteer2
from steerlm.datasets.oasst import prepare_oasst
from steerlm.datasets.outputs import TRAIN, VAL, Summary, make_folder, output, split_output
from steerlm.datasets.regression import labelled_turns, write_regression
from steerlm.datasets.sources import localise, source_files, source_rows
from steerlm.errors import LabelError, RecordError
from steerlm.records import Conversation, read_lines


@dataclass(frozen=True)
class Prepared:
    """Two folders, each with `train.jsonl` and `val.jsonl`, and what was counted, by source and output."""

    conversations: Path
    regression: Path
    summaries: dict[str, Summary]


def prepare_data(settings: PrepareSettings, folder: Path, *, schema: AttributeSchema) -> Prepared:
    """Write `conversations/` and `regression/` into `folder`: the sources in order, training lines repeated as asked.

    Raises `RecordError` for a bad line; with `settings.on_error` "skip" the bad lines of each source are in
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
            parts.append((part, source.repeat))
        result.summaries["conversations"] = _merge(parts, result.conversations)
    for split in (TRAIN, VAL):
        result.summaries[f"regression {split}"] = write_regression(
            result.conversations / split, result.regression / split, schema=schema, use_system=settings.use_system
        )
    return result


def prepare_source(source: Source, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail") -> Summary:
    """`train.jsonl` and `val.jsonl` of any kind of source."""
    match source:
        case OasstSource():
            return prepare_oasst(source, folder, schema=schema, on_error=on_error)
        case HelpSteerSource():
            return prepare_helpsteer(source, folder, schema=schema, on_error=on_error)
        case HelpSteer2Source():
            return prepare_helpsteer2(source, folder, schema=schema, on_error=on_error)
        case ConversationsSource():
            return prepare_conversations(source, folder, on_error=on_error)


def prepare_conversations(settings: ConversationsSource, folder: Path, *, on_error: OnError = "fail") -> Summary:
    """Validate conversations and copy their lines as they are into `train.jsonl` and `val.jsonl` of `folder`."""
    make_folder(folder)
    with TemporaryDirectory(prefix=".conversations-", dir=folder) as scratch:
        splits = source_files(localise(settings, Path(scratch)))
        with split_output(folder, settings.kind, on_error) as out:
            for split, files in splits.items():
                for path in files:
                    for number, text, talk in source_rows(path, Conversation, out.reject):
                        try:
                            labelled_turns(talk)
                        except LabelError as error:
                            out.reject(RecordError(path, number, str(error)), text)
                            continue
                        out.write(split, text.rstrip("\n") + "\n")
    return out.summary


def _merge(parts: list[tuple[Path, int]], folder: Path) -> Summary:
    with output([folder / TRAIN, folder / VAL], folder / "rejects.jsonl", "fail") as out:
        for split in (TRAIN, VAL):
            for part, repeat in parts:
                for _, line in read_lines(part / split):
                    for _ in range(repeat if split == TRAIN else 1):
                        out.write(split, line)
    return out.summary
