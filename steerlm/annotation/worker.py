# SPDX-License-Identifier: Apache-2.0
"""The worker of an annotation job: `python -m steerlm.annotation.worker SPEC.json`, one process or many.

Labels the blocks of the plans that lie in the spec's folders; each replica of the model takes every n-th block that is
left. Planning and putting the parts together are the launcher's (`annotate_job.py`).
"""

import itertools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from steerlm.errors import ConfigError, first_problem
from steerlm.inference.config import AnnotateSettings
from steerlm.jobs import entry
from steerlm.settings import Settings
from steerlm.signals import interrupt_on_sigterm
from steerlm.training.layout import LayoutSettings

log = logging.getLogger(__name__)
STOPPED = "stopped; the blocks that were done are kept, the same command continues with the others"


class AnnotatePass(Settings):
    """One file to label. `folder`: where its plan lies, and its parts are to lie."""

    source: Path
    folder: Path


class AnnotateSpec(Settings):
    """SPEC.json of the job. All paths are absolute and lead to the same files from every node."""

    model_folder: Path
    precision: Literal["fp32", "bf16"]
    options: AnnotateSettings
    layout: LayoutSettings = LayoutSettings()
    passes: list[AnnotatePass] = Field(min_length=1)


def read_spec(path: Path) -> AnnotateSpec:
    """Raises `ConfigError` naming the key that is wrong."""
    try:
        return AnnotateSpec.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None


def run(spec: AnnotateSpec) -> None:
    """Label this process's share of the blocks that no part exists of.

    Raises what `label_part` raises; `PeerLostError` if another process of the replica has died.
    """
    import torch

    torch.set_num_threads(entry.threads(spec.layout))
    from steerlm.inference.corpus import Corpus
    from steerlm.inference.parts import Parts
    from steerlm.inference.striped import label_part, read_plan
    from steerlm.megatron.parallel import peers
    from steerlm.megatron.scoring import MegatronScorer

    with peers():
        scorer = MegatronScorer(
            spec.model_folder, spec.layout, precision=spec.precision, batch_tokens=spec.options.batch_tokens
        )
        parts = [Parts(one.folder) for one in spec.passes]
        planned = [(i, place) for i, one in enumerate(spec.passes) for place in read_plan(one.folder).places]
        left = scorer.from_first([(i, place) for i, place in planned if place.first not in parts[i]])
        mine, turns, began = left[scorer.replica :: scorer.replicas], 0, time.monotonic()
        done = 0
        for i, share in itertools.groupby(mine, key=lambda item: item[0]):
            with Corpus(spec.passes[i].source, spec.options) as corpus:
                for _, place in share:
                    turns += label_part(corpus, place, scorer, spec.options, parts[i] if scorer.writes else None)
                    done += 1
                    rate = scorer.replicas * turns / (time.monotonic() - began)
                    log.info("block %d/%d of each worker, %.1f turns/s together", done, len(mine), rate)


def main(arguments: Sequence[str]) -> None:
    """Run a spec; what goes wrong is raised."""
    path = entry.begin("steerlm.annotation.worker", arguments)
    interrupt_on_sigterm(STOPPED)
    run(read_spec(path))
    from steerlm.megatron.parallel import finish

    finish()


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
