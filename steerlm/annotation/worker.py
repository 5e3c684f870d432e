# SPDX-License-Identifier: Apache-2.0
"""The worker of an annotation job: `python -m steerlm.annotation.worker SPEC.json`, one process or many.

Labels the planned blocks of the spec's files: each replica of the model labels every n-th missing block. The launcher
plans the blocks and joins the parts (`job.py`).
"""

import itertools
import logging
import sys
import time
from collections.abc import Sequence

from steerlm import attempt
from steerlm.annotation.spec import AnnotateSpec
from steerlm.errors import Interrupted
from steerlm.jobs import entry

log = logging.getLogger(__name__)


def run(spec: AnnotateSpec) -> None:
    """Label this process's share of the blocks that have no part yet.

    Raises:
        Interrupted: The launcher has requested a stop.
        RecordError: See `label_part`.
        PeerLostError: Another process of the replica has died.
    """
    import torch

    torch.set_num_threads(entry.threads(spec.layout))
    from steerlm.annotation.corpus import Corpus
    from steerlm.annotation.parallel import label_part, read_plan
    from steerlm.jobs.parts import Parts
    from steerlm.megatron.parallel import peers
    from steerlm.megatron.scoring import MegatronScorer

    attempt.report("loading", 0)
    with peers():
        scorer = MegatronScorer(
            spec.model_folder, spec.layout, precision=spec.precision, batch_tokens=spec.options.batch_tokens
        )
        parts = [Parts(file.folder) for file in spec.files]
        planned = [(i, block) for i, file in enumerate(spec.files) for block in read_plan(file.folder).blocks]
        missing = scorer.from_first([(i, block) for i, block in planned if block.first not in parts[i]])
        mine, turns, start = missing[scorer.replica :: scorer.replicas], 0, time.monotonic()
        done = 0
        for i, share in itertools.groupby(mine, key=lambda item: item[0]):
            with Corpus(spec.files[i].source, spec.options) as corpus:
                for _, block in share:
                    # Every replica reports the same, how much all of them have finished, by one of its processes.
                    if scorer.writes:
                        attempt.report("labeling", lambda: sum(each.count() for each in parts), scorer.replicas)
                    if scorer.any_of_replica(scorer.writes and attempt.stop_requested(scorer.replicas)):
                        raise Interrupted("stopped; finished parts are kept: run the same command again to resume")
                    turns += label_part(corpus, block, scorer, spec.options, parts[i] if scorer.writes else None)
                    done += 1
                    rate = scorer.replicas * turns / (time.monotonic() - start)
                    log.info("block %d/%d of each worker, %.1f turns/s together", done, len(mine), rate)


def main(arguments: Sequence[str]) -> None:
    """Run the spec that the arguments name. Errors are raised."""
    run(entry.start("steerlm.annotation.worker", arguments, AnnotateSpec))
    from steerlm.megatron.parallel import finish

    finish()


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
