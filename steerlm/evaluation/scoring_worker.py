# SPDX-License-Identifier: Apache-2.0
"""The worker of a scoring job: `python -m steerlm.evaluation.scoring_worker SPEC.json`, one process or many.

Each replica of the reward model scores every n-th missing block of texts into a part.
"""

import json
import logging
import sys
from collections.abc import Sequence

from steerlm import attempt
from steerlm.errors import Interrupted
from steerlm.evaluation.spec import ScoreSpec
from steerlm.jobs import entry
from steerlm.visibility import wait_for_path

log = logging.getLogger(__name__)


def run(spec: ScoreSpec) -> None:
    """Score this process's share of the blocks that have no part yet.

    Raises:
        InputError: A text is longer than the model's window and `over_long` is `error`.
        Interrupted: The launcher has requested a stop.
        PeerLostError: Another process of the replica has died.
    """
    import torch

    torch.set_num_threads(entry.threads(spec.layout))
    from steerlm.jobs.parts import Parts
    from steerlm.megatron.parallel import peers
    from steerlm.megatron.scoring import MegatronScorer

    blocks: list[list[str]] = json.loads(wait_for_path(spec.texts).read_text(encoding="utf-8"))
    attempt.report("loading", 0)
    with peers():
        scorer = MegatronScorer(spec.model_folder, spec.layout, precision=spec.precision)
        parts = Parts(spec.folder)
        missing = scorer.from_first([number for number in range(len(blocks)) if number not in parts])
        mine = missing[scorer.replica :: scorer.replicas]
        for done, number in enumerate(mine, 1):
            # Every replica reports the same, how much all of them have finished, by one of its processes.
            if scorer.writes:
                attempt.report("scoring", parts.count, scorer.replicas)
            if scorer.any_of_replica(scorer.writes and attempt.stop_requested(scorer.replicas)):
                raise Interrupted("stopped; finished parts are kept: run the same command again to resume")
            scores = scorer.score(blocks[number], spec.over_long)
            if scorer.writes:
                parts.write(number, {}, json.dumps(scores.tolist()))
            log.info("block %d/%d of each worker", done, len(mine))


def main(arguments: Sequence[str]) -> None:
    """Run the spec that the arguments name. Errors are raised."""
    run(entry.start("steerlm.evaluation.scoring_worker", arguments, ScoreSpec))
    from steerlm.megatron.parallel import finish

    finish()


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
