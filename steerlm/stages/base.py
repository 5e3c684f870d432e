# SPDX-License-Identifier: Apache-2.0
"""What a stage is: a function from a config and artifacts to files, and what decides whether it must run again.

The only room that joins rooms. Each stage module has a `STAGE` and a `config(recipe, role)`; `run.py` runs any.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from steerlm.artifact import LOGS, WORK, Artifact
from steerlm.attributes import AttributeSchema
from steerlm.recipe import Profile
from steerlm.settings import Settings

ConfigT = TypeVar("ConfigT", bound=BaseModel)
Inputs = Mapping[str, Artifact]
METRICS = "metrics.jsonl"


class StageConfig(Settings):
    """Base of configs that a stage puts together from several sections of a recipe."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage says about the files it made. `attributes` and the files are content; the rest is provenance."""

    attributes: AttributeSchema | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageContext:
    """Where a stage works. `files`: what it makes; in `folder`, `scratch`: what it needs until it is done, kept for a
    resume, and `logs`: kept beside the artifact. `report_progress` shows a line of progress."""

    stage: str
    key: str
    folder: Path
    files: Path
    profile: Profile
    report_progress: Callable[[str], None]

    @property
    def scratch(self) -> Path:
        return self.folder / WORK

    @property
    def logs(self) -> Path:
        return self.folder / LOGS

    def keep_metrics(self) -> None:
        """Move the training's metrics beside the artifact, where reports find them."""
        if (self.scratch / METRICS).exists():
            shutil.copyfile(self.scratch / METRICS, self.logs / METRICS)


def plain_method(config: BaseModel, inputs: Inputs) -> dict[str, Any]:
    """The usual config part of a key: every setting."""
    return config.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class Stage(Generic[ConfigT]):
    """`version`: raise it when the same code must make something else. `code`: modules that make the result, `without`
    those among what they import that do not. `method`: the config part of the key, where paths give way to contents.
    """

    name: str
    kind: str
    make: Callable[[ConfigT, Inputs, StageContext], StageResult]
    code: tuple[str, ...]
    without: tuple[str, ...] = ()
    version: int = 1
    method: Callable[[ConfigT, Inputs], dict[str, Any]] = plain_method
