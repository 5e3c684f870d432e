# SPDX-License-Identifier: Apache-2.0
"""What answering and scoring workers are given. The launcher writes it, the worker reads it. Torch-free."""

from pathlib import Path
from typing import Literal

from steerlm.inference.config import OverLong, SamplingSettings
from steerlm.settings import Settings
from steerlm.training.layout import LayoutSettings


class GenerateSpec(Settings):
    """The content of an answering job's SPEC.json. Paths are absolute.

    Attributes:
        model_folder: The model.
        prompts: A JSON file, a list of blocks, each a list of prompts.
        folder: For the parts, named by the number of their block.
        sampling: How the prompts are continued.
        seed: Of the samples.
        layout: The job's processes.
    """

    model_folder: Path
    prompts: Path
    folder: Path
    sampling: SamplingSettings
    seed: int
    layout: LayoutSettings = LayoutSettings()


class ScoreSpec(Settings):
    """The content of a scoring job's SPEC.json. Paths are absolute.

    Attributes:
        model_folder: The reward model.
        precision: In which it computes.
        texts: A JSON file, a list of blocks, each a list of texts.
        folder: For the parts, named by the number of their block; a skipped text has a row of NaN.
        over_long: What happens to texts that are longer than the model's window.
        layout: The job's processes.
    """

    model_folder: Path
    precision: Literal["fp32", "bf16"]
    texts: Path
    folder: Path
    over_long: OverLong = "error"
    layout: LayoutSettings = LayoutSettings()
