# SPDX-License-Identifier: Apache-2.0
"""What a recipe's trainings need: joins recipe, profile, model shapes, data lengths and the time model."""

import dataclasses
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.dropped import Dropped
from steerlm.errors import ConfigError, InputError, StorageError
from steerlm.models.shape import ModelShape
from steerlm.models.tokenizer import CONFIG as TOKENIZER_CONFIG
from steerlm.models.weights import INDEX, SINGLE
from steerlm.recipe import Profile, Recipe, ResolvedRecipe
from steerlm.training.config import SFTSettings, TrainSettings
from steerlm.training.footprint import Footprint, training_footprint
from steerlm.training.hardware import Gpu, GpuConstants, gpu_type
from steerlm.training.layout import LayoutSettings
from steerlm.training.node_counts import Estimate, estimate_node_counts, fewest_nodes, sufficient_rows
from steerlm.trainjob.preflight import check_initial_model, in_section
from steerlm.trainjob.sections import TrainingSection, initial_model, model_role, training_sections

if TYPE_CHECKING:
    from steerlm.training.engine import Objective

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What one training needs, and how long it takes.

    Attributes:
        model: The name of the model that it starts from.
        gpu_memory: Bytes of one GPU; None if the profile does not say.
        estimates: On the layout, then on fewer nodes; empty without a GPU type, and for fp32, which the time model does
            not cover.
        disk_rate: Bytes/s at which a node writes.
        mfu: Share of the GPU's peak FLOP/s that `hours_at_mfu` assumes.
    """

    model: str
    settings: TrainSettings
    layout: LayoutSettings
    footprint: Footprint
    gpu_memory: float | None
    gpu: Gpu | None
    estimates: Sequence[Estimate]
    disk_rate: float
    mfu: float

    @property
    def hours_at_mfu(self) -> float | None:
        """Hours of all steps at the assumed MFU; None without a GPU type or a number of steps, and for fp32."""
        if self.gpu is None or self.footprint.steps is None or self.settings.precision != "bf16":
            return None
        rate = self.layout.processes * self.gpu.peak_flops * self.mfu
        return self.footprint.steps * self.footprint.flops_per_step / rate / 3600

    @property
    def fits(self) -> bool | None:
        """Whether the GPU's memory is enough for what is counted; None if its size is not known."""
        return None if self.gpu_memory is None else self.footprint.memory.total <= self.gpu_memory

    @property
    def host_memory_per_node(self) -> int:
        """Bytes of host memory that the processes of a node hold while a checkpoint is written."""
        return self.footprint.checkpoint_bytes_per_process * self.layout.devices

    @property
    def save_seconds(self) -> float:
        """Seconds in which a node writes its part of a checkpoint at `disk_rate`."""
        return self.host_memory_per_node / self.disk_rate

    @property
    def few_rows(self) -> bool:
        """Whether replicas get so few rows that communication and the pipeline's bubble take much of a step."""
        return self.footprint.rows_per_replica < sufficient_rows(self.layout)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; memory is in bytes, what is unknown is None."""
        return {
            "model": self.model,
            "layout": self.layout.model_dump(mode="json") | {"data_parallel": self.layout.data_parallel},
            "fits": self.fits,
            **dataclasses.asdict(self.footprint),
            "host_memory_bytes_per_node": self.host_memory_per_node,
            "save_seconds": self.save_seconds,
            "few_rows": self.few_rows,
            "assumed_mfu": self.mfu,
            "hours_at_assumed_mfu": self.hours_at_mfu,
            "gpu": dataclasses.asdict(self.gpu) if self.gpu else None,
            "estimates": [_estimate_json(estimate) for estimate in self.estimates],
            "fewest_nodes_within_20_percent": fewest_nodes(self.estimates).nodes if self.estimates else None,
        }


def plan_recipe(
    resolved: ResolvedRecipe,
    models: Mapping[str, Path],
    data: Mapping[str, Path],
    tokenizer: Path | None = None,
    gpu: str | None = None,
    disk_rate: float = 5e9,
    mfu: float = 0.4,
) -> dict[str, TrainingPlan]:
    """Plan each of a recipe's trainings.

    Args:
        resolved: The recipe and its profile.
        models: Folders of the models `base` and `reward`, or their `config.json`, in place of the recipe's.
        data: Training files by section, to be tokenized with `tokenizer`.
        tokenizer: A tokenizer folder.
        gpu: A GPU type in place of the profile's.
        disk_rate: Bytes/s at which a node writes.
        mfu: Share of the GPU's peak FLOP/s to assume for the hours.

    Returns:
        Plans by section: base, reward, sft.

    Raises:
        ConfigError: A layout is invalid or does not fit the model.
        InputError: A model's shape or the tokenizer is missing, or the parts of a model do not belong together.
    """
    recipe, sections = resolved.recipe, training_sections(resolved)
    if not sections:
        raise ConfigError(f"the recipe {recipe.name} trains nothing: it has no section base.train, reward or sft")
    card = _gpu(resolved.profile, gpu)
    memory = card.memory_gib if card else resolved.profile.gpu_memory_gib
    roles = {section.name: model_role(recipe, section.name) for section in sections}
    initial = {role: _initial(recipe, role, models) for role in sorted(set(roles.values()))}
    plans = {}
    for section in sections:
        model, shape = initial[roles[section.name]]
        lengths = _lengths(recipe, section, data[section.name], tokenizer) if section.name in data else None
        settings, layout = section.settings, section.layout
        outputs = section.entry.outputs(recipe.attributes)
        _check_parts(Path(model), shape, outputs, tokenizer)
        with in_section(section.name):
            footprint = training_footprint(shape, settings, layout, outputs, lengths)
        timed: Sequence[Estimate] = ()
        if card and settings.precision == "bf16":
            timed = estimate_node_counts(shape, settings, layout, outputs, card, lengths)
        plans[section.name] = TrainingPlan(
            model, settings, layout, footprint, memory * 2**30 if memory else None, card, timed, disk_rate, mfu
        )
    return plans


def _initial(recipe: Recipe, role: str, models: Mapping[str, Path]) -> tuple[str, ModelShape]:
    try:
        return initial_model(recipe, role, models)
    except StorageError as error:
        raise InputError(f"{error}; or give --model {role}=PATH, the model's folder or its config.json") from None


def _check_parts(folder: Path, shape: ModelShape, outputs: int | None, tokenizer: Path | None) -> None:
    """Check what is there of a model folder, of which planning needs only `config.json`, and the tokenizer.

    Raises:
        ModelError: Weights, tokenizer and config do not belong together.
    """
    from steerlm.models.check import check_tokenizer

    if any((folder / name).is_file() for name in (SINGLE, INDEX)):
        check_initial_model(folder, shape, outputs)
    if tokenizer is None and (folder / TOKENIZER_CONFIG).is_file():
        tokenizer = folder
    if tokenizer:
        check_tokenizer(tokenizer, folder, shape)


def _gpu(profile: Profile, name: str | None) -> Gpu | None:
    """Return the GPU type `name`, or else the profile's, with the profile's memory and constants applied."""
    name = name or profile.gpu
    if name is None:
        if profile.gpu_constants != GpuConstants():
            raise ConfigError("profile.gpu_constants replace values of a GPU type: give profile.gpu, or --gpu")
        return None
    gpu = profile.gpu_constants.applied(gpu_type(name))
    return dataclasses.replace(gpu, memory_gib=profile.gpu_memory_gib) if profile.gpu_memory_gib else gpu


def _lengths(recipe: Recipe, section: TrainingSection, path: Path, tokenizer: Path | None) -> Sequence[int]:
    """Return the tokens of every sample of a training file, as the section's objective makes them.

    If the recipe annotates, the policy's conversations get their labels then, so those in the file do not matter.
    """
    if tokenizer is None:
        raise InputError(f"{path}: its lengths need a tokenizer; give --tokenizer FOLDER")
    from steerlm.models.tokenizer import load_tokenizer
    from steerlm.training.dataset import TokenDataset

    loaded = load_tokenizer(tokenizer)
    if isinstance(section.settings, SFTSettings) and recipe.annotate:
        from steerlm.training.objectives.sft import AnnotatedSFTObjective

        objective: Objective = AnnotatedSFTObjective(section.settings, loaded, recipe.attributes)
    else:
        objective = section.entry.create(section.settings, loaded, recipe.attributes)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = TokenDataset.build([path], objective, Path(scratch))
        lengths: list[int] = dataset.lengths.tolist()
    left_out = Dropped.from_counts(str(path), dataset.counts, section.entry.records)
    if left_out.number:
        log.warning("%s", left_out)
    return lengths


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {
        "nodes": estimate.nodes,
        "rows_per_replica": estimate.rows_per_replica,
        "step_seconds": estimate.time.total,
        "step_seconds_by_part": dataclasses.asdict(estimate.time),
        "traffic_bytes": dataclasses.asdict(estimate.traffic),
        "mfu": estimate.mfu,
        "hours": estimate.hours,
        "gpu_hours": estimate.gpu_hours,
    }
