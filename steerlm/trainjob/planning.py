# SPDX-License-Identifier: Apache-2.0
"""What a recipe's trainings need and whether they can be: joins recipe, profile, model shapes and data lengths."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, InputError, nearest
from steerlm.models.public import SHAPES, public_shape
from steerlm.models.shape import ModelShape
from steerlm.recipe import Profile, Recipe, ResolvedRecipe
from steerlm.training.config import TrainSettings
from steerlm.training.footprint import Needs, check_batch, needs
from steerlm.training.hardware import Gpu, GpuConstants, gpu_type
from steerlm.training.layout import LayoutSettings
from steerlm.training.node_counts import Estimate, estimates, fewest_nodes, rows_wanted


@dataclass(frozen=True, slots=True)
class Planned:
    """One training: its model by name, its settings, where it runs, what it needs and how long it takes there."""

    model: str
    settings: TrainSettings
    layout: LayoutSettings
    need: Needs
    gpu_memory: float | None
    """Bytes of one GPU, if the profile tells."""
    gpu: Gpu | None
    estimates: Sequence[Estimate]
    """On the layout, then on fewer nodes; empty without a GPU type and for fp32, which the time model leaves out."""
    disk_rate: float
    """Bytes/s at which a node writes."""

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough for what is counted; None: the profile does not tell how much there is."""
        return None if self.gpu_memory is None else self.need.memory.total <= self.gpu_memory

    @property
    def host_memory_per_node(self) -> int:
        """Bytes that the processes of a node hold in host memory while a checkpoint is written."""
        return self.need.checkpoint_bytes_per_process * self.layout.devices

    @property
    def save_seconds(self) -> float:
        return self.host_memory_per_node / self.disk_rate

    @property
    def few_rows(self) -> bool:
        """Whether replicas get so few rows that exchanges and the pipeline's bubble take much of a step."""
        return self.need.rows_per_replica < rows_wanted(self.layout)

    def values(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "layout": self.layout.model_dump(mode="json") | {"data_parallel": self.layout.data_parallel},
            "fits": self.fits,
            **dataclasses.asdict(self.need),
            "host_memory_bytes_per_node": self.host_memory_per_node,
            "save_seconds": self.save_seconds,
            "few_rows": self.few_rows,
            "gpu": dataclasses.asdict(self.gpu) if self.gpu else None,
            "estimates": [_estimate_values(one) for one in self.estimates],
            "fewest_nodes_within_20_percent": fewest_nodes(self.estimates).nodes if self.estimates else None,
        }


def _estimate_values(one: Estimate) -> dict[str, Any]:
    return {
        "nodes": one.nodes,
        "rows_per_replica": one.rows_per_replica,
        "step_seconds": one.time.total,
        "step_seconds_by_part": dataclasses.asdict(one.time),
        "traffic_bytes": dataclasses.asdict(one.traffic),
        "mfu": one.mfu,
        "hours": one.hours,
        "gpu_hours": one.gpu_hours,
    }


def trainings(resolved: ResolvedRecipe) -> dict[str, tuple[TrainSettings, LayoutSettings]]:
    """A recipe's trainings by section: base, reward, sft."""
    recipe, layouts = resolved.recipe, resolved.profile.layouts
    sections: dict[str, tuple[TrainSettings, LayoutSettings]] = {}
    if recipe.base and recipe.base.train:
        sections["base"] = (recipe.base.train, layouts.base)
    if recipe.reward:
        sections["reward"] = (recipe.reward, layouts.reward)
    if recipe.sft:
        sections["sft"] = (recipe.sft.settings(), layouts.sft)
    return sections


def check_runs_here(resolved: ResolvedRecipe) -> None:
    """Raises `ConfigError` for a stage that would fail when it begins, hours after the first one did: more nodes than
    this machine, or a layout that does not fit a model whose shape is known before it is fetched."""
    _check_annotation(resolved)
    for name, (settings, layout) in trainings(resolved).items():
        if layout.nodes > 1:
            raise ConfigError(
                f"{name}: profile {resolved.profile.name} has {layout.nodes} nodes x {layout.devices} processes and "
                "this back end starts one machine's; name a --profile of one node, or train each model by torchrun "
                f"(steerlm train {'text' if name == 'base' else name} --write-spec)"
            )
        _, shape = _model(resolved.recipe, _role(resolved.recipe, name), {})
        if shape:
            with _named(name):
                layout.check_fits(shape)
                check_batch(settings, layout, shape)


def _check_annotation(resolved: ResolvedRecipe) -> None:
    """The same for the stages that only run models."""
    recipe, layouts = resolved.recipe, resolved.profile.layouts
    for name, section, layout in (
        ("annotate", recipe.annotate, layouts.annotate),
        ("evaluate", recipe.evaluate, layouts.evaluate),
    ):
        if section and layout.nodes > 1:
            raise ConfigError(
                f"{name}: profile {resolved.profile.name} has {layout.nodes} nodes x {layout.devices} processes and "
                f"this back end starts one machine's; name a --profile of one node (steerlm {name} works on files)"
            )
    if recipe.annotate and recipe.reward:
        _, shape = _model(recipe, _role(recipe, "reward"), {})
        if shape:
            with _named("annotate"):
                layouts.annotate.check_fits(shape)


def plan_recipe(
    resolved: ResolvedRecipe,
    models: Mapping[str, Path],
    data: Mapping[str, Path],
    tokenizer: Path | None = None,
    gpu: str | None = None,
    disk_rate: float = 5e9,
) -> dict[str, Planned]:
    """A plan for each of the recipe's trainings, by section: base, reward, sft.

    `models`: folders of `base` and `reward` where their shape is not known by name. `data`: training files by section,
    tokenised with `tokenizer`. `gpu`: a type in place of the profile's. `disk_rate`: bytes/s of a node. Raises
    `ConfigError` for a layout that cannot be, `InputError` for what is missing.
    """
    recipe, sections = resolved.recipe, trainings(resolved)
    if not sections:
        raise ConfigError(f"the recipe {recipe.name} trains nothing: it has no section base.train, reward or sft")
    card = _gpu(resolved.profile, gpu)
    memory = card.memory_gib if card else resolved.profile.gpu_memory_gib
    planned = {}
    for name, (settings, layout) in sections.items():
        role = _role(recipe, name)
        model, shape = _model(recipe, role, models)
        if shape is None:
            if "://" not in model:
                raise InputError(f"{model}: no such model folder; a folder or a URI such as hf://org/name was expected")
            known = nearest(model, [f"hf://{name}" for name in SHAPES])
            raise InputError(f"{model}: its shape is not known here; fetch it and give --model {role}=FOLDER{known}")
        lengths = None
        if name in data:
            if tokenizer is None:
                raise InputError(f"{data[name]}: its lengths need a tokenizer; give --tokenizer FOLDER")
            lengths = _lengths(data[name], settings, recipe.attributes, tokenizer)
        outputs = _outputs(recipe, name)
        with _named(name):
            need = needs(shape, settings, layout, outputs, lengths)
        timed: Sequence[Estimate] = ()
        if card and settings.precision == "bf16":
            timed = estimates(shape, settings, layout, outputs, card, lengths)
        planned[name] = Planned(
            model, settings, layout, need, memory * 2**30 if memory else None, card, timed, disk_rate
        )
    return planned


def _gpu(profile: Profile, name: str | None) -> Gpu | None:
    """The profile's GPU type, or the one named, with the profile's own memory and constants where it has them."""
    name = name or profile.gpu
    if name is None:
        if profile.gpu_constants != GpuConstants():
            raise ConfigError("profile.gpu_constants replace values of a GPU type: give profile.gpu, or --gpu")
        return None
    gpu = profile.gpu_constants.applied(gpu_type(name))
    return dataclasses.replace(gpu, memory_gib=profile.gpu_memory_gib) if profile.gpu_memory_gib else gpu


@contextlib.contextmanager
def _named(section: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{section}: {error}") from None


def _outputs(recipe: Recipe, section: str) -> int | None:
    return len(recipe.attributes.names) if section == "reward" else None


def _role(recipe: Recipe, section: str) -> str:
    """Which model a section starts from: base or reward."""
    return "reward" if section == "reward" and recipe.base and recipe.base.reward else "base"


def _model(recipe: Recipe, role: str, models: Mapping[str, Path]) -> tuple[str, ModelShape | None]:
    """A model's name, and its shape if a folder, the recipe or the list of public models tells it."""
    base = recipe.base
    assert base is not None, "a recipe that trains has a base"
    if role in models:
        return str(models[role]), ModelShape.from_folder(models[role])
    fetched = base.reward if role == "reward" else base.fetch
    if fetched is None:
        assert base.train is not None and base.train.shape is not None, "a base is fetched or has a shape"
        return "from random weights", base.train.shape
    if Path(fetched.uri).is_dir():
        return fetched.uri, ModelShape.from_folder(fetched.uri)
    return fetched.uri, public_shape(fetched.uri)


def _lengths(path: Path, settings: TrainSettings, schema: AttributeSchema, tokenizer: Path) -> Sequence[int]:
    """Tokens of every sample of a training file, as the section's objective makes them."""
    from steerlm.training.dataset import TokenDataset
    from steerlm.trainjob.worker import make_objective

    objective = make_objective(settings, schema, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        lengths: list[int] = TokenDataset.build([path], objective, Path(scratch)).lengths.tolist()
    return lengths
