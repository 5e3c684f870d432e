# SPDX-License-Identifier: Apache-2.0
"""OpenAssistant: trees of messages become one conversation per path from root to leaf.

Source of the rules: docs/upstream.md#openassistant.

Reads the nested dump (one tree a line) and the flat form (one message a line, linked by `parent_id`). The split is by
tree and reproduces upstream's: the trees, in file order, shuffled with seed 10; 95 % train. Memory grows with the
number of trees (nested) or of message ids (flat), not with the text.
"""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, NonNegativeInt, model_validator

from steerlm.attributes import OASST, AttributeSchema
from steerlm.datasets.indexed_lines import IndexedLines
from steerlm.datasets.outputs import TRAIN, VAL, OnError, Output, Summary, make_folder, split_output
from steerlm.datasets.progress import with_progress
from steerlm.datasets.raw_files import BOTH, data_files
from steerlm.datasets.sources.base import CommandOption, RawForm, SourceSettings, SourceType, Uri, has_keys
from steerlm.datasets.sources.oasst_flat import FlatForest
from steerlm.datasets.sources.oasst_tree import Message, conversations, turn
from steerlm.datasets.sources.raw_input import localize
from steerlm.datasets.sources.rows import reason
from steerlm.errors import InputError, RecordError
from steerlm.records import Line, parse_line

SPLIT_SEED, TRAIN_SHARE = 10, 0.95


class OasstSource(SourceSettings):
    """OpenAssistant trees. By default 95 % of the trees, shuffled as upstream does, are training data.

    With `folds`, every `folds`-th of the shuffled trees, counted from `fold`, is validation data.
    """

    kind: Literal["oasst"] = "oasst"
    source: Uri = "OpenAssistant/oasst1"
    names: tuple[str, ...] | None = None
    """Ratings of the dataset that become labels; null: quality, toxicity, humor and creativity, if in the schema."""
    folds: Annotated[
        Annotated[int, Field(ge=2)] | None, CommandOption("Split the trees into this many folds instead.", ("--folds",))
    ] = None
    fold: Annotated[NonNegativeInt, CommandOption("The fold that validates, counted from 0.", ("--fold",))] = 0

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} does not exist: folds = {self.folds}, and the first fold is 0")
        return self

    def patterns(self) -> tuple[str, ...]:
        """Return the pattern of the nested dump with all trees."""
        return ("*_all.trees.jsonl.gz",)

    def files(self) -> dict[str, list[Path]]:
        """Return the `_all.trees.` dump under `BOTH`, or every file if there is no such dump."""
        files = data_files(Path(self.source), self.formats)
        return {BOTH: [file for file in files if "_all.trees." in file.name] or files}


class Forest(Protocol):
    """Trees in file order."""

    def __len__(self) -> int: ...

    def where(self, index: int) -> tuple[Path, int]:
        """Return file and line of a tree."""

    def tree(self, index: int) -> Message:
        """Return its root, with the replies nested. Raises `RecordError`."""

    def text(self, index: int) -> str:
        """Return the line to write to the rejects."""


class NestedTree(Line):
    """A line of the nested dump."""

    prompt: Message


class NestedForest:
    """The nested dump: one tree a line, parsed on access."""

    def __init__(self, lines: IndexedLines) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def where(self, index: int) -> tuple[Path, int]:
        """Return file and line of a tree."""
        return self._lines.where(index)

    def text(self, index: int) -> str:
        """Return the tree's line as it is in the file."""
        return self._lines.line(index)

    def tree(self, index: int) -> Message:
        """Parse a tree's line and return its root. Raises `RecordError` with file and line."""
        return parse_line(self._lines.line(index), NestedTree, *self.where(index)).prompt


def prepare_oasst(
    settings: OasstSource, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` into `folder`.

    Raises `RecordError` for a bad line (with `on_error` "skip" it is counted and written to `oasst.rejects.jsonl`: in
    the nested form the whole tree, in the flat form the message, whose replies then have no parent).
    """
    names = _label_names(settings, schema)
    make_folder(folder)
    with TemporaryDirectory(prefix=".oasst-", dir=folder) as scratch, IndexedLines(Path(scratch)) as lines:
        files = localize(settings, Path(scratch)).files()[BOTH]
        with split_output(folder, "oasst", on_error) as out:
            lines.fill(files, out.reject)
            nested = _is_nested(lines, files)
            forest: Forest = (
                NestedForest(lines)
                if nested
                else FlatForest(lines, lambda message: turn(message, names, schema), out.reject, out.summary)
            )
            out.summary.counts["trees"] = len(forest)
            for split, trees in split_trees(len(forest), settings).items():
                for index in with_progress(trees, split, "trees"):
                    written = _write_tree(forest, index, names, schema, out, split)
                    out.summary.kept += nested and written  # of the flat form, messages are counted
            out.require_some(settings.source)
    return out.summary


def split_trees(count: int, settings: OasstSource) -> dict[str, list[int]]:
    """Return the indices of the training and the validation trees, each in the order they are written.

    Raises `InputError` if there are fewer trees than folds.
    """
    order = list(range(count))
    random.Random(SPLIT_SEED).shuffle(order)
    if settings.folds is None:
        cut = int(TRAIN_SHARE * count)
        return {TRAIN: order[:cut], VAL: order[cut:]}
    if settings.folds > count:
        raise InputError(f"{settings.source}: {count} trees cannot be cut into {settings.folds} folds")
    held_out = set(order[settings.fold :: settings.folds])
    return {TRAIN: [i for i in order if i not in held_out], VAL: order[settings.fold :: settings.folds]}


def _write_tree(
    forest: Forest, index: int, names: tuple[str, ...], schema: AttributeSchema, out: Output, split: str
) -> bool:
    """Write the conversations of a tree. Returns False if the tree was rejected."""
    try:
        paths = list(conversations(forest.tree(index), names, schema))
    except RecordError as error:
        out.reject(error, forest.text(index))
        return False
    except ValueError as error:
        out.reject(RecordError(*forest.where(index), reason(error)), forest.text(index))
        return False
    for talk in paths:
        out.write(split, talk)
    if not paths:
        out.summary.add("trees of one message (dropped)")
    return True


def _label_names(settings: OasstSource, schema: AttributeSchema) -> tuple[str, ...]:
    if settings.names is None:
        names = tuple(name for name in OASST if name in schema.names)
        if not names:
            raise InputError(
                f"none of {', '.join(OASST)} is an attribute of the schema ({', '.join(schema.names)}); "
                "name the ratings of the dataset that are"
            )
        return names
    for name in settings.names:
        if name not in schema.names:
            raise InputError(f"rating {name!r} is not an attribute of the schema ({', '.join(schema.names)})")
    return tuple(name for name in schema.names if name in settings.names)


def _is_nested(lines: IndexedLines, files: list[Path]) -> bool:
    """Return the form of the dump, by the first line that has the keys of either form."""
    for index in range(len(lines)):
        try:
            keys = json.loads(lines.line(index))
        except ValueError:
            continue
        if isinstance(keys, dict) and ("prompt" in keys or "message_id" in keys):
            return "prompt" in keys
    reason = "expected trees (key `prompt`) or messages (keys `message_id`, `text`, `role`), one a line"
    if len(lines):
        raise RecordError(*lines.where(0), reason)
    raise InputError(f"{', '.join(map(str, files))}: no lines; {reason}")


OASST_SOURCE = SourceType(
    OasstSource,
    prepare_oasst,
    summary="OpenAssistant trees, or its flat messages",
    help="OpenAssistant: trees or flat messages. Reads .jsonl and .jsonl.gz; splits by tree.\n\n"
    "Example: steerlm data oasst --output_directory data/oasst --source oasst_all.trees.jsonl.gz",
    forms=(
        RawForm(
            "OpenAssistant's trees",
            has_keys("prompt", "message_tree_id"),
            "oasst --source {file} --output_directory FOLDER",
        ),
        RawForm(
            "OpenAssistant's messages",
            has_keys("text", "role", "message_id"),
            "oasst --source {file} --output_directory FOLDER",
        ),
    ),
)
