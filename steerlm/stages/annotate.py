"""Stage `annotate`: the reward model labels the conversations, training and validation."""

import dataclasses
from typing import Any

from steerlm.inference.config import AnnotateSettings
from steerlm.recipe import Recipe
from steerlm.stages.base import Inputs, Made, Stage, Work


def config(recipe: Recipe, role: str) -> AnnotateSettings | None:
    return recipe.annotate


def method(config: AnnotateSettings, inputs: Inputs) -> dict[str, Any]:
    """What decides what the output says; batch sizes do not."""
    return config.method()


def make(config: AnnotateSettings, inputs: Inputs, work: Work) -> Made:
    """`data`: conversations; `reward`: the model. A killed pass goes on where it was."""
    from steerlm.inference.annotate import AnnotateCounts, annotate
    from steerlm.inference.scorer import TransformersScorer

    scorer = TransformersScorer(inputs["reward"].path, batch_tokens=config.batch_tokens, dtype=config.dtype)
    metrics: dict[str, Any] = {}
    for split in ("train", "val"):

        def show(counts: AnnotateCounts, split: str = split) -> None:
            work.say(f"{split}: {counts.conversations} conversations, {counts.turns} turns labelled")

        output = work.scratch / f"{split}.jsonl"
        counts = annotate(inputs["data"].path / f"{split}.jsonl", output, scorer, config, show)
        metrics |= {f"{split}/{name}": value for name, value in dataclasses.asdict(counts).items()}
    for split in ("train", "val"):
        (work.scratch / f"{split}.jsonl").rename(work.files / f"{split}.jsonl")
    for rejects in work.scratch.glob("*rejects*"):
        rejects.rename(work.logs / rejects.name)
    return Made(attributes=scorer.schema, metrics=metrics)


STAGE: Stage[AnnotateSettings] = Stage("annotate", "annotated", make, code=(__name__,), method=method)
