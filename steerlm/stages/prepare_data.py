# SPDX-License-Identifier: Apache-2.0
"""Stage `prepare_data`: convert raw sources to conversations, samples for the reward model and held-out questions.

Files: `train.jsonl`, `val.jsonl` (conversations), `regression_train.jsonl`, `regression_val.jsonl` (labeled turns of
the rated sources), `questions.jsonl`; the synthetic world adds `plain_train.jsonl`, `plain_val.jsonl`, `tokenizer/`,
`oracle.json`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steerlm.attributes import AttributeSchema
from steerlm.checksums import digest_source
from steerlm.dropped import Dropped
from steerlm.errors import SourceUnreachableError, StorageError
from steerlm.files import atomic_writer
from steerlm.recipe import PrepareSection, Recipe
from steerlm.records import Conversation, read_records
from steerlm.stages.base import Inputs, Stage, StageConfig, StageContext, StageResult
from steerlm.storage import fetch
from steerlm.toyworld.config import ToySettings

if TYPE_CHECKING:
    from steerlm.datasets.prepare import Prepared

SPLITS = ("train.jsonl", "val.jsonl")
HELD_OUT_LABELS = "held_out_labels"
"""Metric: the labeled answers of the validation conversations."""


class PrepareConfig(StageConfig):
    """The recipe's data section, and its attributes without their defaults, which no file depends on."""

    section: PrepareSection
    attributes: AttributeSchema


def config(recipe: Recipe, role: str) -> PrepareConfig:
    """Return the sources and the attributes, whose defaults are left out so that changing them keeps the key."""
    plain = recipe.attributes.model_copy(update={"defaults": {}})
    return PrepareConfig(section=recipe.prepare_data, attributes=plain)


def method(config: PrepareConfig, inputs: Inputs) -> dict[str, Any]:
    """Return every setting; local files and folders are represented by their content."""
    section = config.section.model_dump(mode="json")
    for source in [*section["sources"], *(section["rated"] or [])]:
        if "source" in source:
            source["source"] = digest_source(source["source"])
    section["questions"] = section["questions"] and digest_source(section["questions"])
    return {"section": section, "attributes": config.attributes.model_dump(mode="json")}


def make(config: PrepareConfig, inputs: Inputs, context: StageContext) -> StageResult:
    """Write all files; a resumed call starts over."""
    section, world = config.section, config.section.toyworld
    left_out: list[Dropped] = []
    notes = _world(world, config, context) if world else _sources(config, context, left_out)
    if section.questions:
        _write_questions(_own_questions(section.questions, context.scratch), context.files)
    elif not world:
        _write_questions(_opening_questions(context.files / "val.jsonl"), context.files)
    counts = {f"lines/{path.stem}": _lines(path) for path in sorted(context.files.glob("*.jsonl"))}
    counts[HELD_OUT_LABELS] = _labeled_answers(context.files / "val.jsonl")
    return StageResult(attributes=config.attributes, metrics=counts, notes=notes, left_out=left_out)


def _world(world: ToySettings, config: PrepareConfig, context: StageContext) -> dict[str, Any]:
    from steerlm.datasets.regression import write_regression
    from steerlm.toyworld.make import write_world

    counts = write_world(context.files, world)
    for split in SPLITS:
        write_regression(context.files / split, context.files / f"regression_{split}", schema=config.attributes)
    return dict(counts)


def _sources(config: PrepareConfig, context: StageContext, left_out: list[Dropped]) -> dict[str, Any]:
    """Prepare the sources and return their summaries. What they drop is appended to `left_out`."""
    section = config.section
    sources = _prepared("sources", config, context)
    rated = _prepared("rated", config, context) if section.rated else sources
    for split in SPLITS:
        (sources.conversations / split).replace(context.files / split)
        (rated.regression / split).replace(context.files / f"regression_{split}")
    named = {"sources": sources, "rated": rated} if section.rated else {"sources": sources}
    for name, prepared in named.items():
        for rejects in prepared.conversations.parent.glob("*.rejects.jsonl"):
            rejects.replace(context.logs / f"{name}-{rejects.name}")
    for name, prepared in named.items():
        summaries = [(f"{name} {k}", v) for k, v in prepared.summaries.items()]
        left_out += [summary.left_out(where) for where, summary in summaries if summary.dropped]
    return {f"{name}/{k}": str(v) for name, prepared in named.items() for k, v in prepared.summaries.items()}


def _prepared(which: Literal["sources", "rated"], config: PrepareConfig, context: StageContext) -> "Prepared":
    """Prepare one of the section's two lists. Raises `StorageError` naming the setting for a local copy."""
    from steerlm.datasets.prepare import prepare_data

    settings = config.section.merge(which)
    try:
        return prepare_data(settings, context.scratch / which, schema=config.attributes)
    except SourceUnreachableError as error:
        index = [source.source for source in settings.sources].index(error.source)
        raise StorageError(
            f"{error}; try again, or name a local copy: --set prepare_data.{which}.{index}.source=PATH"
        ) from None


def _own_questions(uri: str, scratch: Path) -> list[str]:
    """Read the recipe's file of questions. Raises what `read_questions` raises: now, not when all is trained."""
    from steerlm.evaluation.questions import read_questions

    return read_questions(fetch(uri, scratch / "questions"))


def _opening_questions(conversations: Path) -> list[str]:
    """Return the distinct first turns of the validation conversations, in order."""
    seen: dict[str, None] = {}
    for _, talk in read_records(conversations, Conversation):
        first = talk.conversations[0]
        if first.speaker == talk.mask:
            seen.setdefault(first.value)
    return list(seen)


def _write_questions(questions: Sequence[str], folder: Path) -> None:
    with atomic_writer(folder / "questions.jsonl") as file:
        file.writelines(json.dumps({"question": text}, ensure_ascii=False) + "\n" for text in questions)


def _labeled_answers(conversations: Path) -> int:
    """Count the answers with a label, by which the evaluation judges the reward model."""
    return sum(
        bool(turn.label)
        for _, talk in read_records(conversations, Conversation)
        for turn in talk.conversations[1:]
        if turn.speaker != talk.mask
    )


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


STAGE: Stage[PrepareConfig] = Stage("prepare_data", "data", make, code=(__name__,), method=method, version=2)
