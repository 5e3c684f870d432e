# SPDX-License-Identifier: Apache-2.0
"""Stage `annotate`: label the training and validation conversations with the reward model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.annotation import job as annotate_job
from steerlm.annotation.config import AnnotateSettings
from steerlm.dropped import Dropped
from steerlm.errors import ConfigError
from steerlm.jobs.part_job import needs_job
from steerlm.jobs.place import JobPlace
from steerlm.jobs.registry import LOCAL
from steerlm.recipe import Profile, Recipe
from steerlm.stages.base import Inputs, Stage, StageContext, StageResult

if TYPE_CHECKING:
    from steerlm.annotation.annotate import AnnotateCounts

SPLITS = ("train", "val")


def config(recipe: Recipe, role: str) -> AnnotateSettings | None:
    """Return the recipe's section `annotate`; None: the stage does not apply."""
    return recipe.annotate


def method(config: AnnotateSettings, inputs: Inputs) -> dict[str, Any]:
    """Return the settings that decide the labels; batch sizes do not."""
    return config.method()


def make(config: AnnotateSettings, inputs: Inputs, context: StageContext) -> StageResult:
    """Label the conversations of `data` with the model `reward`. An interrupted pass resumes.

    Runs in this process, or as a job if the profile's layout `annotate` has several processes or jobs run elsewhere.
    """
    from steerlm.models.folder import read_info

    reward, layout = inputs["reward"].path, context.profile.layouts.annotate
    files = [(inputs["data"].path / f"{split}.jsonl", context.scratch / f"{split}.jsonl") for split in SPLITS]
    if needs_job(context.profile, layout):
        place = JobPlace(
            f"annotate-{context.key}",
            context.folder / "job",
            context.logs / "annotate.log",
            context.profile,
            context.image,
            context.report_note,
        )
        profile = context.profile
        gpu = None if profile.backend == LOCAL else profile.cluster.resources.gpu is not None
        task = annotate_job.AnnotationTask(files, reward, config, layout, gpu)
        done = annotate_job.annotate_by_job(task, place, context.report_progress)
    else:
        check_one_gpu_holds(reward, context.profile)
        done = _annotate_here(files, reward, config, context)
    for split in SPLITS:
        (context.scratch / f"{split}.jsonl").rename(context.files / f"{split}.jsonl")
    for rejects in context.scratch.glob("*rejects*"):
        rejects.rename(context.logs / rejects.name)
    counted = {split: dataclasses.asdict(counts) for split, counts in zip(SPLITS, done, strict=True)}
    metrics = {f"{split}/{name}": value for split, counts in counted.items() for name, value in counts.items()}
    left_out = _left_out(dict(zip(SPLITS, done, strict=True)), config)
    return StageResult(attributes=read_info(reward).attributes, metrics=metrics, left_out=left_out)


def _left_out(done: Mapping[str, "AnnotateCounts"], config: AnnotateSettings) -> list[Dropped]:
    """Return what was left out of the files. Raises `InputError` if it is more than the recipe allows."""
    rejected = [counts.left_out(f"{split}.jsonl") for split, counts in done.items()]
    unlabeled = [counts.unlabeled(f"{split}.jsonl") for split, counts in done.items()]
    for remedy, found in (("mend the lines", rejected), ("set over_long: keep_end", unlabeled)):
        for one in found:
            one.check(config.max_dropped, "annotate.max_dropped", remedy)
    return [one for one in (*rejected, *unlabeled) if one.number]


def _annotate_here(
    files: list[tuple[Path, Path]], reward: Path, config: AnnotateSettings, context: StageContext
) -> list[Any]:
    from steerlm.annotation.parallel import annotate_in_process
    from steerlm.inference.scorer import TransformersScorer

    scorer = TransformersScorer(reward, batch_tokens=config.batch_tokens, dtype=config.dtype)
    done = []
    for split, (source, output) in zip(SPLITS, files, strict=True):
        with open(source, "rb") as file:
            lines = sum(1 for _ in file)

        def show(counts: "AnnotateCounts", split: str = split, lines: int = lines) -> None:
            context.report_progress(f"{split}: conversation {counts.lines}/{lines}, {counts.turns} turns labeled")

        done.append(annotate_in_process(source, output, scorer, config, show))
    return done


def check_one_gpu_holds(model: Path, profile: Profile) -> None:
    """Raise `ConfigError` if the weights in a model folder exceed the memory of the profile's GPU."""
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    memory = profile.gpu_memory_gib
    if memory is not None and size > memory * 2**30:
        raise ConfigError(
            f"the reward model's weights are {size / 2**30:.0f} GiB, a GPU of profile {profile.name} has {memory:g}: "
            "give the profile a layout annotate with devices and tensor that share the model, such as "
            "annotate: {devices: 8, tensor: 8}"
        )


STAGE: Stage[AnnotateSettings] = Stage(
    "annotate", "annotated", make, code=(__name__, annotate_job.WORKER), method=method
)
