# SPDX-License-Identifier: Apache-2.0
"""The worker of an answering job: `python -m steerlm.evaluation.generate_worker SPEC.json`, one process or many.

Every process holds the whole model on a device of its own and continues every n-th block of prompts into a part.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from steerlm.errors import ConfigError, first_problem
from steerlm.inference.config import SamplingSettings
from steerlm.jobs import entry
from steerlm.settings import Settings
from steerlm.signals import interrupt_on_sigterm
from steerlm.training.layout import LayoutSettings

log = logging.getLogger(__name__)
STOPPED = "stopped; the blocks that were done are kept, the same command continues with the others"


class GenerateSpec(Settings):
    """SPEC.json of the job. `prompts`: a JSON file, a list of blocks, each a list of prompts. `folder`: of the parts,
    named by the number of their block."""

    model_folder: Path
    prompts: Path
    folder: Path
    sampling: SamplingSettings
    seed: int
    layout: LayoutSettings = LayoutSettings()


def read_spec(path: Path) -> GenerateSpec:
    """Raises `ConfigError` naming the key that is wrong."""
    try:
        return GenerateSpec.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None


def run(spec: GenerateSpec) -> None:
    """Continue this process's share of the blocks, those that a part exists of left out."""
    import torch

    rank, device = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    torch.set_num_threads(entry.threads(spec.layout))
    if torch.accelerator.current_accelerator(check_available=True) is not None:
        torch.accelerator.set_device_index(device)
    from steerlm.inference.generator import TransformersGenerator
    from steerlm.inference.parts import Parts

    parts = Parts(spec.folder)
    blocks: list[list[str]] = json.loads(spec.prompts.read_text(encoding="utf-8"))
    # Dealt out whether they are done or not: the processes need not agree on what they see in the folder.
    mine = [number for number in range(rank, len(blocks), spec.layout.processes) if number not in parts]
    generator = TransformersGenerator(spec.model_folder) if mine else None
    for done, number in enumerate(mine, 1):
        assert generator is not None
        answers = generator.generate(blocks[number], 1, spec.sampling, spec.seed)
        parts.write(number, {}, json.dumps([one[0].text for one in answers]))
        log.info("block %d/%d of each worker", done, len(mine))


def main(arguments: Sequence[str]) -> None:
    """Run a spec; what goes wrong is raised."""
    path = entry.begin("steerlm.evaluation.generate_worker", arguments)
    interrupt_on_sigterm(STOPPED)
    run(read_spec(path))


if __name__ == "__main__":
    main(sys.argv[1:])
