# SPDX-License-Identifier: Apache-2.0
"""The interface of a stage: a function from a config and input artifacts to files, and what its key depends on.

Each stage module has a `STAGE` and a function `config(recipe, role)`; `steerlm.pipeline.run` runs any of them.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from steerlm.artifact import LOGS, WORK, Artifact
from steerlm.attributes import AttributeSchema
from steerlm.checksums import FileDigest
from steerlm.dropped import Dropped
from steerlm.recipe import Profile
from steerlm.settings import Settings

ConfigT = TypeVar("ConfigT", bound=BaseModel)
Inputs = Mapping[str, Artifact]
METRICS = "metrics.jsonl"


class StageConfig(Settings):
    """Base of configs that combine several sections of a recipe."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """The result of a stage beside its files.

    Args:
        attributes: The attributes that the files deal with; part of the artifact's digest, as the files are.
        metrics: Numbers for tracking and reports; provenance.
        notes: Further provenance.
        left_out: What the stage dropped of its data; said at its end, in its provenance and in the report.
        files: What the pods of the stage's job say they have written; None: every file that is there.
    """

    attributes: AttributeSchema | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[Dropped] = ()
    files: Mapping[str, FileDigest] | None = None


@dataclass(frozen=True, slots=True)
class StageContext:
    """Where a stage works.

    Args:
        stage: Name of the stage.
        key: Key of its artifact.
        folder: The key's folder; `files`, `scratch` and `logs` are in it.
        files: Gets the files of the artifact.
        profile: Where work runs.
        report_progress: Shows a line of progress, if there was none for a while.
        report_note: Shows a line that stays: what the stage waits for, and what went wrong.
    """

    stage: str
    key: str
    folder: Path
    files: Path
    profile: Profile
    report_progress: Callable[[str], None]
    report_note: Callable[[str], None] = lambda text: None

    @property
    def image(self) -> str:
        """The name of the container image that the stage's jobs run in."""
        return self.stage.replace("_", "-")

    @property
    def scratch(self) -> Path:
        """The folder of files that an interrupted stage needs to resume; removed when the stage is finished."""
        return self.folder / WORK

    @property
    def logs(self) -> Path:
        """The folder of logs, kept beside the artifact."""
        return self.folder / LOGS

    def keep_metrics(self) -> None:
        """Copy the training's metrics to the logs, where reports read them."""
        if (self.scratch / METRICS).exists():
            shutil.copyfile(self.scratch / METRICS, self.logs / METRICS)


def plain_method(config: BaseModel, inputs: Inputs) -> dict[str, Any]:
    """Return every setting: the usual config part of a key."""
    return config.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class Stage(Generic[ConfigT]):
    """A stage.

    Args:
        name: Name of the stage and of its module.
        kind: Name of the folder of the artifact's files.
        make: Writes the files.
        code: Modules that decide the result, with everything they import.
        without: Modules among these imports that do not decide it.
        version: Part of the key: raise it when a change makes the stage's results differ.
        method: Returns the config part of the key, in which contents replace local paths.
    """

    name: str
    kind: str
    make: Callable[[ConfigT, Inputs, StageContext], StageResult]
    code: tuple[str, ...]
    without: tuple[str, ...] = ()
    version: int = 1
    method: Callable[[ConfigT, Inputs], dict[str, Any]] = plain_method
