"""What the processes that `gpu.py` starts measure: `python -m gpu_worker SPEC.json`, one process or many.

A spec lists tasks; each task's result is written by the first process, as JSON.
"""

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
    engine.step(first, objective, lr=0.0)
    if engine.layout.dp_size == 1:  # else a process has whole only its share of the gradients
        parameters = list(engine.model.parameters())
        weights = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(parameter.main_grad)
            engine.write_hf(Path(task["folder"], "gradients"))
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(weight)
    results = [engine.step(rows, objective, LR) for rows in batches]
    return {"losses": [result.loss for result in results], "norms": [result.grad_norm for result in results]}


def speed(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step, of the reward model's forward passes, and for which a save keeps training waiting."""
    import torch

    engine, objective = build(task)
    batches = list(packed(task, engine.layout, WARM_UP + task["steps"]))
    steps = [seconds(engine.step, rows, objective, LR) for rows in batches][WARM_UP:]
    counts = counted(task, engine.layout)
    tokens = sum(count.tokens for count in counts)
    result = {
        "step_seconds": statistics.median(steps),
        "tokens_per_second": tokens / sum(steps),
        "real_token_share": tokens / sum(count.computed for count in counts),
        "context": sum(count.squares for count in counts) / tokens,
        "peak_bytes": torch.accelerator.max_memory_allocated() if torch.accelerator.is_available() else 0,
    }
    if task["outputs"]:
        passes = [seconds(engine.forward, rows, "values") for rows in batches][WARM_UP:]
        result["turns_per_second"] = task["samples"] * len(passes) / sum(passes)
    if task["saves"]:
        folder = Path(task["folder"], "checkpoint")
        result["save_seconds"] = seconds(engine.save, folder, {})
        result["load_seconds"] = seconds(engine.load, folder)
        result["checkpoint_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return result


def seconds(method: Callable[..., Any], *arguments: Any) -> float:
    """Every method of the engine ends with numbers in the host's memory, so none is left running on the device."""
    began = time.perf_counter()
    method(*arguments)
    return time.perf_counter() - began


def build(task: dict[str, Any]) -> tuple[Any, Any]:
    """The product's engine with weights drawn by name, the same in every layout and on every device."""
    from steerlm.attributes import AttributeSchema
    from steerlm.megatron.engine import build_engine
    from steerlm.models.shape import LlamaShape
    from steerlm.training.config import LayoutSettings, RewardSettings, SFTSettings
    from steerlm.training.objectives.likelihood import Likelihood
    from steerlm.training.objectives.reward import RewardObjective

    kind = RewardSettings if task["outputs"] else SFTSettings
    settings = kind(max_steps=100, precision=task["precision"], window=task["row_tokens"])
    engine = build_engine(
        model_folder=None,
        shape=LlamaShape(**task["shape"]),
        outputs=task["outputs"],
        settings=settings,
        layout=LayoutSettings(**task["layout"]),
    )
    return engine, RewardObjective(settings, None, AttributeSchema()) if task["outputs"] else Likelihood()


def lengths(task: dict[str, Any], steps: int) -> list[list[int]]:
    """Tokens of each sample of each global batch: log-normal, of the mean and spread of OASST's conversations."""
    draw = np.random.default_rng(0)
    drawn = draw.lognormal(np.log(0.75 * task["mean_tokens"]), 0.75, (steps, task["samples"]))
    return np.clip(drawn, 8, task["row_tokens"]).astype(int).tolist()


def packed(task: dict[str, Any], layout: Any, steps: int) -> Iterator[list[Any]]:
    """This process's rows of each global batch."""
    from steerlm.training.rows import Row, Sample, plan

    for step, of in enumerate(lengths(task, steps)):
        draw = np.random.default_rng(step)
        samples = []
        for n in of:
            ids = draw.integers(1, task["shape"]["vocab_size"], n).astype(np.int32)
            if task["outputs"]:
                labels = draw.integers(0, 5, task["outputs"]).astype(np.float32)
                samples.append(Sample(ids, np.zeros(n, np.float32), labels, count=len(labels)))
            else:
                weights = (np.arange(n) >= n // 2).astype(np.float32)  # the answer is learned, the prompt is not
                samples.append(Sample(ids, weights, count=int(weights.sum())))
        yield [
            Row(tuple(samples[i] for i in row)) for row in plan(of, task["row_tokens"], layout.dp_size)[layout.dp_rank]
        ]


class Count(NamedTuple):
    """Of a global batch. `computed`: every micro-batch waits for its longest row. `squares`: of lengths."""

    tokens: int
    computed: int
    squares: int


def counted(task: dict[str, Any], layout: Any) -> list[Count]:
    """Of the batches that are timed."""
    from steerlm.training.rows import plan

    found = []
    for of in lengths(task, WARM_UP + task["steps"])[WARM_UP:]:
        planned = plan(of, task["row_tokens"], layout.dp_size)
        longest = sum(max(sum(of[i] for i in row) for row in rows) for rows in zip(*planned, strict=True))
        found.append(Count(sum(of), longest * layout.dp_size, sum(n * n for n in of)))
    return found


if __name__ == "__main__":
    main(sys.argv[1])
