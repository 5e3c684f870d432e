# SPDX-License-Identifier: Apache-2.0
"""The worker of a training job: `python -m steerlm.trainjob.worker SPEC.json`, one process or many under torchrun.

Puts objective, data, engine and loop together. It leaves token index, checkpoints, metrics.jsonl and result.json in the
spec's `work`, and the Hugging Face folder in `output`.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerlm import attempt
from steerlm.errors import ConfigError
from steerlm.jobs import entry
from steerlm.signals import StopRequest
from steerlm.trainjob.export import export_model
from steerlm.trainjob.spec import TrainSpec
from steerlm.trainjob.token_index import open_indexes
from steerlm.trainjob.worker_heartbeat import worker_heartbeat

if TYPE_CHECKING:
    from steerlm.training.dataset import TokenDataset
    from steerlm.training.sink import Sinks
    from steerlm.training.state import TrainResult

log = logging.getLogger(__name__)


def run(spec: TrainSpec, stop: StopRequest) -> "TrainResult":
    """Train, and write the model folder and result.json; collective.

    Raises:
        Interrupted: SIGTERM arrived; the state is saved.
        PeerLostError: Another process has died.
    """
    import torch

    torch.set_num_threads(entry.threads(spec.layout))
    from steerlm.megatron import flight_recorder
    from steerlm.megatron.engine import build_engine
    from steerlm.megatron.parallel import finish, peers
    from steerlm.training.loop import train

    shape, objective = spec.shape, spec.make_objective()
    data, validation = open_indexes(spec, objective)
    _check_lengths([data, validation], shape.max_position_embeddings)
    with worker_heartbeat(spec) as heartbeat, peers(lambda: heartbeat.diagnosis()):
        heartbeat.mark("loading", 0)
        engine = build_engine(
            model_folder=spec.model_folder,
            shape=None if spec.model_folder else shape,
            outputs=spec.outputs,
            settings=spec.settings,
            layout=spec.layout,
        )
        heartbeat.joined(engine.layout.stage)
        heartbeat.collectives = flight_recorder.entered
        is_main_rank = engine.layout.rank == 0

        def stop_requested() -> bool:
            return stop() or (is_main_rank and attempt.stop_requested())

        with _sinks(spec, len(data), is_main_rank) as sink, stop.deferred():
            result = train(
                engine,
                objective,
                data,
                validation,
                spec.settings,
                spec.layout,
                spec.work,
                sink,
                stop_requested,
                spec.faults,
                heartbeat,
            )
        export_model(spec, engine, result, is_main_rank)
    finish()
    return result


def _check_lengths(datasets: Sequence["TokenDataset | None"], positions: int) -> None:
    longest = max(dataset.longest() for dataset in datasets if dataset)
    if longest > positions:
        raise ConfigError(
            f"the longest sample has {longest} tokens, the model {positions} positions; set the window to at most that"
        )


def _sinks(spec: TrainSpec, units: int, is_main_rank: bool) -> "Sinks":
    """Return where the main rank reports metrics; the other ranks report nowhere."""
    from steerlm.training.sampler import total_steps
    from steerlm.training.sink import JsonlSink, ProgressSink, Sinks

    if not is_main_rank:
        return Sinks()
    steps, _ = total_steps(spec.settings, units)
    return Sinks([JsonlSink(spec.work / "metrics.jsonl"), ProgressSink(steps, spec.objective)])


def main(arguments: Sequence[str]) -> None:
    """Run the spec that the arguments name. Errors are raised."""
    spec = entry.start("steerlm.trainjob.worker", arguments, TrainSpec)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    unchecked = spec.index.train is None and spec.names_model  # no launcher has built its index
    if unchecked and os.environ.get("RANK", "0") == "0":
        from steerlm.trainjob.preflight import check_training

        check_training(spec)
    run(spec, StopRequest("stopped before or after training; run the same command again to resume"))


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
