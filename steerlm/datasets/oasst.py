# SPDX-License-Identifier: Apache-2.0
"""OpenAssistant: trees of messages become one conversation per path from root to leaf (behaviour spec, 1.3).

Reads the nested dump (one tree a line) and the flat form (one message a line, linked by `parent_id`). The split is by
tree and reproduces upstream's: the trees, in file order, shuffled with seed 10; 95 % train. Memory grows with the
number of trees (nested) or of message ids (flat), not with the text.
"""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from tqdm import tqdm

from steerlm.attributes import OASST, AttributeSchema
from steerlm.datasets.config import OasstSource, OnError
from steerlm.datasets.flat import FlatForest
from steerlm.datasets.messages import Message, conversations, turn
from steerlm.datasets.outputs import TRAIN, VAL, Output, Summary, make_folder, split_output
from steerlm.datasets.sources import BOTH, localise, source_files
from steerlm.datasets.spool import Spool
from steerlm.errors import InputError, RecordError
from steerlm.records import Line, parse_line

SPLIT_SEED, TRAIN_SHARE = 10, 0.95


class Forest(Protocol):
    """Trees in file order."""

    def __len__(self) -> int: ...

    def where(self, index: int) -> tuple[Path, int]:
        """File and line of a tree."""

    def tree(self, index: int) -> Message:
        """Its root, with the replies nested. Raises `RecordError`."""

    def text(self, index: int) -> str:
        """The line that a reject shows."""


class NestedTree(Line):
    """A line of the nested dump."""

    prompt: Message


class NestedForest:
    """The nested dump: a tree a line, parsed when it is asked for."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def __len__(self) -> int:
        return len(self._spool)

    def where(self, index: int) -> tuple[Path, int]:
        return self._spool.where(index)

    def text(self, index: int) -> str:
        return self._spool.line(index)

    def tree(self, index: int) -> Message:
        return parse_line(self._spool.line(index), NestedTree, *self.where(index)).prompt


def prepare_oasst(
    settings: OasstSource, folder: Path, *, schema: AttributeSchema, on_error: OnError = "fail"
) -> Summary:
    """Write `train.jsonl` and `val.jsonl` into `folder`.

    Raises `RecordError` for a bad line (with `on_error` "skip" it is counted and written to `oasst.rejects.jsonl`: in
    the nested form the whole tree, in the flat form the message, whose replies are then without a parent).
    """
    names = _names(settings, schema)
    make_folder(folder)
    with TemporaryDirectory(prefix=".oasst-", dir=folder) as scratch, Spool(Path(scratch)) as spool:
        files = source_files(localise(settings, Path(scratch)))[BOTH]
        with split_output(folder, "oasst", on_error) as out:
            spool.fill(files, out.reject)
            forest: Forest = (
                NestedForest(spool)
                if _is_nested(spool, files)
                else FlatForest(spool, lambda message: turn(message, names, schema), out.reject, out.summary)
            )
            out.summary.counts["trees"] = len(forest)
            for split, trees in split_trees(len(forest), settings).items():
                for index in tqdm(trees, desc=split, unit=" trees", disable=None):
                    _write_tree(forest, index, names, schema, out, split)
    return out.summary


def split_trees(count: int, settings: OasstSource) -> dict[str, list[int]]:
    """Which trees train and which validate, each in the order they are written.

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
) -> None:
    try:
        talks = list(conversations(forest.tree(index), names, schema))
    except RecordError as error:
        out.reject(error, forest.text(index))
    except ValueError as error:
        out.reject(RecordError(*forest.where(index), str(error)), forest.text(index))
    else:
        for talk in talks:
            out.write(split, talk)
        if not talks:
            out.summary.add("trees of one message (dropped)")


def _names(settings: OasstSource, schema: AttributeSchema) -> tuple[str, ...]:
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


def _is_nested(spool: Spool, files: list[Path]) -> bool:
    """By the first line that has the keys of either form."""
    for index in range(len(spool)):
        try:
            keys = json.loads(spool.line(index))
        except ValueError:
            continue
        if isinstance(keys, dict) and ("prompt" in keys or "message_id" in keys):
            return "prompt" in keys
    reason = "expected trees (key `prompt`) or messages (keys `message_id`, `text`, `role`), one a line"
    if len(spool):
        raise RecordError(*spool.where(0), reason)
    raise InputError(f"{', '.join(map(str, files))}: no lines; {reason}")
