# SPDX-License-Identifier: Apache-2.0
"""`AnnotateSpec`: everything an annotation worker is given. The launcher writes it, the worker reads it. Torch-free."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from steerlm.annotation.config import AnnotateSettings
from steerlm.settings import Settings
from steerlm.training.layout import LayoutSettings


class AnnotatedFile(Settings):
    """One file to label. `folder` has its block plan and receives its parts."""

    source: Path
    folder: Path


class AnnotateSpec(Settings):
    """The content of SPEC.json. Paths are absolute and lead to the same files from every node."""

    model_folder: Path
    precision: Literal["fp32", "bf16"]
    options: AnnotateSettings
    layout: LayoutSettings = LayoutSettings()
    files: list[AnnotatedFile] = Field(min_length=1)
