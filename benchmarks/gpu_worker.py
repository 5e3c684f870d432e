# SPDX-License-Identifier: Apache-2.0
"""The measurements in the processes that `gpu.py` starts: `python -m gpu_worker SPEC.json`, one process or many.

A spec lists tasks; the main rank writes the result of each as JSON.
"""

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from steerlm.megatron.engine import MegatronEngine
    from steerlm.training.data import Row, RowTensors

LR, WARM_UP = 1e-4, 3


def main(path: str) -> None:
    spec = json.loads(Path(path).read_text())
    if spec["on_cpu"]:  # before torch looks for devices
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from steerlm.megatron.parallel import finish

    torch.set_num_threads(spec["threads"])
    for task in spec["tasks"]:
        result = {"parity": parity, "speed": speed}[task["kind"]](task)
        if int(os.environ.get("RANK", "0")) == 0:
            Path(task["folder"], "result.json").write_text(json.dumps(result))
        gc.collect()  # the engine refers to itself
    finish()


def parity(task: dict[str, Any]) -> dict[str, Any]:
    """Each gradient of the first batch, as a Hugging Face folder; then loss and gradient norm over some steps."""
    import torch

    engine, objective = build(task)
    first, *batches = packed(task, engine.layout, 1 + task["steps"])
    engine.step(first.rows, objective, 0.0, first.count)
    if engine.layout.dp_size == 1:  # else a process has whole only its share of the gradients
        parameters = list(engine.model.parameters())
        weights = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(parameter.main_grad)
            engine.write_hf(Path(task["folder"], "gradients"))
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(weight)
    results = [engine.step(batch.rows, objective, LR, batch.count) for batch in batches]
    return {"losses": [result.loss for result in results], "norms": [result.grad_norm for result in results]}


def speed(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step, of the reward model's forward passes, and for which a save keeps training waiting."""
    import torch

    from steerlm.training.footprint import simulate_packing
    from steerlm.training.layout import LayoutSettings

    engine, objective = build(task)
    count = WARM_UP + task["steps"]
    batches = list(packed(task, engine.layout, count))
    steps = [seconds(engine.step, batch.rows, objective, LR, batch.count) for batch in batches][WARM_UP:]
    filled = simulate_packing(lengths(task, count), settings(task), LayoutSettings(**task["layout"]), count)
    result = {
        "step_seconds": statistics.median(steps),
        "tokens_per_second": sum(batch.tokens for batch in batches[WARM_UP:]) / sum(steps),
        "real_token_share": filled.real_token_share,
        "context": filled.context,
        "peak_bytes": torch.accelerator.max_memory_allocated() if torch.accelerator.is_available() else 0,
    }
    if task["outputs"]:
        passes = [seconds(score, engine, batch.rows) for batch in batches][WARM_UP:]
        result["turns_per_second"] = task["samples"] * len(passes) / sum(passes)
    if task["saves"]:
        folder = Path(task["folder"], "checkpoint")
        result["save_seconds"] = seconds(engine.save, folder, {})
        result["written_seconds"] = seconds(engine.finish_save)
        result["load_seconds"] = seconds(engine.load, folder)
        result["checkpoint_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return result


def score(engine: "MegatronEngine", rows: Sequence["Row"]) -> None:
    """A forward pass of the reward model over this rank's rows, whose values reach the host."""
    import torch

    from steerlm.megatron.schedule import run_schedule

    def collect(row: "RowTensors", values: "torch.Tensor", non_loss_data: bool) -> "torch.Tensor":
        return values

    engine.ddp.eval()
    with torch.no_grad():
        every = run_schedule(
            engine.ddp, rows, engine.layout, engine.outputs, collect, forward_only=True, collect_non_loss_data=True
        )
        for values in every:
            values.cpu()
    engine.ddp.train()


def seconds(method: Callable[..., Any], *arguments: Any) -> float:
    """Every method of the engine ends with numbers in the host's memory, so none is left running on the device."""
    started = time.perf_counter()
    method(*arguments)
    return time.perf_counter() - started


def settings(task: dict[str, Any]) -> Any:
    from steerlm.training.config import RewardSettings, SFTSettings

    kind = RewardSettings if task["outputs"] else SFTSettings
    sizes = {"global_batch": task["samples"], "window": task["row_tokens"]}
    return kind(max_steps=100, precision=task["precision"], **sizes)


def build(task: dict[str, Any]) -> tuple[Any, Any]:
    """The product's engine, its weights drawn by name: the same in every layout and on every device; an objective."""
    from steerlm.attributes import AttributeSchema
    from steerlm.megatron.engine import build_engine
    from steerlm.models.shape import ModelShape
    from steerlm.training.layout import LayoutSettings
    from steerlm.training.objectives.likelihood import Likelihood
    from steerlm.training.objectives.reward import RewardObjective

    engine = build_engine(
        model_folder=None,
        shape=ModelShape(**task["shape"]),
        outputs=task["outputs"],
        settings=settings(task),
        layout=LayoutSettings(**task["layout"]),
    )
    return engine, RewardObjective(settings(task), None, AttributeSchema()) if task["outputs"] else Likelihood()


def lengths(task: dict[str, Any], steps: int) -> list[int]:
    """Tokens of the samples of that many global batches: log-normal, spread as OASST's conversations are."""
    draw = np.random.default_rng(0).lognormal(np.log(0.75 * task["mean_tokens"]), 0.75, steps * task["samples"])
    taken: list[int] = np.clip(draw, 8, task["row_tokens"]).astype(int).tolist()
    return taken


@dataclass(frozen=True, slots=True)
class Batch:
    """This process's rows of a global batch; tokens and count of the whole batch."""

    rows: list[Any]
    tokens: int
    count: int


def packed(task: dict[str, Any], layout: Any, steps: int) -> Iterator[Batch]:
    from steerlm.training.data import Row
    from steerlm.training.packing import plan_rows
    from steerlm.training.sampler import Sampler

    known = lengths(task, steps)
    sampler = Sampler(len(known), settings(task).seed)
    for step in range(steps):
        of = [known[i] for i in sampler.take(task["samples"])]
        draw = np.random.default_rng(step)
        samples = [sample(task, n, draw) for n in of]
        mine = plan_rows(of, task["row_tokens"], layout.dp_size)[layout.dp_rank]
        yield Batch([Row(tuple(samples[i] for i in row)) for row in mine], sum(of), sum(one.count for one in samples))


def sample(task: dict[str, Any], length: int, draw: np.random.Generator) -> Any:
    """Random tokens, of which the second half is learned; with labels for the reward model."""
    from steerlm.training.data import Sample

    ids = draw.integers(1, task["shape"]["vocab_size"], length).astype(np.int32)
    if task["outputs"]:
        labels = draw.integers(0, 5, task["outputs"]).astype(np.float32)
        return Sample(ids, np.zeros(length, np.float32), labels, count=len(labels))
    weights = (np.arange(length) >= length // 2).astype(np.float32)
    return Sample(ids, weights, count=int(weights.sum()))


if __name__ == "__main__":
    main(sys.argv[1])
