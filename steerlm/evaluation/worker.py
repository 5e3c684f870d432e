# SPDX-License-Identifier: Apache-2.0
"""The worker of an answering job: `python -m steerlm.evaluation.worker SPEC.json`, one process or many.

Every process loads the whole model on its own device and continues every n-th block of prompts into a part.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence

from steerlm import attempt
from steerlm.errors import Interrupted
from steerlm.evaluation.spec import GenerateSpec
from steerlm.jobs import entry
from steerlm.visibility import wait_for_path

log = logging.getLogger(__name__)


def run(spec: GenerateSpec) -> None:
    """Continue this process's share of the blocks, except those that have a part already.

    Raises:
        Interrupted: The launcher has requested a stop.
    """
    import torch

    rank, device = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    torch.set_num_threads(entry.threads(spec.layout))
    if torch.accelerator.current_accelerator(check_available=True) is not None:
        torch.accelerator.set_device_index(device)
    from steerlm.inference.generator import TransformersGenerator
    from steerlm.jobs.parts import Parts

    parts = Parts(spec.folder)
    blocks: list[list[str]] = json.loads(wait_for_path(spec.prompts).read_text(encoding="utf-8"))
    # All blocks are dealt out, finished or not: the processes may see different states of the folder.
    mine = [number for number in range(rank, len(blocks), spec.layout.processes) if number not in parts]
    if not mine:
        return
    attempt.report("loading", parts.count())
    generator = TransformersGenerator(spec.model_folder)
    for done, number in enumerate(mine, 1):
        # Every process reports the same: how much all of them have finished.
        attempt.report("generating", parts.count, spec.layout.processes)
        if attempt.stop_requested(spec.layout.processes):
            raise Interrupted("stopped; finished parts are kept: run the same command again to resume")
        generations = generator.generate(blocks[number], 1, spec.sampling, spec.seed)
        parts.write(number, {}, json.dumps([generation.text for (generation,) in generations]))
        log.info("block %d/%d of each worker", done, len(mine))


def main(arguments: Sequence[str]) -> None:
    """Run the spec that the arguments name. Errors are raised."""
    run(entry.start("steerlm.evaluation.worker", arguments, GenerateSpec))


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
