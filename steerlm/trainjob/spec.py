# SPDX-License-Identifier: Apache-2.0
"""`TrainSpec`: all that a training job is given. Stages and commands make it, its worker reads it. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, nearest
from steerlm.files import write_json
from steerlm.jobs.entry import read_spec
from steerlm.models.shape import ModelShape
from steerlm.settings import Settings
from steerlm.training.config import TrainSettings
from steerlm.training.layout import FaultSettings, LayoutSettings
from steerlm.training.objectives.registry import OBJECTIVES, ObjectiveEntry

if TYPE_CHECKING:
    from steerlm.training.engine import Objective

RESULT = "result.json"
"""The worker's `TrainResult`, in the spec's `work`."""
TOKENS = "tokens"
"""Folder of the token indexes, in the spec's `work`."""


class TokenIndex(Settings):
    """Keys of the token indexes that the launcher has built (`token_index.py`)."""

    train: str | None = None
    validation: str | None = None


class TrainSpec(Settings):
    """The content of SPEC.json. Paths are absolute and lead to the same files from every node."""

    objective: str
    """A name in `OBJECTIVES`, which gives `settings` their class."""
    settings: SerializeAsAny[TrainSettings]
    layout: LayoutSettings = LayoutSettings()
    faults: FaultSettings = FaultSettings()
    attributes: AttributeSchema | None = None
    model_folder: Path | None = None
    """The model to start from; null: random weights of `settings.shape` (text only)."""
    base: str | None = None
    """What the model card calls `model_folder`; null: the folder's name."""
    tokenizer_folder: Path
    train: list[Path] = Field(min_length=1)
    validation: list[Path] = Field(default_factory=list)
    index: TokenIndex = TokenIndex()
    work: Path
    """Folder of token indexes, checkpoints, metrics and the result."""
    output: Path
    """The model folder to write."""

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, value: str) -> str:
        if value not in OBJECTIVES:
            raise ValueError(f"unknown objective {value!r}{nearest(value, OBJECTIVES)}")
        return value

    @field_validator("settings", mode="before")
    @classmethod
    def _settings_of_objective(cls, value: Any, info: ValidationInfo) -> Any:
        objective = info.data.get("objective")
        return OBJECTIVES[objective].settings.model_validate(value) if objective else value

    @property
    def entry(self) -> ObjectiveEntry[Any]:
        """The objective's settings class and constructor, from `OBJECTIVES`."""
        return OBJECTIVES[self.objective]

    @property
    def attribute_schema(self) -> AttributeSchema:
        """The attributes, or SteerLM's nine if none are given."""
        return self.attributes or AttributeSchema()

    @property
    def outputs(self) -> int | None:
        """Values of the model's reward head; None for a vocabulary head."""
        return self.entry.outputs(self.attribute_schema)

    @property
    def names_model(self) -> bool:
        """Whether it says what to start from; tokens can be indexed without that."""
        return self.model_folder is not None or self.settings.initial_shape is not None

    @property
    def shape(self) -> ModelShape:
        """The shape of the model to train.

        Raises:
            ConfigError: Neither a model folder nor a shape is given, or both.
        """
        own = self.settings.initial_shape
        if own is not None and self.model_folder is None:
            return own
        if self.model_folder is None:
            raise ConfigError("no model to start from: give model_folder, or settings.shape to train text from scratch")
        if own is not None:
            raise ConfigError("settings.shape starts from random weights, model_folder from a model; give one of them")
        return ModelShape.from_folder(self.model_folder)

    def make_objective(self) -> "Objective":
        """Return the objective with its tokenizer loaded."""
        from steerlm.models.tokenizer import load_tokenizer

        objective: Objective = self.entry.create(
            self.settings, load_tokenizer(self.tokenizer_folder), self.attribute_schema
        )
        return objective

    @classmethod
    def read(cls, path: Path) -> "TrainSpec":
        """Read SPEC.json. Raises `ConfigError` that names the file and the key."""
        return read_spec(path, cls)

    def write(self, path: Path) -> None:
        """Write SPEC.json."""
        write_json(path, self.model_dump(mode="json"))


def nonempty(paths: Sequence[Path]) -> list[Path]:
    """Return the files that exist and are not empty: an empty file validates nothing."""
    return [path for path in paths if path.exists() and path.stat().st_size]
