# SPDX-License-Identifier: Apache-2.0
"""Recipes say the method, profiles say where it runs. Composes the settings that each room declares; torch-free.

A recipe names its usual profile. A section that is null is a stage that does not apply. Layouts stand in the profile
because they never change a result, only where and how fast it is computed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from steerlm.annotation.config import AnnotateSettings
from steerlm.attributes import AttributeSchema
from steerlm.configuration import load_settings
from steerlm.datasets.config import PrepareSettings
from steerlm.datasets.outputs import OnError
from steerlm.datasets.sources.base import SourceSettings
from steerlm.datasets.sources.registry import Source, settings_union
from steerlm.errors import ConfigError, nearest
from steerlm.evaluation.config import EvaluationSettings
from steerlm.jobs.config import JobSettings
from steerlm.jobs.registry import BACKENDS
from steerlm.settings import Settings
from steerlm.toyworld.config import ToySettings
from steerlm.training.config import RewardSettings, SFTSettings, TextSettings
from steerlm.training.hardware import GpuConstants, gpu_type
from steerlm.training.layout import LayoutSettings

OF_PROFILE = "profile."


class ToyworldSource(ToySettings):
    """The demo's synthetic world; it brings plain text, a tokenizer, questions and an oracle of its own."""

    kind: Literal["toyworld"] = "toyworld"


if TYPE_CHECKING:
    AnySource = SourceSettings | ToyworldSource
else:
    AnySource = settings_union(ToyworldSource)


class PrepareSection(Settings):
    """`sources` become the conversations that are annotated and that the policy learns from. The reward model learns
    from the labelled turns of `rated`, or of the same sources where that is null."""

    sources: tuple[AnySource, ...] = Field(min_length=1)
    rated: tuple[Source, ...] | None = Field(default=None, min_length=1)
    questions: str | None = None
    """Held-out questions to evaluate on, a JSONL file; null: the world's own, or those that open the validation
    conversations."""
    on_error: OnError = "fail"
    use_system: bool = False

    @model_validator(mode="after")
    def _world_alone(self) -> Self:
        if self.toyworld and len(self.sources) > 1:
            raise ValueError("the source toyworld stands alone")
        return self

    @property
    def toyworld(self) -> ToySettings | None:
        first = self.sources[0]
        return ToySettings(**first.model_dump(exclude={"kind"})) if isinstance(first, ToyworldSource) else None

    def merge(self, which: Literal["sources", "rated"]) -> PrepareSettings:
        """The real sources of one of the two lists, as the datasets room takes them."""
        chosen = self.sources if which == "sources" else self.rated or ()
        return PrepareSettings(
            sources=tuple(s for s in chosen if not isinstance(s, ToyworldSource)),
            on_error=self.on_error,
            use_system=self.use_system,
        )


class FetchSection(Settings):
    """`hf://org/name@revision`, `s3://bucket/prefix` or a local Hugging Face folder."""

    uri: str = Field(min_length=1)


class BaseSection(Settings):
    """What training starts from: a model that is fetched, one trained on plain text, or the first trained further."""

    fetch: FetchSection | None = None
    train: TextSettings | None = None
    reward: FetchSection | None = None
    """Another model that the reward model starts from; null: the same."""

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if not (self.fetch or self.train):
            raise ValueError("give fetch (a model to start from), train (plain text to start with) or both")
        if self.train and not self.fetch and not self.train.shape:
            raise ValueError("train without fetch starts from random weights and needs train.shape")
        return self


class SFTSection(SFTSettings):
    """`repeat`: how many times over the annotated training file counts as one epoch (the tutorial's doubled file)."""

    repeat: PositiveInt = 1

    def settings(self) -> SFTSettings:
        return SFTSettings(**self.model_dump(exclude={"repeat"}))


class Goals(Settings):
    """What a report checks: least Pearson of the reward model per attribute; least Spearman of asked against obtained
    per attribute, and on average."""

    reward_pearson: float | None = None
    steering_spearman: float | None = None
    steering_spearman_mean: float | None = None


class ReportSection(Settings):
    goals: Goals = Goals()


class Recipe(Settings):
    """The method, stage by stage."""

    name: str
    description: str = ""
    profile: str = "laptop"
    attributes: AttributeSchema = AttributeSchema()
    prepare_data: PrepareSection
    base: BaseSection | None = None
    reward: RewardSettings | None = None
    annotate: AnnotateSettings | None = None
    sft: SFTSection | None = None
    baseline: SFTSection | None = None
    """The same fine-tuning without attributes, to compare with."""
    evaluate: EvaluationSettings | None = None
    report: ReportSection | None = None

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if (self.reward or self.sft) and not self.base:
            raise ValueError("reward and sft start from a model: give the section base")
        if self.annotate and not self.reward:
            raise ValueError("annotate needs a reward model: give the section reward")
        if self.baseline and (not self.sft or self.baseline.conditioned):
            raise ValueError("baseline needs the section sft to compare with, and conditioned: false")
        world, train = self.prepare_data.toyworld, self.base.train if self.base else None
        if train and not world:
            raise ValueError("base.train needs plain text, which only the source toyworld brings")
        shape = train.shape if train and self.base and not self.base.fetch else None
        if world and shape and shape.vocab_size != world.vocab_size:
            raise ValueError(f"base.train.shape.vocab_size is not the world's tokenizer's, {world.vocab_size}")
        if self.evaluate and not (self.reward or self.sft):
            raise ValueError("evaluate has nothing to measure: give reward or sft")
        if self.report and not self.evaluate:
            raise ValueError("report shows the evaluation: give the section evaluate")
        return self


class Layouts(Settings):
    """Where each stage that computes with a model runs; the baseline runs where the SFT does.

    `evaluate`: copies of the policy, each whole in one process, which share the questions among them.
    """

    base: LayoutSettings = LayoutSettings()
    reward: LayoutSettings = LayoutSettings()
    sft: LayoutSettings = LayoutSettings()
    annotate: LayoutSettings = LayoutSettings()
    evaluate: LayoutSettings = LayoutSettings()

    @model_validator(mode="after")
    def _whole_policy(self) -> Self:
        if self.evaluate.tensor * self.evaluate.pipeline > 1:
            raise ValueError(
                "evaluate: answers are written by copies of the policy, each whole in one process, so tensor and "
                "pipeline are 1; for a larger policy name a server of it, profile.policy_url"
            )
        return self


class TrackingSettings(Settings):
    """MLflow. `uri` null: MLFLOW_TRACKING_URI, else an SQLite file beside the store."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "steerlm"

    def resolve_uri(self, root: Path) -> str:
        """Return `uri`, else MLFLOW_TRACKING_URI, else an SQLite file in `root`, the store's local folder."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


class Profile(Settings):
    """Where a recipe runs. `store`: a folder or `s3://bucket/prefix`.

    For `plan` only: `gpu`, a type of `training.hardware.GPUS`; `gpu_memory_gib` and `gpu_constants` in place of the
    table's values.
    """

    name: str
    description: str = ""
    backend: str = Field(default="local", json_schema_extra={"enum": [*BACKENDS]})
    """Where jobs run: a name in `jobs.registry.BACKENDS`."""
    store: str = "runs/store"
    gpu: str | None = None
    gpu_memory_gib: PositiveFloat | None = None
    gpu_constants: GpuConstants = GpuConstants()
    policy_url: str | None = None
    """A server of the policy that `evaluate` asks, in place of the policy in its own processes."""
    layouts: Layouts = Layouts()
    jobs: JobSettings = JobSettings()
    tracking: TrackingSettings = TrackingSettings()

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        if value not in BACKENDS:
            raise ValueError(f"unknown back end {value!r}{nearest(value, BACKENDS)}")
        return value

    @field_validator("gpu")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            return None if value is None else gpu_type(value).name
        except ConfigError as error:
            raise ValueError(str(error)) from None


class RunOptions(Settings):
    """Options of one run; they change no key. Steps are named as in `stages.registry.STEPS`."""

    until: str | None = None
    """Run only this step and the steps it depends on; null: every step."""
    again: tuple[str, ...] = ()
    """Steps whose finished artifact is replaced by a new one."""


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """A recipe and a profile with all overrides applied, and the options of the run."""

    recipe: Recipe
    profile: Profile
    options: RunOptions = field(default_factory=RunOptions)


def load_recipe(recipe: str | Path, profile: str | Path | None = None, overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """Read a recipe and its profile, each a shipped name or a path, and apply `a.b=c` overrides.

    Keys that begin with `profile.` go to the profile. Raises `ConfigError` naming the file and the key.
    """
    of_profile = [text for text in overrides if text.startswith(OF_PROFILE)]
    of_recipe = [text for text in overrides if not text.startswith(OF_PROFILE)]
    loaded = load_settings(_find(recipe, "recipes"), Recipe, of_recipe)
    return ResolvedRecipe(loaded, load_profile(profile or loaded.profile, of_profile))


def load_profile(profile: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile, a shipped name or a path, and apply `profile.a.b=c` overrides. Raises as `load_recipe`."""
    return load_settings(_find(profile, "profiles"), Profile, overrides, OF_PROFILE)


def shipped(kind: Literal["recipes", "profiles"]) -> dict[str, Path]:
    """Name to path of the recipes or profiles that came with this installation."""
    from steerlm_kfp import recipes_folder

    return {path.stem: path for path in sorted((recipes_folder() / kind).glob("*.yaml"))}


def _find(name: str | Path, kind: Literal["recipes", "profiles"]) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    known = shipped(kind)
    if str(name) not in known:
        raise ConfigError(
            f"no {kind[:-1]} {str(name)!r} is shipped{nearest(str(name), known)}; or give a path to a .yaml"
        )
    return known[str(name)]
