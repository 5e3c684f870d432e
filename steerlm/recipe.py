# SPDX-License-Identifier: Apache-2.0
"""Recipes define the method, profiles where it runs. Composes the settings that each package declares; torch-free.

A recipe names its usual profile. A section that is null is a stage that does not apply. Layouts are in the profile
because they never change a result, only where and how fast it is computed.
"""

import os
import re
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
from steerlm.dropped import DEFAULT_LIMIT
from steerlm.errors import ConfigError, nearest
from steerlm.evaluation.config import EvaluationSettings
from steerlm.jobs.config import JobSettings
from steerlm.jobs.kubernetes.config import ClusterSettings
from steerlm.jobs.registry import BACKENDS
from steerlm.settings import Settings
from steerlm.toyworld.config import ToySettings
from steerlm.training.config import RewardSettings, SFTSettings, TextSettings
from steerlm.training.hardware import GpuConstants, gpu_type
from steerlm.training.layout import LayoutSettings

PROFILE_PREFIX = "profile."


class ToyworldSource(ToySettings):
    """The demo's synthetic world, with its own plain text, tokenizer, questions and oracle."""

    kind: Literal["toyworld"] = "toyworld"


if TYPE_CHECKING:
    AnySource = SourceSettings | ToyworldSource
else:
    AnySource = settings_union(ToyworldSource)


class PrepareSection(Settings):
    """The data of a recipe.

    The conversations of `sources` are annotated, and the policy learns from them. The reward model learns from the
    labeled turns of `rated`, or of `sources` where that is null.
    """

    sources: tuple[AnySource, ...] = Field(min_length=1)
    rated: tuple[Source, ...] | None = Field(default=None, min_length=1)
    questions: str | None = None
    """JSONL file of held-out questions; null: the synthetic world's, or the first turns of validation conversations."""
    on_error: OnError = "fail"
    max_dropped: float = Field(default=DEFAULT_LIMIT, ge=0, le=1)
    """The largest share of a source's rows that may be dropped; more is an error."""
    use_system: bool = False

    @model_validator(mode="after")
    def _check_toyworld(self) -> Self:
        if self.toyworld and len(self.sources) > 1:
            raise ValueError("the source toyworld cannot be combined with other sources")
        return self

    @property
    def toyworld(self) -> ToySettings | None:
        """The synthetic world's settings, if it is the source."""
        first = self.sources[0]
        return ToySettings(**first.model_dump(exclude={"kind"})) if isinstance(first, ToyworldSource) else None

    def merge(self, which: Literal["sources", "rated"]) -> PrepareSettings:
        """Return the settings for `steerlm.datasets` of one of the two lists, without the synthetic world."""
        chosen = self.sources if which == "sources" else self.rated or ()
        return PrepareSettings(
            sources=tuple(s for s in chosen if not isinstance(s, ToyworldSource)),
            on_error=self.on_error,
            max_dropped=self.max_dropped,
            use_system=self.use_system,
        )


class FetchSection(Settings):
    """A model to fetch: `hf://org/name@revision`, `s3://bucket/prefix` or a local Hugging Face folder."""

    uri: str = Field(min_length=1)


class BaseSection(Settings):
    """The model that training starts from: fetched, trained on plain text, or fetched and trained further."""

    fetch: FetchSection | None = None
    train: TextSettings | None = None
    reward: FetchSection | None = None
    """The model that the reward model starts from; null: the same."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if not (self.fetch or self.train):
            raise ValueError("give fetch (a model to start from), train (plain text to start with) or both")
        if self.train and not self.fetch and not self.train.shape:
            raise ValueError("train without fetch starts from random weights and needs train.shape")
        return self


class SFTSection(SFTSettings):
    """Fine-tuning; `repeat`: how often one epoch reads the annotated training file (upstream's tutorial doubles it)."""

    repeat: PositiveInt = 1

    def settings(self) -> SFTSettings:
        """Return the settings of the training, without `repeat`."""
        return SFTSettings(**self.model_dump(exclude={"repeat"}))


class Goals(Settings):
    """Thresholds that a report checks.

    Per attribute, the Pearson correlation of the reward model with the ratings, and the Spearman correlation of
    requested with obtained values; the latter also on average.
    """

    reward_pearson: float | None = None
    steering_spearman: float | None = None
    steering_spearman_mean: float | None = None


class ReportSection(Settings):
    """The report's settings: the goals that the run is compared with."""

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
    """The same fine-tuning without attributes, for comparison."""
    evaluate: EvaluationSettings | None = None
    report: ReportSection | None = None

    @property
    def folder_name(self) -> str:
        """The recipe's name with everything replaced that a folder's name should not have."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "recipe"

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        if (self.reward or self.sft) and not self.base:
            raise ValueError("reward and sft start from a model: give the section base")
        if self.annotate and not self.reward:
            raise ValueError("annotate needs a reward model: give the section reward")
        if self.baseline and (not self.sft or self.baseline.conditioned):
            raise ValueError("baseline needs the section sft to compare with, and conditioned: false")
        world, train = self.prepare_data.toyworld, self.base.train if self.base else None
        if train and not world:
            raise ValueError("base.train needs plain text, which only the source toyworld has")
        shape = train.shape if train and self.base and not self.base.fetch else None
        if world and shape and shape.vocab_size != world.vocab_size:
            raise ValueError(
                f"base.train.shape.vocab_size is {shape.vocab_size}; the source toyworld's tokenizer has "
                f"{world.vocab_size}"
            )
        if self.evaluate and not (self.reward or self.sft):
            raise ValueError("evaluate has nothing to measure: give the section reward or sft")
        if self.report and not self.evaluate:
            raise ValueError("report shows the evaluation: give the section evaluate")
        return self


class Layouts(Settings):
    """The layout of each stage that computes with a model; the baseline has that of `sft`.

    The processes of `evaluate` each hold a whole copy of the policy and share the questions.
    """

    base: LayoutSettings = LayoutSettings()
    reward: LayoutSettings = LayoutSettings()
    sft: LayoutSettings = LayoutSettings()
    annotate: LayoutSettings = LayoutSettings()
    evaluate: LayoutSettings = LayoutSettings()

    @model_validator(mode="after")
    def _check_evaluate(self) -> Self:
        if self.evaluate.tensor * self.evaluate.pipeline > 1:
            raise ValueError(
                "evaluate: each process holds a whole copy of the policy, so tensor and pipeline must be 1; "
                "for a larger policy give the address of a server, profile.policy_url"
            )
        return self


class TrackingSettings(Settings):
    """MLflow. With `uri` null: MLFLOW_TRACKING_URI, else an SQLite file in the store's local folder."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "steerlm"

    def resolve_uri(self, root: Path) -> str:
        """Return `uri`, else MLFLOW_TRACKING_URI, else an SQLite file in `root`, the store's local folder."""
        path = str(root / "mlflow.db").replace("%", "%25").replace("?", "%3F")  # both mean something in such a URI
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path}"


class Profile(Settings):
    """Where a recipe runs. `store` is a folder or `s3://bucket/prefix`.

    Only `plan` uses `gpu`, a type in `training.hardware.GPUS`, and `gpu_memory_gib` and `gpu_constants`, which replace
    values of that table.
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
    """Address of a server of the policy that `evaluate` uses instead of loading the policy."""
    layouts: Layouts = Layouts()
    jobs: JobSettings = JobSettings()
    cluster: ClusterSettings = ClusterSettings()
    """Of the back ends on Kubernetes."""
    tracking: TrackingSettings = TrackingSettings()

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        if value not in BACKENDS:
            raise ValueError(f"unknown back end {value!r}{nearest(value, BACKENDS)}")
        return value

    @field_validator("gpu")
    @classmethod
    def _check_gpu(cls, value: str | None) -> str | None:
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

    Overrides that start with `profile.` apply to the profile. Raises `ConfigError` naming the file and the key.
    """
    profile_overrides = [text for text in overrides if text.startswith(PROFILE_PREFIX)]
    recipe_overrides = [text for text in overrides if not text.startswith(PROFILE_PREFIX)]
    loaded = load_settings(_find(recipe, "recipes"), Recipe, recipe_overrides)
    return ResolvedRecipe(loaded, load_profile(profile or loaded.profile, profile_overrides))


def load_profile(profile: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile, a shipped name or a path, and apply `profile.a.b=c` overrides. Raises like `load_recipe`."""
    return load_settings(_find(profile, "profiles"), Profile, overrides, PROFILE_PREFIX)


def shipped(kind: Literal["recipes", "profiles"]) -> dict[str, Path]:
    """Return the paths of the recipes or profiles in this installation by name."""
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
