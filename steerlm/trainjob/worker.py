# SPDX-License-Identifier: Apache-2.0
"""The worker of a training job: `python -m steerlm.trainjob.worker SPEC.json`, one process or many under torchrun.

Joins the rooms: tokenizer, objective and data, the megatron engine, the loop, the model folder. What it leaves in the
spec's `work`: token index, checkpoints, metrics.jsonl and result.json; in `output`: the Hugging Face folder.
"""

import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import Field, ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError, Interrupted, PeerLostError, TrainingError, first_problem
from steerlm.jobs import entry
from steerlm.jobs.worker import report
from steerlm.models.shape import ModelShape
from steerlm.records import write_json
from steerlm.settings import Settings
from steerlm.training.config import (
    FaultSettings,
    LayoutSettings,
    RewardSettings,
    SFTSettings,
    TextSettings,
    TrainSettings,
)
from steerlm.training.heartbeat import Heartbeat

if TYPE_CHECKING:
    from steerlm.models.folder import ModelInfo
    from steerlm.training.dataset import TokenDataset
    from steerlm.training.engine import Objective
    from steerlm.training.sink import Sinks
    from steerlm.training.state import TrainResult

log = logging.getLogger(__name__)

SETTINGS: Mapping[str, type[TrainSettings]] = {"text": TextSettings, "sft": SFTSettings, "reward": RewardSettings}
KINDS: Mapping[str, Literal["base", "policy", "reward"]] = {"text": "base", "sft": "policy", "reward": "reward"}


TOKENS = "tokens"
"""Folder of the token indexes, in the spec's `work`."""


class TokenIndex(Settings):
    """Keys of the token indexes that the launcher has built (`stages/tokens.py`)."""

    train: str | None = None
    validation: str | None = None


class TrainSpec(Settings):
    """SPEC.json. `model_folder` null: random weights of `settings.shape` (text only)."""

    objective: Literal["text", "sft", "reward"]
    settings: TrainSettings
    layout: LayoutSettings = LayoutSettings()
    faults: FaultSettings = FaultSettings()
    attributes: AttributeSchema | None = None
    model_folder: Path | None = None
    base: str | None = None
    """What the model folder is called where it came from; null: the folder's name."""
    tokenizer_folder: Path
    train: list[Path] = Field(min_length=1)
    validation: list[Path] = Field(default_factory=list)
    index: TokenIndex = TokenIndex()
    work: Path
    output: Path
    tracking: dict[str, Any] | None = None

    @property
    def shape(self) -> ModelShape:
        """Of the model that is trained. Raises `ConfigError` if neither a folder nor a shape is given, or both."""
        own = self.settings.shape if isinstance(self.settings, TextSettings) else None
        if own is not None and self.model_folder is None:
            return own
        if self.model_folder is None:
            raise ConfigError("no model to start from: give model_folder, or settings.shape to train text from scratch")
        if own is not None:
            raise ConfigError("settings.shape starts from random weights, model_folder from a model; give one of them")
        return ModelShape.from_folder(self.model_folder)


def read_spec(path: Path) -> TrainSpec:
    """Raises `ConfigError` naming the key that is wrong."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        kind = SETTINGS.get(raw.get("objective"), TrainSettings)
        return TrainSpec.model_validate({**raw, "settings": kind.model_validate(raw.get("settings", {}))})
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None


class Signal:
    """SIGTERM: raises `Interrupted` at once until training begins, then waits to be asked, so that all ranks save."""

    def __init__(self) -> None:
        self.arrived = False
        self.waiting = False
        signal.signal(signal.SIGTERM, self._take)

    def __call__(self) -> bool:
        return self.arrived

    @contextmanager
    def held(self) -> Iterator[None]:
        self.waiting = True
        try:
            yield
        except BaseException:  # torchrun ends a process whose peer has died: its own word for that must not be lost
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise
        self.waiting = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.arrived = True
        if not self.waiting:
            raise Interrupted("stopped before or after training; the same command goes on")
        log.warning("termination signal: saving after this step")


def run(spec: TrainSpec, stop: Signal) -> "TrainResult":
    """Train and write `output` and result.json; collective.

    Raises `Interrupted` after a SIGTERM, when all is saved; `PeerLostError` if another process has died.
    """
    import torch

    torch.set_num_threads(entry.threads(spec.layout))
    from steerlm.megatron import flight_recorder
    from steerlm.megatron.engine import build_engine
    from steerlm.megatron.parallel import finish, peers
    from steerlm.training.loop import train

    settings, shape = spec.settings, spec.shape
    schema = spec.attributes or AttributeSchema()
    objective = make_objective(settings, schema, spec.tokenizer_folder)
    data, validation = datasets(spec, objective)
    longest = max(part.longest() for part in (data, validation) if part)
    if longest > shape.max_position_embeddings:
        raise ConfigError(
            f"the longest sample has {longest} tokens, the model {shape.max_position_embeddings} positions; "
            "set the window to at most that"
        )
    with beating(spec) as heartbeat, peers(lambda: heartbeat.diagnosis()):
        engine = build_engine(
            model_folder=spec.model_folder,
            shape=None if spec.model_folder else shape,
            outputs=len(schema.names) if spec.objective == "reward" else None,
            settings=settings,
            layout=spec.layout,
        )
        heartbeat.joined(engine.layout.stage)
        heartbeat.collectives = flight_recorder.entered
        is_main_rank = engine.layout.rank == 0
        with sinks(spec, len(data), is_main_rank) as sink, stop.held():
            result = train(
                engine,
                objective,
                data,
                validation,
                settings,
                spec.layout,
                spec.work,
                sink,
                stop,
                spec.faults,
                heartbeat,
            )
        with _written(spec.output):
            engine.write_hf(spec.output)
            if is_main_rank:
                finish_model(spec, schema, result)
    finish()
    return result


@contextmanager
def beating(spec: TrainSpec) -> Iterator["Heartbeat"]:
    """This process's heartbeat, from before it joins the others. What torch records of a collective that has timed out
    lies beside it."""
    from steerlm.megatron import flight_recorder
    from steerlm.megatron.parallel import peer_lost

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    dumped = flight_recorder.prepare(spec.work / flight_recorder.FOLDER, rank)

    def timed_out(diagnosis: str) -> None:
        report(peer_lost("a collective has timed out", diagnosis))

    def lost(diagnosis: str) -> NoReturn:
        error = peer_lost("its heartbeat has stopped", diagnosis)
        report(error)
        os._exit(error.exit_code)  # the main thread may wait in a collective that nothing ends

    with Heartbeat(
        spec.work / "heartbeats",
        rank,
        world,
        spec.faults.collective_timeout_minutes * 60,
        dumped=dumped,
        on_lost=lost,
        on_timeout=timed_out,
    ) as heartbeat:
        try:
            yield heartbeat
        except PeerLostError:
            with suppress(OSError):
                flight_recorder.dump(dumped)
            raise


def finish_model(spec: TrainSpec, schema: AttributeSchema, result: "TrainResult") -> None:
    """What the model folder holds beside its weights, then result.json."""
    from steerlm.models.folder import finish_folder

    dtype = "bfloat16" if spec.settings.precision == "bf16" else "float32"
    info = describe(spec, schema, result)
    finish_folder(spec.output, shape=spec.shape, tokenizer_from=spec.tokenizer_folder, info=info, dtype=dtype)
    write_json(spec.work / "result.json", dataclasses.asdict(result))
    log.info("wrote %s: step %d of %d", spec.output, result.exported_step, result.steps)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """What the disk refuses, in one line; training is saved by then, and the same command writes the folder again."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        raise TrainingError(
            f"{folder}: the model could not be written ({error}); {free / 2**30:.1f} GiB are free there"
        ) from error


def make_objective(settings: TrainSettings, schema: AttributeSchema, tokenizer_folder: Path) -> "Objective":
    from steerlm.models.folder import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_folder)
    if isinstance(settings, TextSettings):
        from steerlm.training.objectives.text import TextObjective

        return TextObjective(settings, tokenizer)
    if isinstance(settings, SFTSettings):
        from steerlm.training.objectives.sft import SFTObjective

        return SFTObjective(settings, tokenizer, schema)
    from steerlm.training.objectives.reward import RewardObjective

    assert isinstance(settings, RewardSettings)
    return RewardObjective(settings, tokenizer, schema)


def datasets(spec: TrainSpec, objective: "Objective") -> tuple["TokenDataset", "TokenDataset | None"]:
    """The token indexes of both sets; before any process group, so that no process waits in a collective.

    The launcher has built them. Where it has not, as for a spec written by hand, one process of this machine does and
    the others wait. Raises `ConfigError` if there are several nodes: each would do it while all devices wait.
    """
    from steerlm.training.dataset import TokenDataset

    cache = spec.work / TOKENS

    def dataset(key: str | None, paths: Sequence[Path]) -> "TokenDataset":
        found = TokenDataset.open(key, paths, objective, cache) if key else None
        if found is None and spec.layout.nodes > 1:
            state = "not there, or of other data or settings" if key else "not named in the spec"
            raise ConfigError(
                f"{cache}: the token index of {', '.join(map(str, paths))} is {state}; on one machine that sees this "
                "folder run `python -m steerlm.trainjob.token_index SPEC.json` before the job"
            )
        return found if found is not None else TokenDataset.build(paths, objective, cache)

    data = dataset(spec.index.train, spec.train)
    return data, dataset(spec.index.validation, spec.validation) if spec.validation else None


def sinks(spec: TrainSpec, units: int, is_main_rank: bool) -> "Sinks":
    """Where rank 0 reports; the other ranks say nothing."""
    from steerlm.training.sampler import total_steps
    from steerlm.training.sink import JsonlSink, ProgressSink, Sink, Sinks

    if not is_main_rank:
        return Sinks()
    steps, _ = total_steps(spec.settings, units)
    found: list[Sink] = [JsonlSink(spec.work / "metrics.jsonl"), ProgressSink(steps, spec.objective)]
    return Sinks(found)


def describe(spec: TrainSpec, schema: AttributeSchema, result: "TrainResult") -> "ModelInfo":
    """What the model folder says of itself. Attributes without a label in the training data count as never trained."""
    from steerlm.models.folder import ModelInfo, read_info

    base = read_info(spec.model_folder) if spec.model_folder else None
    attributes = None
    if spec.objective == "reward" or (isinstance(spec.settings, SFTSettings) and spec.settings.conditioned):
        counts = result.counts["train"]
        attributes = schema.restricted([name for name in schema.active if counts.get(f"labels/{name}")])
    metrics = {name: round(value, 6) for name, value in result.metrics.items()}
    return ModelInfo(
        kind=KINDS[spec.objective],
        attributes=attributes,
        window=spec.settings.window,
        base=(base.base or spec.base or spec.model_folder.name) if base and spec.model_folder else None,
        license=base.license if base else None,
        metrics=metrics | {"step": result.exported_step},
        data={name: {k: v for k, v in counts.items() if v} for name, counts in result.counts.items()},
    )


def main(arguments: Sequence[str]) -> None:
    """Run a spec; what goes wrong is raised."""
    path = entry.begin("steerlm.trainjob.worker", arguments)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    run(read_spec(path), Signal())


if __name__ == "__main__":
    entry.exit_with_one_line()
    main(sys.argv[1:])
