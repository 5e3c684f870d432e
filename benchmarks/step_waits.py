# SPDX-License-Identifier: Apache-2.0
"""Waits and traffic of a training step: reads back from the device per row and per step, bytes per collective.

Counted in CPU processes, which make the same calls; the counts do not depend on the device. A step of few rows and one
of many are run; what grows with the number of rows is counted per row. Two of a step's three `item` read the sums that
`cpu` has copied to the host. "gradients", "weights": bytes that a process passes to the reduce-scatter of gradients and
the all-gather of weights; "pipeline": bytes sent between stages.

    python benchmarks/step_waits.py
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

WAITS = ("tolist", "item", "nonzero", "cpu", "__bool__", "__int__", "__float__")
LAYOUTS: dict[str, dict[str, Any]] = {
    "one process": {},
    "dp2": {"devices": 2},
    "pp2": {"devices": 2, "pipeline": 2},
    "tp2 sp pp2": {"devices": 4, "tensor": 2, "pipeline": 2, "sequence_parallel": True},
}
ROWS = (4, 12)


def count(seen: Counter[str], bytes_sent: Counter[str]) -> None:
    """Count waits and bytes of this process from now on."""
    import torch
    import torch.distributed as dist
    from megatron.core.distributed import param_and_grad_buffer as buffers

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # Under sequence parallelism megatron compares random states, which are on the host.
            seen[name] += not sys._getframe(1).f_code.co_filename.endswith("tensor_parallel/random.py")
            return original(*args, **kwargs)

        return wrapper

    for name in WAITS:
        setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    torch.cuda.synchronize = counted("synchronize", torch.cuda.synchronize)

    def measured(name: str, argument: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            bytes_sent[name] += args[argument].nbytes
            return original(*args, **kwargs)

        return wrapper

    buffers.dist_reduce_scatter_func = measured("gradients", 1, buffers.dist_reduce_scatter_func)
    buffers.dist_all_gather_func = measured("weights", 0, buffers.dist_all_gather_func)
    batched = dist.batch_isend_irecv

    def sent(p2p_op_list: list[Any]) -> Any:
        bytes_sent["pipeline"] += sum(o.tensor.nbytes for o in p2p_op_list if o.op is dist.isend)
        return batched(p2p_op_list)

    dist.batch_isend_irecv = sent


def work(layout: dict[str, Any], reward: bool, reduce: str) -> dict[str, Any]:
    """Return the last process's counts: waits per row and step, bytes of a step of `ROWS[1]` rows per replica."""
    import numpy as np

    from steerlm.attributes import AttributeSchema
    from steerlm.megatron.engine import build_engine
    from steerlm.megatron.parallel import finish
    from steerlm.models.shape import ModelShape
    from steerlm.training.config import RewardSettings, TextSettings
    from steerlm.training.data import Row, Sample
    from steerlm.training.layout import LayoutSettings
    from steerlm.training.objectives.likelihood import Likelihood
    from steerlm.training.objectives.reward import RewardObjective

    shape = ModelShape(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    names = AttributeSchema().names
    settings = (RewardSettings if reward else TextSettings)(max_steps=10, reduce_gradients=reduce)
    learn: Any = RewardObjective(settings, None, AttributeSchema()) if reward else Likelihood()  # type: ignore[arg-type]
    engine = build_engine(
        model_folder=None,
        shape=shape,
        outputs=len(names) if reward else None,
        settings=settings,
        layout=LayoutSettings(**layout),
    )
    draw = np.random.default_rng(0)

    def sample() -> Sample:
        ids = draw.integers(1, 96, draw.integers(20, 60)).astype(np.int32)
        weights = np.full(len(ids), not reward, np.float32)
        weights[0] = 0
        return Sample(ids, weights, np.ones(len(names), np.float32) if reward else None, count=1)

    def step(rows: int) -> None:
        mine = [Row((sample(),)) for _ in range(rows)]
        engine.step(mine, learn, 1e-4, rows * engine.layout.dp_size)

    seen: Counter[str] = Counter()
    bytes_sent: Counter[str] = Counter()
    step(2)
    count(seen, bytes_sent)
    steps = []
    for rows in ROWS:
        seen.clear()
        bytes_sent.clear()
        step(rows)
        steps.append((Counter(seen), Counter(bytes_sent)))
    (few, _), (many, total) = steps
    per_row = {name: (many[name] - few[name]) / (ROWS[1] - ROWS[0]) for name in many}
    finish()
    return {
        "last": engine.layout.rank == engine.layout.world_size - 1,
        "parameters": sum(p.numel() for p in engine.model.parameters()),
        "row": {name: n for name, n in per_row.items() if n},
        "step": {name: n for name in many if (n := few[name] - ROWS[0] * per_row[name])},
        "bytes": dict(total),
    }


def run(name: str, reward: bool, reduce: str) -> dict[str, Any]:
    """Run a layout and return the counts of its last process."""
    layout = LAYOUTS[name]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(layout.get("devices", 1))]
    options = ["--layout", name, "--reduce", reduce, *(["--reward"] if reward else [])]
    done = subprocess.run([sys.executable, *launch, __file__, *options], capture_output=True, text=True, check=True)
    counts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", choices=LAYOUTS, help=argparse.SUPPRESS)
    parser.add_argument("--reward", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--reduce", default="fp32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.layout:
        import logging

        import torch

        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        counts = work(LAYOUTS[options.layout], options.reward, options.reduce)
        if counts.pop("last"):
            print(json.dumps(counts), flush=True)
        return
    cases = [
        ("one process", False, "fp32"),
        ("pp2", False, "fp32"),
        ("pp2", True, "fp32"),
        ("tp2 sp pp2", True, "fp32"),
        ("dp2", False, "fp32"),
        ("dp2", False, "bf16"),
    ]
    for name, reward, reduce in cases:
        counts = run(name, reward, reduce)
        bytes_each = {
            kind: f"{n / counts['parameters']:.1f}" for kind, n in counts["bytes"].items() if kind != "pipeline"
        }
        print(
            f"{name:12} {'reward' if reward else 'text':6} gradients {reduce}: waits per row {counts['row'] or 0}, per "
            f"step {counts['step']}; bytes per step {counts['bytes']}, per parameter {bytes_each}",
            flush=True,
        )


if __name__ == "__main__":
    main()
