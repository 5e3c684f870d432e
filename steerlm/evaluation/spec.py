# SPDX-License-Identifier: Apache-2.0
"""`GenerateSpec`: everything an answering worker is given. The launcher writes it, the worker reads it. Torch-free."""

from pathlib import Path

from steerlm.inference.config import SamplingSettings
from steerlm.settings import Settings
from steerlm.training.layout import LayoutSettings


class GenerateSpec(Settings):
    """The content of SPEC.json. Paths are absolute.

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
